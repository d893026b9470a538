"""Sliding windows over a photograph of Cityscapes' size in 256 clusters: memory and time, backbone included or not."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import inputs
from benchmarks.harness import Row, less_is_better, measure, more_is_better
from neuralef.clustering import EigenfunctionHead
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.protocols import PAPER_SLIDING, WindowLogits
from neuralef.segmentation import Segmenter

NAME = "sliding"
SIZE = (1024, 2048)
CLUSTERS = 256
LIMIT_MB = 4000


def run() -> Iterator[Row]:
    """The whole evaluation of one photograph; merging alone, against all probabilities at once."""
    case = f"{SIZE[0]} x {SIZE[1]}, K = {CLUSTERS}"
    whole = measure(photograph, repeats=0)
    yield less_is_better(
        NAME, f"{case}, photograph to map", "peak of the process, MB", "limit", (LIMIT_MB, whole.process_mb), 1
    )
    theirs, ours = (measure(side, repeats=1) for side in (at_once, in_strips))
    case = f"{case}, logits of 8 windows to map"
    yield less_is_better(NAME, case, "peak memory, MB", "all pixels at once", (theirs.peak_mb, ours.peak_mb))
    yield less_is_better(NAME, case, "time, s", "all pixels at once", (theirs.seconds, ours.seconds))
    same = (theirs.result == ours.result).mean()
    yield more_is_better(NAME, case, "share of equal pixels", "asked", (0.9999, same), 1)


def photograph() -> Callable[[], np.ndarray]:
    """``Segmenter`` with a psi of the shape ``quick`` trains."""
    bench, config = inputs.study().bench, inputs.study().profile.config
    psi = Eigenfunctions.of(config, sum(bench.backbone.channels), CLUSTERS, seed=0)
    segmenter = Segmenter(
        bench.backbone,
        EigenfunctionHead(psi.eval(), config.precision, config.temperature_end),
        crop_size=config.crop_size(bench.backbone.patch_size),
        precision=config.precision,
        sliding=PAPER_SLIDING["cityscapes"],
    )
    small = Image.fromarray(bench.dataset.image(bench.dataset.ids("train")[0]))
    image = np.asarray(small.resize(SIZE[::-1], Image.Resampling.BILINEAR))
    return lambda: segmenter(image)


def in_strips() -> Callable[[], np.ndarray]:
    """Our merging, some rows at a time."""
    return _windows().clusters


def at_once() -> Callable[[], np.ndarray]:
    """Every window up-sampled, softmaxed and added to one array of all pixels."""
    windows = _windows()
    height, width = windows.window

    @torch.inference_mode()
    def whole() -> np.ndarray:
        total, count = torch.zeros(CLUSTERS, *SIZE), torch.zeros(SIZE)
        for logits, (y, x) in zip(windows.logits, windows.corners, strict=True):
            planes = torch.from_numpy(logits).permute(2, 0, 1)[None] / windows.temperature
            up = F.interpolate(planes, windows.window, mode="bilinear", align_corners=False)[0]
            total[:, y : y + height, x : x + width] += up.softmax(dim=0)
            count[y : y + height, x : x + width] += 1
        return total.div_(count).argmax(dim=0).numpy()

    return whole


def _windows() -> WindowLogits:
    sliding = PAPER_SLIDING["cityscapes"]
    corners, window = sliding.corners(SIZE), (sliding.window,) * 2
    side = sliding.window // 16
    logits = 2.5 * np.random.default_rng(0).standard_normal((len(corners), side, side, CLUSTERS), dtype=np.float32)
    return WindowLogits(
        logits=logits, corners=corners, window=window, covered=window, resized=SIZE, size=SIZE, temperature=0.3
    )
