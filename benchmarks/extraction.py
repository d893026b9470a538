"""Feature extraction: its matrix products, bfloat16 (where the processor has it) against float32, the pipeline."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import inputs
from benchmarks.harness import THREADS, Row, less_is_better, measure, more_is_better
from neuralef.features import CHUNK, extract, to_tensor
from neuralef.precision import Precision, native_precisions

NAME = "extraction"
PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::mkldnn_convolution")
FUSED_ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"
TURNS = 4
PEAK_SIDE = 4096  # of the square matrices whose product gives the processor's peak


def run() -> Iterator[Row]:
    """Seconds an image, GFLOP/s beside the peak, share of matrix products, fidelity, and the whole pipeline."""
    size = inputs.study().profile.config.crop_size(inputs.study().bench.backbone.patch_size)
    case = f"{inputs.study().bench.backbone.spec.name}, {CHUNK} crops of {size} x {size}"
    with TemporaryDirectory() as folder:
        np.save(f"{folder}/crops.npy", inputs.photographs(CHUNK, size))
        sides = {precision: measure(backbone, folder, precision) for precision in native_precisions()}
        seconds = {precision: side.seconds / CHUNK for precision, side in sides.items()}
        if "bfloat16" in sides:
            yield less_is_better(NAME, case, "s an image", "float32", tuple(seconds.values()), 1.5)
            exact, fast = (torch.from_numpy(side.result) for side in sides.values())
            cosine = F.cosine_similarity(exact, fast, dim=-1).mean().item()
            yield more_is_better(NAME, case, "mean cosine of bfloat16 and float32", "asked", (0.999, cosine), 1)
        gigaflop = _gigaflop(folder)
        for precision, of_image in seconds.items():
            peak = 2 * PEAK_SIDE**3 / 1e9 / measure(product, precision).seconds
            rates = (peak, gigaflop / of_image)
            yield more_is_better(NAME, f"{case}, {precision}", "GFLOP/s", f"matmul of {PEAK_SIDE}", rates)
            share = measure(profiled, folder, precision, repeats=1).result
            yield more_is_better(NAME, f"{case}, {precision}", "share in matrix products", "asked", (0.9, share), 1)
        for precision in seconds:
            rates = measure(pipeline, precision, repeats=0).result
            yield more_is_better(NAME, f"extract(), {precision}", "images a second", "backbone alone", rates, 0.9)


def backbone(folder: str, precision: Precision) -> Callable[[], np.ndarray]:
    """The backbone alone on decoded crops."""
    network = inputs.study().bench.backbone
    crops = to_tensor(np.load(f"{folder}/crops.npy"))
    return lambda: network(crops, precision=precision).numpy()


def product(precision: Precision) -> Callable[[], torch.Tensor]:
    """One large square matrix product."""
    matrix = torch.randn(PEAK_SIDE, PEAK_SIDE, dtype=getattr(torch, precision))
    return lambda: matrix @ matrix


def profiled(folder: str, precision: Precision) -> Callable[[], float]:
    """Share of the time in matrix products, those of attention among them, by torch's profiler."""
    run_once = backbone(folder, precision)
    run_once()

    def share() -> float:
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            run_once()
        times = {event.key: event.self_cpu_time_total for event in recorded.key_averages()}
        return sum(times.get(name, 0) for name in (*PRODUCTS, FUSED_ATTENTION)) / sum(times.values())

    return share


def pipeline(precision: Precision) -> Callable[[], tuple[float, float]]:
    """Images a second of the backbone on decoded crops, and of :func:`neuralef.features.extract`.

    The latter decodes, crops, takes checksums and writes as well. They take turns, since a shared machine is not
    equally fast from minute to minute; the best of each counts.
    """
    bench = inputs.study().bench
    config = bench.config.updated({"precision": precision})
    images = _First(bench.dataset, 64)
    crops = to_tensor(inputs.photographs(64, config.crop_size(bench.backbone.patch_size)))

    def alone() -> None:
        for chunk in crops.split(CHUNK):
            bench.backbone(chunk, precision=precision)

    def whole() -> None:
        with TemporaryDirectory() as cache:
            extract(images, "train", bench.backbone, config, cache=Path(cache))

    def rates() -> tuple[float, float]:
        taken = [[_seconds(side) for side in (alone, whole)] for _ in range(TURNS)]
        return tuple(len(crops) / min(of_side) for of_side in zip(*taken, strict=True))

    return rates


def _seconds(work: Callable[[], None]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


class _First:
    """The first images of a dataset's ``train`` split."""

    def __init__(self, dataset, images: int):
        self._dataset = dataset
        self._ids = dataset.ids("train")[:images]
        self.name = dataset.name
        self.image = dataset.image
        self.reader_modules = dataset.reader_modules

    def ids(self, _split: str) -> list[str]:
        return self._ids

    def image_fingerprint(self, _split: str) -> str:
        return f"first {len(self._ids)}"


def _gigaflop(folder: str) -> float:
    """Operations of one image in 1e9, counted as they ran; fused attention would hide its own."""
    network = inputs.study().bench.backbone
    crop = to_tensor(np.load(f"{folder}/crops.npy")[:1])
    torch.set_num_threads(THREADS)
    with FlopCounterMode(display=False) as counter:
        network(crop, precision="bfloat16")
    return counter.get_total_flops() / 1e9
