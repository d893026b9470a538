"""The dense CRF at the size of a CamVid frame: seconds and memory of an image, and what processes add."""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from benchmarks import inputs
from benchmarks.harness import Row, less_is_better, measure, more_is_better
from neuralef.crf import CRFImage, dense_crf, prepare_process, refine, require
from neuralef.errors import InputError
from neuralef.protocols import WindowLogits

NAME = "crf"
SIZE = (360, 480)
GRID = (26, 35)
CLUSTERS = 64
OCCURRING = 43
"""Clusters that psi of ``quick`` gives more than the clip on frames of CamVid: 41 to 44 of 64."""

SECONDS = 3
IMAGES = 6


def run() -> Iterator[Row]:
    """An image by itself; with clusters that do not occur; in two processes."""
    try:
        require("colour")
    except InputError as error:
        tqdm.write(f"crf: not run ({error})")
        return
    case = f"{SIZE[1]} x {SIZE[0]}, {CLUSTERS} clusters"
    whole = measure(crf, "colour", CLUSTERS)
    for mode, found in (("colour", whole), ("black", measure(crf, "black", CLUSTERS))):
        yield less_is_better(NAME, f"{case}, {mode}", "time an image, s", "limit", (SECONDS, found.seconds), 1)
    fewer = measure(crf, "colour", OCCURRING)
    seconds, memory = ((getattr(whole, name), getattr(fewer, name)) for name in ("seconds", "peak_mb"))
    case = f"{case}, {OCCURRING} of which occur"
    yield less_is_better(NAME, case, "time an image, s", "all occur", seconds)
    yield less_is_better(NAME, case, "peak memory, MB", "all occur", memory)
    alone, apart = (measure(processes, count, repeats=1) for count in (1, 2))
    rates = (IMAGES / alone.seconds, IMAGES / apart.seconds)
    yield more_is_better(NAME, f"{case}, 2 processes", "images a second", "1 process", rates)


def crf(mode: CRFImage, occurring: int) -> Callable[[], np.ndarray]:
    """One photograph, in a process such as :func:`neuralef.crf.refine` starts."""
    ((_, logits, image),) = _pictures(1, occurring)
    probabilities = logits.probabilities()
    prepare_process()
    return lambda: dense_crf(probabilities, image, mode)


def processes(count: int) -> Callable[[], int]:
    """Some photographs, their processes' start included."""
    pictures = _pictures(IMAGES, OCCURRING)
    return lambda: sum(1 for _ in refine(pictures, "colour", processes=count))


def _pictures(count: int, occurring: int) -> list[tuple[str, WindowLogits, np.ndarray]]:
    """Photographs with smooth random logits of about psi's range; a cluster that does not occur lies far below."""
    dataset = inputs.study().bench.dataset
    rng = np.random.default_rng(0)
    pictures = []
    for image_id in dataset.ids("train")[:count]:
        photograph = Image.fromarray(dataset.image(image_id)).resize(SIZE[::-1], Image.Resampling.BILINEAR)
        logits = 2.5 * rng.standard_normal((1, *GRID, CLUSTERS), dtype=np.float32)
        logits[..., occurring:] -= 30
        windows = WindowLogits(
            logits=logits, corners=((0, 0),), window=SIZE, covered=SIZE, resized=SIZE, size=SIZE, temperature=0.3
        )
        pictures.append((image_id, windows, np.asarray(photograph)))
    return pictures
