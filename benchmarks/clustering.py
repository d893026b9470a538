"""K-means on a million patches against scikit-learn's MiniBatchKMeans; counting pixels."""

from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from benchmarks import inputs
from benchmarks.harness import Row, less_is_better, measure, more_is_better
from neuralef.evaluation import image_counts
from neuralef.kmeans import Centroids, fit_kmeans

NAME = "clustering"
PATCHES = 1_000_000
MEMORY_LIMIT_MB = 2000  # of the whole process, patches included
MEGAPIXELS = 20
PIXELS_PER_CORE = 100  # megapixels a second


def run() -> Iterator[Row]:
    """Time, inertia and memory for two K; megapixels a second."""
    with TemporaryDirectory() as folder:
        np.save(f"{folder}/points.npy", _points())
        for K in (64, 256):
            theirs, ours = (measure(side, folder, K, repeats=1) for side in (minibatch, sample_and_pass))
            case = f"{PATCHES:,} patches x 384, K = {K}"
            yield less_is_better(NAME, case, "time, s", "MiniBatchKMeans", (theirs.seconds, ours.seconds), 1)
            inertia = tuple(_inertia(folder, side.result) for side in (theirs, ours))
            yield less_is_better(NAME, case, "inertia a patch", "MiniBatchKMeans", inertia, 1)
            yield less_is_better(
                NAME, case, "memory of the process, MB", "limit", (MEMORY_LIMIT_MB, ours.process_mb), 1
            )
    for K, classes in ((64, 8), (256, 59), (512, 150)):
        ours = measure(counting, K, classes)
        rates = (PIXELS_PER_CORE, MEGAPIXELS / ours.seconds)
        case = f"contingency {K} x {classes}, one thread"
        yield more_is_better(NAME, case, "megapixels a second", "asked", rates, 1)


def minibatch(folder: str, K: int) -> Callable[[], np.ndarray]:
    """scikit-learn's own answer to many points, as it comes."""
    points = np.load(f"{folder}/points.npy").astype(np.float32)
    return lambda: MiniBatchKMeans(K, n_init=1, random_state=0).fit(points).cluster_centers_


def sample_and_pass(folder: str, K: int) -> Callable[[], np.ndarray]:
    """Ours, on patches in float16 as a feature store keeps them, mapped from disk."""
    points = np.load(f"{folder}/points.npy", mmap_mode="r")
    return lambda: fit_kmeans(points, K, seed=0, iterations=30).values


def counting(K: int, classes: int) -> Callable[[], int]:
    """Contingency of full HD maps with regions and some ignored pixels."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    blocks = (MEGAPIXELS, 20, 20)  # images of one megapixel, regions of 50 x 50 pixels
    clusters = generator.integers(0, K, blocks, dtype=np.uint16).repeat(50, 1).repeat(50, 2)
    labels = generator.integers(0, classes, blocks, dtype=np.uint8).repeat(50, 1).repeat(50, 2)
    labels[:, :20] = 255

    def count() -> int:
        return sum(
            int(image_counts(of_image, truth, K, classes).sum())
            for of_image, truth in zip(clusters, labels, strict=True)
        )

    return count


def _points() -> np.ndarray:
    """Patches of the training photographs, drawn with replacement and moved by a little noise, float16."""
    store = inputs.study().bench.train
    flat = store.patches.reshape(-1, store.patches.shape[-1])[:, -store.channels[-1] :]
    generator = np.random.default_rng(0)
    points = np.empty((PATCHES, store.channels[-1]), dtype=np.float16)
    for start in range(0, PATCHES, 50_000):
        chosen = np.sort(generator.integers(0, len(flat), min(50_000, PATCHES - start)))
        noise = generator.standard_normal((len(chosen), points.shape[1]), dtype=np.float32)
        points[start : start + len(chosen)] = flat[chosen] + 0.1 * noise
    return points[generator.permutation(PATCHES)]


def _inertia(folder: str, centres: np.ndarray) -> float:
    """Mean squared distance of a patch to its nearest centre."""
    centroids, total = Centroids(centres.astype(np.float32)), 0.0
    points = np.load(f"{folder}/points.npy", mmap_mode="r")
    for start in range(0, PATCHES, 50_000):
        part = np.array(points[start : start + 50_000], dtype=np.float32)
        total += float(((part - centroids.values[centroids.assign(part)]) ** 2).sum(dtype=np.float64))
    return total / PATCHES
