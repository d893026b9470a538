"""Where a number comes from: code, versions, machine."""

import ast
import json
import math
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from neuralef.paths import PACKAGE
from neuralef.precision import Device

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "torchvision", "timm", "numba", "pillow")

_SOURCES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
    for path in PACKAGE.rglob("*.py")
}
"""The package's modules as this process met them: what is edited later must not name what older code computes."""


def module_names() -> tuple[str, ...]:
    """Names of all modules of the package, as :func:`code_digest` wants them."""
    return tuple(sorted(_SOURCES))


@cache
def code_digest(*modules: str) -> str:
    """Digest of what the named modules do, e.g. ``code_digest("graph", "training")``.

    Part of every cache key: a result computed by other code is never reused. Comments, docstrings and layout do not
    count.
    """
    digest = sha256()
    for module in modules:
        digest.update(_meaning(_SOURCES[module.replace(".", "/")]))
    return digest.hexdigest()


@cache
def _meaning(source: str) -> bytes:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [item for item in body if not _is_docstring(item)]
    return ast.dump(tree).encode()


def digest(*parts: Any) -> str:
    """Sixteen hex digits that stand for some JSON values."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def stamp(computed_on: Device = "cpu") -> dict[str, Any]:
    """The provenance columns of a result that do not depend on what was run, but for the device; the time is now."""
    sha, dirty = git_state()
    return {
        "git_sha": sha,
        "dirty": dirty,
        "versions": versions(),
        "device": device(computed_on),
        "threads": torch.get_num_threads(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def measured_stamp(computed_on: Device, **seconds: float) -> dict[str, Any]:
    """:func:`stamp` of a run that ends now, with what it took.

    Args:
        computed_on: Device of the run.
        **seconds: Seconds of its stages, by the column each stands in.
    """
    return {
        **stamp(computed_on),
        **{name: round(value, 3) for name, value in seconds.items()},
        "peak_rss_mb": round(peak_rss_mb(), 1),
    }


def git_state(folder: Path = PACKAGE) -> tuple[str, bool]:
    """Full SHA of the commit and whether tracked files differ from it.

    ``("unknown", True)`` outside a checkout, and in one of something else, which tracks no file of the folder.
    """
    try:
        _git("ls-files", "--error-unmatch", ".", folder=folder)
        sha = _git("rev-parse", "HEAD", folder=folder)
        return sha, bool(_git("status", "--porcelain", "--untracked-files=no", folder=folder))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def versions() -> str:
    """Python and the packages that numbers depend on, ``"python 3.11.7; numpy ..."``."""
    return "; ".join([f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])


def device(computed_on: Device = "cpu") -> str:
    """The processor's name, the vector instructions torch uses of it, and the threads; all three decide speed.

    Where a GPU computes its name comes first.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    gpu = f"{torch.cuda.get_device_name()}; " if computed_on == "cuda" else ""
    return f"{gpu}{name} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads used"


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB of 1e6 bytes; NaN on systems that do not tell.

    In a forked kernel (:mod:`neuralef.kernels`) this counts what was allocated before the fork, and of the libraries
    only the pages it has used itself: some 150 MB less than in one that has imported them.
    """
    peak = resident_mb("VmHWM")  # on Linux getrusage starts from the memory of the process that started this one
    if not math.isnan(peak):
        return peak
    try:
        import resource  # POSIX alone has it
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def resident_mb(name: Literal["VmRSS", "VmHWM"]) -> float:
    """Resident memory of this process, now or at most, in MB of 1e6 bytes; NaN where the system does not tell.

    There is no ``/proc`` on macOS, and that of some sandboxes, as gVisor, lacks ``VmHWM``.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    found = status.read_text().partition(f"{name}:")[2].split()
    return int(found[0]) * 1024 / 1e6 if found else float("nan")  # the system says kB and means KiB


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _git(*arguments: str, folder: Path) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
