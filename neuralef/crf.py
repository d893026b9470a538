r"""Dense conditional random field over cluster probabilities (paper, section 4; Kraehenbuehl and Koltun's mean field).

.. math::
    E(x) = \sum_i -\log p_i(x_i) + \sum_{i<j} [x_i \ne x_j] \bigl(3\, \bar k^\mathrm{xy}_{ij}
           + 4\, \bar k^\mathrm{rgb}_{ij}\bigr), \qquad
    \bar k_{ij} = \frac{k_{ij}}{\sqrt{\sum_l k_{il} \sum_l k_{jl}}}

    k^\mathrm{xy}_{ij} = e^{-\|s_i - s_j\|^2 / 2}, \qquad
    k^\mathrm{rgb}_{ij} = e^{-\|s_i - s_j\|^2 / (2 \cdot 67^2) - \|c_i - c_j\|^2 / (2 \cdot 3^2)}

with positions s in pixels and colours c in 0..255, ten iterations. Both kernels are normalised symmetrically, the
library's default: all other pixels together count about 3 and 4, however many lie within 67 pixels. The probabilities
are softmaxed logits at the pixels of the result, those of Ours divided by the last temperature of the Gumbel-Softmax,
those of K-means as they are.

The CRF sees the image (``colour``). The official code hands it a black one in the 320-crop path: colours in
[0, 1] cast to uint8 (paper facts, section 4, item 9), so that its appearance term knows positions alone; ``black``
repeats that.

References:
    Kraehenbuehl and Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials*,
    arXiv:1210.5644, through ``pydensecrf2``.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from neuralef.allocation import keep_freed_memory
from neuralef.errors import InputError
from neuralef.protocols import WindowLogits

CRFImage = Literal["colour", "black"]
CRFMode = Literal["none", "colour", "black"]

ITERATIONS = 10
SMOOTHNESS_WEIGHT, SMOOTHNESS_XY = 3, 1
APPEARANCE_WEIGHT, APPEARANCE_XY, APPEARANCE_RGB = 4, 67, 3

CLIP = 1e-5
"""Least probability that counts, as in ``pydensecrf.utils``: -log of it is the greatest unary energy, 11.5."""


def require(mode: CRFMode) -> None:
    """Raise ``InputError`` if a CRF is asked for and its library is not installed."""
    if mode != "none":
        _library()


def dense_crf(probabilities: np.ndarray, image: np.ndarray, mode: CRFImage) -> np.ndarray:
    """The likeliest cluster of every pixel after mean-field inference.

    A cluster that no pixel gives more than :data:`CLIP` has the greatest unary energy everywhere, and no neighbour to
    draw it up: it is left out beforehand, which spares time and memory in proportion. Of 12 fields of random
    logits with 15 of 256 clusters left, 9 came out the same and 3 but for at most 6 of 7,056 pixels.

    Args:
        probabilities: Cluster probabilities of every pixel, shape ``(K, H, W)``, float32.
        image: RGB image that the probabilities are of, shape ``(H, W, 3)``, uint8.
        mode: Image that the appearance term sees: ``colour``, the given one, or ``black``.

    Returns:
        Cluster of every pixel, shape ``(H, W)``, uint16.

    Raises:
        InputError: If pydensecrf is not installed.
    """
    library = _library()
    kept = np.flatnonzero(probabilities.max(axis=(1, 2)) > CLIP)
    height, width = image.shape[:2]
    seen = np.array(image, order="C") if mode == "colour" else np.zeros(image.shape, dtype=np.uint8)
    field = library.DenseCRF2D(width, height, len(kept))
    field.setUnaryEnergy(-np.log(probabilities[kept].reshape(len(kept), -1).clip(CLIP, 1.0)))
    field.addPairwiseGaussian(sxy=SMOOTHNESS_XY, compat=SMOOTHNESS_WEIGHT)
    field.addPairwiseBilateral(sxy=APPEARANCE_XY, srgb=APPEARANCE_RGB, rgbim=seen, compat=APPEARANCE_WEIGHT)
    found = np.asarray(field.inference(ITERATIONS)).argmax(axis=0)
    return kept[found].reshape(height, width).astype(np.uint16)


def refine(
    pictures: Iterable[tuple[str, WindowLogits, np.ndarray]], mode: CRFImage, *, processes: int | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """:func:`dense_crf` of many images, in processes of one thread each.

    Logits travel to the processes at patch resolution and become probabilities there. Twice as many images as
    processes are under way, so that memory does not grow with the number of images. A process holds about ten times
    ``4 * K * H * W`` bytes, K counting the clusters that occur.

    Args:
        pictures: Id of every image, its logits, and the image at the resolution of the result, uint8 ``(H, W, 3)``.
        mode: Image that the appearance term sees: ``colour``, the given one, or ``black``.
        processes: Number of processes; default: the processors that this one may use.

    Yields:
        Image id and clusters, ``(H, W)``, uint16, in the order of ``pictures``.

    Raises:
        InputError: If pydensecrf is not installed, or a process ends before its image is done.
    """
    _library()
    processes = processes or _processors()
    context = multiprocessing.get_context("spawn")  # a fork would inherit the locks of torch's and numba's threads
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=prepare_process)
    waiting: deque[tuple[str, Future]] = deque()
    try:
        for image_id, logits, image in pictures:
            # Every process would open a context of its own on a GPU.
            waiting.append((image_id, pool.submit(_refined, replace(logits, device="cpu"), image, mode)))
            if len(waiting) >= 2 * processes:
                yield _first_of(waiting)
        while waiting:
            yield _first_of(waiting)
    except BrokenProcessPool as error:
        raise InputError(
            "a process of the CRF ended early, most likely because memory ran out: let fewer run at once (Linux: by a "
            "command that starts with `taskset --cpu-list 0,1`), use fewer clusters, smaller images, or --set crf=none "
            "(a script of your own needs `if __name__ == '__main__':` around its calls)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def prepare_process() -> None:
    """One thread, and memory that is kept, for a process that does nothing else; its parent alone heeds Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    # The arrays of every iteration are larger than what is kept by default: without this a third of the time went to
    # mapping them anew at 480 x 360 pixels and 64 clusters. A process of its own may keep all.
    keep_freed_memory(2**31 - 1, whatever_size=True)


def _refined(logits: WindowLogits, image: np.ndarray, mode: CRFImage) -> np.ndarray:
    return dense_crf(logits.probabilities(), image, mode)


def _first_of(waiting: deque[tuple[str, Future]]) -> tuple[str, np.ndarray]:
    image_id, future = waiting.popleft()
    return image_id, future.result()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _library():
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise InputError(
            "crf: not installed; `pip install --editable '.[crf]'` builds pydensecrf2 (it needs a C++ compiler), or "
            "leave it out with --set crf=none"
        ) from error
    return densecrf
