r"""Time and memory of the exact decomposition and of neural training as the number of patches N grows.

===================  ======================  =========================================  =============
part                 time                    why                                        memory
===================  ======================  =========================================  =============
kernel, all patches  :math:`O(N^2 C)`        every pair is compared (Eq. 2)             :math:`O(N k)`
Lanczos              :math:`O(N (k + K) p)`  p products with O(N k) stored entries,     :math:`O(N K)`
                                             each made orthogonal to O(K) vectors
neural, one epoch    :math:`O(N B C)`        a step for each batch: a kernel on B       none in N
                                             patches, one in ``patch_stride`` squared
===================  ======================  =========================================  =============

Memory is what must be held besides the features' file. The second row's p depends on the gaps between eigenvalues, so
products are counted. Photographs are grown out of the ones that are there, see :func:`grow`; every size is measured in
a process of its own and becomes one row of a CSV file, where it is found the next time.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor
from tqdm.auto import tqdm

from neuralef import provenance
from neuralef.config import Config
from neuralef.errors import InputError
from neuralef.features import ALL, FeatureStore
from neuralef.measuring import measure
from neuralef.results import append_rows, read_rows
from neuralef.spectral import principal_eigenvectors
from neuralef.training import kernel_of, train

Side = Literal["exact", "neural"]
SIDES: tuple[Side, ...] = ("exact", "neural")

REPEATS: dict[Side, int] = {"exact": 0, "neural": 1}
"""Calls after the one whose memory is measured; the last gives the times. The first steps of a training are slow, and
at small sizes there are no others."""

NOISE = 0.1
"""Noise on a photograph that is used again, over the standard deviation of each channel."""

COLUMNS = (
    "setting",
    "side",
    "patches",
    "images",
    "clusters",
    "seconds",
    "kernel_s",
    "solve_s",
    "entries",
    "products",
    "steps",
    "peak_mb",
    "process_mb",
    "threads",
    "device",
    "git_sha",
    "dirty",
    "created",
)
KEY = ("setting", "side", "patches")
_MODULES = (
    "precision",
    "loops",
    "graph",
    "spectral",
    "eigenfunctions",
    "objective",
    "training",
    "measuring",
    "scaling",
)


@dataclass(frozen=True)
class GrownStore(FeatureStore):
    """More photographs than there are: the stored ones in random order, then again and again with noise.

    Attributes:
        base: Position of the stored photograph behind each, shape ``(images,)``.
        noise: Noise added to the features of each round, shape ``(rounds, h, w, sum C)``, float32; that of the first is
            0.
    """

    base: np.ndarray
    noise: np.ndarray

    def levels(self, chosen: np.ndarray | slice, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """All levels of some photographs, float32 ``(images, h, w, sum C)``, as in any store."""
        numbers = np.arange(len(self))[chosen]
        noise = self.noise[:, rows, columns][numbers // len(self.patches)]
        return super().levels(self.base[numbers], rows, columns) + torch.from_numpy(noise)

    def high(self, chosen: np.ndarray | slice) -> Tensor:
        """The high level of some photographs, float32 ``(images, h, w, C)``."""
        numbers = np.arange(len(self))[chosen]
        noise = self.noise[..., -self.channels[-1] :][numbers // len(self.patches)]
        return super().high(self.base[numbers]) + torch.from_numpy(noise)

    def colours(self, chosen: np.ndarray | slice, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """Photographs at patch resolution, without noise, float32 ``(images, h, w, 3)``."""
        return super().colours(self.base[np.arange(len(self))[chosen]], rows, columns)


def grow(store: FeatureStore, images: int, *, noise: float = NOISE, seed: int = 0) -> GrownStore:
    """A store of any number of photographs.

    The first round is the stored photographs, untouched. Each further round has one noise of its own, the same for all
    its photographs: what it costs to compute does not grow with the store, and costs of graph and training do not
    depend on what is near what. A round too many and copies are each other's only neighbours: keep rounds below the
    graph's k.

    Args:
        store: Store of the photographs there are.
        images: Number of photographs there shall be.
        noise: Noise of the further rounds, over the standard deviation of each channel.
        seed: Seed of order and noise.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(store))
    rounds = -(-images // len(store))
    _, deviation = store.channel_statistics if rounds > 1 else (None, torch.zeros(sum(store.channels)))
    drawn = rng.standard_normal((rounds, *store.patches.shape[1:]), dtype=np.float32)
    drawn[0] = 0
    return GrownStore(
        ids=tuple(f"grown-{index}" for index in range(images)),
        patches=store.patches,
        patch_colours=store.patch_colours,
        channels=store.channels,
        crop_size=store.crop_size,
        key=f"{store.key}-grown-{images}",
        extract_s=0.0,
        base=order[np.arange(images) % len(store)],
        noise=noise * deviation.numpy() * drawn,
    )


class CountedKernel:
    """A kernel that counts its products with a vector, for a solver that does not tell.

    Args:
        kernel: Symmetric kernel, shape ``(N, N)``; kept in double precision, in which the solver wants it.
    """

    def __init__(self, kernel: sp.csr_array):
        self.kernel = kernel.astype(np.float64)
        self.shape, self.dtype = self.kernel.shape, self.kernel.dtype
        self.products = 0

    def astype(self, dtype: Any) -> "CountedKernel":
        """Itself, so that one number counts all products; only double precision can be had."""
        if np.dtype(dtype) != self.dtype:
            raise ValueError(f"a counted kernel is {self.dtype}, not {np.dtype(dtype)}")
        return self

    def matvec(self, vector: np.ndarray) -> np.ndarray:
        """The product, counted."""
        self.products += 1
        return self.kernel @ vector

    __matmul__ = matvec


def fewest_images(store: FeatureStore, patches: int, *, stride: int = 1) -> int:
    """Fewest photographs with so many patches, each ``stride``-th of a row and column taken.

    Such a few load the compiled loops before a measurement: memory that a warm-up leaves behind is not counted.
    """
    return -(-patches // math.prod(side // stride for side in store.grid))


def exact(content: dict[str, Any], images: int, config: Config, clusters: int) -> Callable[[], dict[str, float]]:
    """A side: the kernel over all patches of ``images`` photographs, and its ``clusters`` principal eigenvectors.

    Args:
        content: The stored photographs, from :func:`portable`.
        images: Number of photographs to grow the stored ones to.
        config: Hyper-parameters of the kernel.
        clusters: Number of eigenvectors.
    """
    store = opened(content)
    grown = grow(store, images)
    _exact(grow(store, fewest_images(store, config.feature_neighbors + 1)), config, 2)
    return lambda: _exact(grown, config, clusters)


def neural(content: dict[str, Any], images: int, config: Config, clusters: int) -> Callable[[], dict[str, float]]:
    """A side: one epoch of training over ``images`` photographs, kernels included; arguments as for :func:`exact`."""
    store = opened(content)
    grown = grow(store, images)
    epoch = config.updated({"epochs": 1})
    fewest = fewest_images(store, max(clusters, config.feature_neighbors + 1), stride=config.patch_stride)
    train(grow(store, fewest), epoch, num_eigenfunctions=clusters, seed=0, progress=False)

    def trained() -> dict[str, float]:
        began = perf_counter()
        history = train(grown, epoch, num_eigenfunctions=clusters, seed=0, progress=False).history
        return {"seconds": perf_counter() - began, "steps": len(history)}

    return trained


def portable(store: FeatureStore) -> dict[str, Any]:
    """What another process needs to open a store: a whole memory map travels as the name of its file."""
    fields = {name: getattr(store, name) for name in FeatureStore.__dataclass_fields__}
    return {name: _file_or_array(value) if isinstance(value, np.ndarray) else value for name, value in fields.items()}


def opened(content: dict[str, Any]) -> FeatureStore:
    """The store with its arrays in memory, read before anything is measured: a file's pages would count by chance."""
    arrays = {name: np.load(value) for name, value in content.items() if isinstance(value, Path)}
    return FeatureStore(**{**content, **arrays})


def measure_sizes(
    store: FeatureStore,
    config: Config,
    path: Path,
    *,
    sizes: Sequence[int],
    clusters: int,
    sides: Sequence[Side] = SIDES,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure every size, the smallest first; a size that the file already holds is not measured again.

    Args:
        store: Store of the photographs to grow.
        config: Hyper-parameters of kernel, psi and batches.
        path: CSV file of :data:`COLUMNS` that keeps the rows.
        sizes: Numbers of patches; rounded to whole photographs, at least one.
        clusters: Number of eigenvectors, and of functions of psi.
        sides: Sides to measure, of :data:`SIDES`.
        progress: Whether to show a progress bar.

    Returns:
        The rows of these sizes under these settings, on this machine, ascending.

    Raises:
        InputError: If a size is no positive number, too small for the graph, or its process was killed.
    """
    T = math.prod(store.grid)
    if not sizes or min(sizes) < 1:
        raise InputError(f"sizes are {list(sizes)}; they must be numbers of patches, at least one and all positive")
    counts = sorted({max(1, round(size / T)) for size in sizes})
    if counts[0] * T <= max(config.feature_neighbors, clusters):
        raise InputError(
            f"{counts[0] * T} patches are too few for {config.feature_neighbors} neighbours and {clusters} "
            "eigenvectors; raise the smallest of sizes"
        )
    # A row is found again by all that its numbers depend on: data, settings, code, machine.
    code = provenance.code_digest(*_MODULES)
    setting = provenance.digest(store.key, asdict(config), clusters, NOISE, code, provenance.device())
    done = _read(path, setting)
    wanted = [(count, side) for count in counts for side in sides]
    bar = tqdm(wanted, desc="measuring", unit="size", disable=not progress)
    for count, side in bar:
        bar.set_postfix(side=side, patches=count * T)
        if ((done["patches"] == count * T) & (done["side"] == side)).any():
            continue
        append_rows(path, [_row(setting, side, store, count, config, clusters)], columns=COLUMNS, key=KEY)
    rows = _read(path, setting)
    chosen = rows["patches"].isin([count * T for count in counts]) & rows["side"].isin(list(sides))
    return rows[chosen].sort_values(["side", "patches"]).reset_index(drop=True)


@dataclass(frozen=True)
class PowerLaw:
    """``coefficient * N ** exponent``."""

    coefficient: float
    exponent: float

    def at(self, size: np.ndarray | float) -> np.ndarray | float:
        """Its value at a size."""
        return self.coefficient * size**self.exponent

    def reaches(self, limit: float) -> float:
        """The size at which it reaches a limit; infinite where it does not grow, or past any size that counts."""
        if not self.exponent > 0:
            return math.inf
        exponent = math.log(limit / self.coefficient) / self.exponent
        return math.exp(exponent) if exponent < 60 else math.inf


def reached_together(laws: Sequence[PowerLaw], limit: float) -> float:
    """The size, to a hundredth, at which a sum of power laws reaches a limit; infinite where it does not up to 1e26."""
    sizes = np.geomspace(1, 1e26, 6001)
    above = np.flatnonzero(sum(law.at(sizes) for law in laws if law.exponent > 0) >= limit)
    return float(sizes[above[0]]) if len(above) else math.inf


def fit_power_law(sizes: np.ndarray, values: np.ndarray) -> PowerLaw:
    """Least squares on logarithms.

    Args:
        sizes: Positive sizes, at least two of them different, shape ``(n,)``.
        values: Positive values at the sizes, shape ``(n,)``; one that is not (nothing measurable) is left out.

    Returns:
        The fitted law; both of its numbers are NaN where fewer than two sizes are left.
    """
    used = np.asarray(values) > 0
    x, y = np.log(np.asarray(sizes, dtype=float)[used]), np.log(np.asarray(values, dtype=float)[used])
    if len(np.unique(x)) < 2:
        return PowerLaw(math.nan, math.nan)
    exponent, constant = np.polyfit(x, y, 1)
    return PowerLaw(float(np.exp(constant)), float(exponent))


def _exact(store: FeatureStore, config: Config, clusters: int) -> dict[str, float]:
    began = perf_counter()
    kappa = kernel_of(store.high(ALL), store.colours(ALL), config)
    built = perf_counter()
    counted = CountedKernel(kappa)
    principal_eigenvectors(counted, clusters)
    solved = perf_counter()
    return {
        "seconds": solved - began,
        "kernel_s": built - began,
        "solve_s": solved - built,
        "entries": kappa.nnz,
        "products": counted.products,
    }


def _row(setting: str, side: Side, store: FeatureStore, images: int, config: Config, clusters: int) -> dict[str, Any]:
    patches = images * math.prod(store.grid)
    measured = measure(
        {"exact": exact, "neural": neural}[side],
        portable(store),
        images,
        config,
        clusters,
        repeats=REPEATS[side],
        threads=torch.get_num_threads(),
        remedy=f"leave its size of {patches:,} patches out",
    )
    unused = dict.fromkeys(("kernel_s", "solve_s", "entries", "products", "steps"), "")
    return {
        **unused,
        **{name: value for name, value in provenance.stamp().items() if name in COLUMNS},
        **{name: round(value, 4) for name, value in measured.result.items()},
        "setting": setting,
        "side": side,
        "patches": patches,
        "images": images,
        "clusters": clusters,
        "peak_mb": round(measured.peak_mb, 1),
        "process_mb": round(measured.process_mb, 1),
    }


def _read(path: Path, setting: str) -> pd.DataFrame:
    rows = read_rows(path, COLUMNS, text=("setting", "git_sha"))
    return rows[rows["setting"] == setting]


def _file_or_array(array: np.ndarray) -> Path | np.ndarray:
    if isinstance(array, np.memmap):
        path = Path(array.filename)
        if np.load(path, mmap_mode="r").shape == array.shape:
            return path
    return np.array(array)
