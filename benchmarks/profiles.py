"""The whole profile ``quick`` with an empty cache, the notebooks at ``smoke``, and the tests.

What the profiles write stays in ``results/bench/quick`` and ``results/bench/smoke``.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks import inputs
from benchmarks.harness import Row, less_is_better
from neuralef.paths import project_root, results_root

NAME = "profiles"
MINUTES = {"quick": 6, "smoke": 5}


def run() -> Iterator[Row]:
    """Minutes of the two profiles and of the tests; photographs and weights are there already."""
    inputs.study().bench.backbone  # noqa: B018 (fetches the weights)
    for profile, limit in MINUTES.items():
        out = results_root("bench") / profile
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "neuralef", "reproduce", "--profile", profile, "--out", str(out)]
        with TemporaryDirectory() as cache:
            environment = {**os.environ, "NEURALEF_CACHE": cache}
            began = perf_counter()
            subprocess.run(command, cwd=project_root(), env=environment, check=True)
            minutes = (perf_counter() - began) / 60
        yield less_is_better(NAME, f"neuralef reproduce --profile {profile}", "minutes", "limit", (limit, minutes), 1)
    began = perf_counter()
    subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=project_root(), check=True)
    minutes = (perf_counter() - began) / 60
    yield less_is_better(
        NAME, "make test, the smoke notebooks among it", "minutes", "limit", (MINUTES["smoke"], minutes), 1
    )
