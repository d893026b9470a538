"""From photograph to cluster map: ``Segmenter`` against its backbone, the map against whole up-sampled logits."""

from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import inputs
from benchmarks.harness import Row, less_is_better, measure, more_is_better
from neuralef.clustering import ClusterHead, EigenfunctionHead, FeatureKMeans, HiddenKMeans
from neuralef.datasets.crops import crop_image
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.features import to_tensor
from neuralef.kmeans import Centroids
from neuralef.precision import Precision, fastest_precision, native_precisions
from neuralef.segmentation import Segmenter, cluster_map

NAME = "inference"
IMAGES = 16
ROUNDS = 3
HEADS = ("kmeans", "ours", "ours_star")


def run() -> Iterator[Row]:
    """Throughput for each method, precision and K; cluster maps; growth of memory with the number of images."""
    for precision in native_precisions():
        for K in (64, 256):
            for method in HEADS:
                rates = measure(in_turns, method, K, precision, IMAGES, repeats=0).result
                case = f"Segmenter, {method}, K = {K}, {precision}"
                yield more_is_better(NAME, case, "images a second", "backbone alone", rates, 0.85)
    for K in (64, 256):
        theirs, ours = (measure(side, K) for side in (upsampled, tiled))
        case = f"logits 23 x 23 x {K} to a map of 322 x 322"
        yield less_is_better(NAME, case, "time, s", "interpolate, argmax", (theirs.seconds, ours.seconds))
        yield less_is_better(NAME, case, "peak memory, MB", "interpolate, argmax", (theirs.peak_mb, ours.peak_mb))
        same = (theirs.result == ours.result).mean()
        yield more_is_better(NAME, case, "share of equal pixels", "asked", (0.9999, same), 1)
    peaks = [
        measure(segmenter, "ours", 64, fastest_precision(), images, repeats=1).peak_mb
        for images in (IMAGES, 8 * IMAGES)
    ]
    yield less_is_better(NAME, f"Segmenter, {8 * IMAGES} images", "peak memory, MB", f"{IMAGES} images", tuple(peaks))


def in_turns(method: str, K: int, precision: Precision, images: int) -> Callable[[], tuple[float, float]]:
    """Images a second of the backbone alone, on decoded crops, and of ``Segmenter.crop``.

    They take turns, image by image, for the machine's own speed changes by a tenth within a minute; of every image the
    best of :data:`ROUNDS` counts.
    """
    whole, photographs = _segmenter(method, K, precision, images)
    crops = to_tensor(np.stack([crop_image(photograph, whole.crop_size) for photograph in photographs]))
    sides = (
        lambda index: whole.backbone(crops[[index]], precision=precision),
        lambda index: whole.crop(photographs[index]),
    )

    def rates() -> tuple[float, float]:
        best = np.full((images, len(sides)), np.inf)
        for _ in range(ROUNDS):
            for index, side in np.ndindex(best.shape):
                began = perf_counter()
                sides[side](index)
                best[index, side] = min(best[index, side], perf_counter() - began)
        return tuple(images / best.sum(axis=0))

    return rates


def segmenter(method: str, K: int, precision: Precision, images: int) -> Callable[[], int]:
    """``Segmenter.crop`` on decoded photographs: crop, backbone, head, map."""
    whole, photographs = _segmenter(method, K, precision, images)
    return lambda: sum(len(whole.crop(photograph)) for photograph in photographs)


def upsampled(K: int) -> Callable[[], np.ndarray]:
    """All logits at all pixels, then their argmax."""
    logits = _logits(K)

    def whole() -> np.ndarray:
        planes = logits.permute(2, 0, 1).contiguous().unsqueeze(0)
        return F.interpolate(planes, size=(322, 322), mode="bilinear", align_corners=False)[0].argmax(dim=0).numpy()

    return whole


def tiled(K: int) -> Callable[[], np.ndarray]:
    """Our cluster map, which up-samples only the logits that can win."""
    logits = _logits(K)
    cluster_map(logits[:4, :4], (8, 8))  # compiles
    return lambda: cluster_map(logits, (322, 322))


def _logits(K: int) -> torch.Tensor:
    bench = inputs.study().bench
    crops = to_tensor(inputs.photographs(1, 23 * bench.backbone.patch_size))
    return _head("kmeans", K, "float32").logits(bench.backbone(crops))[0]


def _segmenter(method: str, K: int, precision: Precision, images: int) -> tuple[Segmenter, list[np.ndarray]]:
    """A segmenter with its loops compiled, and photographs for it."""
    bench = inputs.study().bench
    size = bench.config.crop_size(bench.backbone.patch_size)
    whole = Segmenter(bench.backbone, _head(method, K, precision), size, precision)
    cluster_map(torch.zeros(4, 4, 2), (8, 8))  # compiles
    return whole, [bench.dataset.image(image_id) for image_id in bench.dataset.ids("train")[:images]]


def _head(method: str, K: int, precision: Precision) -> ClusterHead:
    """A head of the shape ``quick`` trains; what it has learned does not change its cost."""
    bench, config = inputs.study().bench, inputs.study().profile.config
    generator = torch.Generator().manual_seed(0)
    channels = bench.backbone.channels
    if method == "kmeans":  # centroids are patches, so that a map has as many regions as a fitted one
        crops = to_tensor(inputs.photographs(4, 16 * bench.backbone.patch_size))
        features = bench.backbone(crops)[..., -channels[-1] :].flatten(0, 2)
        chosen = torch.randperm(len(features), generator=generator)[:K]
        return FeatureKMeans(Centroids(features[chosen].numpy()), channels[-1], None)
    psi = Eigenfunctions.of(config, sum(channels), K, seed=0).eval()
    if method == "ours":
        return EigenfunctionHead(psi, precision, config.temperature_end)
    centroids = torch.randn(K, psi.head.in_features, generator=generator).numpy()
    return HiddenKMeans(psi, Centroids(centroids), precision)
