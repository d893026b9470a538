import math
import runpy
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from neuralef import provenance

MODULE = '''"""What it is."""

LIMIT = 3
"""Why three."""


def double(x):
    """Twice."""
    return 2 * x
'''
SAME = {
    "docstrings": MODULE.replace("Twice.", "Two times.").replace("What it is.", "Else."),
    "no docstrings": "LIMIT = 3\ndef double(x):\n    return 2 * x\n",
    "comments": MODULE.replace("LIMIT = 3", "LIMIT = 3  # three"),
    "layout": MODULE.replace("2 * x", "(2   *\n        x)"),
}
OTHER = {
    "constant": MODULE.replace("LIMIT = 3", "LIMIT = 4"),
    "expression": MODULE.replace("2 * x", "x * 2"),
    "name": MODULE.replace("double", "twice"),
    "string in use": MODULE.replace("LIMIT = 3", "LIMIT = '3'"),
    "body": MODULE.replace("    return", "    print(x)\n    return"),
}


@pytest.fixture
def digest(monkeypatch):
    """Digest of a module with the given text, in a package of its own."""

    def of(text, *, name="module"):
        monkeypatch.setattr(provenance, "_SOURCES", {name.replace(".", "/"): text})
        return provenance.code_digest.__wrapped__(name)

    return of


@pytest.mark.parametrize("text", SAME.values(), ids=SAME.keys())
def test_what_does_nothing_leaves_the_code_digest(digest, text):
    assert text != MODULE
    assert digest(text) == digest(MODULE)


@pytest.mark.parametrize("text", OTHER.values(), ids=OTHER.keys())
def test_what_does_something_changes_the_code_digest(digest, text):
    assert text != MODULE
    assert digest(text) != digest(MODULE)


def test_code_digest_finds_modules_of_subpackages(digest):
    assert digest(MODULE, name="inner.module") == digest(MODULE)


def test_code_digest_covers_every_module_named():
    assert provenance.code_digest("graph") != provenance.code_digest("training")
    assert provenance.code_digest("graph", "training") not in map(provenance.code_digest, ("graph", "training"))
    assert provenance.code_digest("graph") == provenance.code_digest.__wrapped__("graph")


def test_code_digest_is_of_what_was_imported_not_of_what_the_file_has_become(monkeypatch):
    before = provenance.code_digest.__wrapped__("graph")
    monkeypatch.setattr(Path, "read_text", lambda self: "BLOCK = 1")
    assert provenance.code_digest.__wrapped__("graph") == before
    assert {"graph", "datasets/base"} <= set(provenance.module_names())


def fake_git(folder, script, monkeypatch):
    """A ``git`` on the path that runs a shell script."""
    path = folder / "git"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(("status", "dirty"), [("", False), (" M neuralef/graph.py", True)])
def test_git_state_is_the_commit_and_whether_files_differ(tmp_path, monkeypatch, status, dirty):
    fake_git(tmp_path, f'case $1 in rev-parse) echo {SHA};; status) printf "%s" "{status}";; esac', monkeypatch)
    assert provenance.git_state() == (SHA, dirty)


def test_git_state_outside_a_checkout_is_unknown(tmp_path, monkeypatch):
    fake_git(tmp_path, 'echo "fatal: not a git repository" >&2; exit 128', monkeypatch)
    assert provenance.git_state() == ("unknown", True)


def test_git_state_within_a_checkout_of_something_else_is_unknown(tmp_path):
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "else"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *command], cwd=tmp_path, check=True)
    (tmp_path / "site-packages").mkdir()
    assert provenance.git_state(tmp_path / "site-packages") == ("unknown", True)


def test_git_state_without_git_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state() == ("unknown", True)


def test_versions_name_what_numbers_depend_on():
    listed = dict(part.split(" ", 1) for part in provenance.versions().split("; "))
    assert listed.keys() == {"python", *provenance.PACKAGES}
    assert all(listed[name] == version(name) for name in provenance.PACKAGES)


def test_device_names_the_threads_used():
    assert provenance.device().endswith(f", {torch.get_num_threads()} threads used")
    assert len(provenance.device().split(",")[0]) > 2


def test_peak_memory_counts_what_is_allocated():
    script = (
        "from neuralef.provenance import peak_rss_mb as peak; before = peak(); block = b'x' * (300 * 2**20); "
        "print(peak() - before)"
    )
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert 200 < float(grown) < 400  # what was freed before may be used again


def test_peak_memory_is_not_a_number_where_nothing_tells_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on a system that is not POSIX
    there = runpy.run_path(provenance.__file__)
    monkeypatch.setitem(there["peak_rss_mb"].__globals__, "resident_mb", lambda name: float("nan"))
    assert math.isnan(there["peak_rss_mb"]())


def test_memory_that_the_system_does_not_tell_is_not_a_number(monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: "VmSize:\t9 kB\nVmRSS:\t1000 kB\nThreads:\t2\n")  # gVisor's
    assert provenance.resident_mb("VmRSS") == 1.024
    assert math.isnan(provenance.resident_mb("VmHWM"))
