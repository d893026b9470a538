"""The whole profile ``quick`` with an empty cache, and the notebooks at ``smoke``."""

import os
import subprocess
import sys
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks import inputs
from benchmarks.harness import Row, less_is_better
from neuralef.paths import project_root

NAME = "profiles"
MINUTES = {"quick": 6, "smoke": 5}


def run() -> Iterator[Row]:
    """Minutes of both; photographs and weights are there already."""
    assert inputs.study().bench.backbone  # fetches the weights
    for profile, limit in MINUTES.items():
        with TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "neuralef", "reproduce", "--profile", profile, "--out", f"{folder}/out"]
            environment = {**os.environ, "NEURALEF_CACHE": f"{folder}/cache"}
            began = perf_counter()
            subprocess.run(command, cwd=project_root(), env=environment, check=True)
            minutes = (perf_counter() - began) / 60
        yield less_is_better(NAME, f"neuralef reproduce --profile {profile}", "minutes", "limit", (limit, minutes), 1)
    began = perf_counter()
    subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=project_root(), check=True)
    minutes = (perf_counter() - began) / 60
    yield less_is_better(NAME, "make test, the smoke notebooks among it", "minutes", "limit", (5, minutes), 1)
