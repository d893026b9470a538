"""Every folder the package reads or writes, named once."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PROFILES = PACKAGE / "profiles"
PAPER_NUMBERS = PACKAGE / "paper.csv"


def project_root() -> Path:
    """The checkout that holds ``notebooks/``; the current folder for an installed package."""
    checkout = PACKAGE.parent
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


ROOTS = ("NEURALEF_DATA", "NEURALEF_WEIGHTS", "NEURALEF_CACHE")
"""Variables of the environment that move what is read and kept."""


def fix_roots() -> None:
    """Make relative paths of :data:`ROOTS` absolute, so that notebooks, which run elsewhere, find the same folders."""
    for name in ROOTS:
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())


def data_root(root: str | Path | None = None) -> Path:
    """Where datasets lie: the argument, else ``$NEURALEF_DATA``, else ``data/`` of the checkout."""
    return Path(root or os.environ.get("NEURALEF_DATA") or project_root() / "data")


def weights_root() -> Path:
    """Where verified pretrained weights lie: ``$NEURALEF_WEIGHTS``, else ``weights/`` under the data root."""
    return Path(os.environ.get("NEURALEF_WEIGHTS") or data_root() / "weights")


def cache_root() -> Path:
    """Where features and trained eigenfunctions are kept: ``$NEURALEF_CACHE``, else ``cache/`` under the data root."""
    return Path(os.environ.get("NEURALEF_CACHE") or data_root() / "cache")


def notebooks_root() -> Path:
    """The notebooks' sources."""
    return project_root() / "notebooks"


def results_root(profile: str) -> Path:
    """Everything one profile writes: runs, ``results.csv``, tables, figures, executed notebooks, report."""
    return project_root() / "results" / profile


def reference_root(profile: str) -> Path:
    """The committed results of a documented run of ``profile``."""
    return project_root() / "results" / "reference" / profile
