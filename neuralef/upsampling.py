r"""From patch logits to pixels with the image as a guide: joint bilateral up-sampling.

A pixel takes the mean of the cluster probabilities of the patches around it, weighted by how near they are and by how
like the pixel's colour theirs is,

.. math:: p_k(x) \propto \sum_u \exp\Bigl(-\frac{\|x - u\|^2}{2 \sigma_s^2}
          - \frac{\|I(x) - \bar I(u)\|^2}{2 \sigma_c^2}\Bigr)\, p_k(u),

so that borders of clusters follow borders of colour, which bilinear interpolation cannot see.

References:
    Kopf, Cohen, Lischinski and Uyttendaele, *Joint Bilateral Upsampling*, SIGGRAPH 2007.
"""

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numba import njit, prange
from torch import Tensor

from neuralef.features import to_tensor

LEAST_WEIGHT = 1e-12
"""Amount added to the weight of every patch in reach: where none is like the pixel, all count alike."""

LEAST_LEAD = 1e-12
"""Least lead of the best cluster over the second, so that logits that are all equal are not divided by 0."""


@dataclass(frozen=True)
class Guide:
    """How strongly the image guides.

    Attributes:
        patches: Spread in space, sigma_s, in patches of the logits' grid.
        colour: Spread in colour, sigma_c, of channels in [0, 1].
        sharpness: Factor of the logits before they become probabilities; the logits are first divided by the median
            lead of an image's best cluster over its second, so that their scale does not matter.
    """

    patches: float = 1.5
    colour: float = 0.15
    sharpness: float = 1.0

    @property
    def reach(self) -> int:
        """Number of patches looked at in each direction."""
        return int(np.ceil(2.5 * self.patches))


def guided_map(logits: Tensor, image: np.ndarray, guide: Guide) -> np.ndarray:
    """The likeliest cluster of every pixel.

    Only clusters that some patch of the image likes best take part.

    Args:
        logits: Logits of the patches, shape ``(h, w, K)``.
        image: RGB image that the grid covers, shape ``(H, W, 3)``, uint8.
        guide: Spreads and sharpness.

    Returns:
        Cluster of every pixel, shape ``(H, W)``, uint16.
    """
    best = logits.flatten(0, 1).topk(min(2, logits.shape[-1]), dim=1).values
    lead = (best[:, 0] - best[:, -1]).median().clamp_min(LEAST_LEAD)
    probabilities = (guide.sharpness * logits / lead).softmax(dim=-1)
    present = logits.flatten(0, 1).argmax(dim=1).unique()
    pixels = to_tensor(image[None])
    colours = F.interpolate(pixels, size=logits.shape[:2], mode="area")[0].permute(1, 2, 0)
    chosen = np.empty(image.shape[:2], dtype=np.int64)
    _likeliest(
        probabilities[..., present].contiguous().numpy(),
        colours.contiguous().numpy(),
        pixels[0].permute(1, 2, 0).contiguous().numpy(),
        np.float32(0.5 / guide.patches**2),
        np.float32(0.5 / guide.colour**2),
        guide.reach,
        chosen,
    )
    return present.numpy()[chosen].astype(np.uint16)


@njit(parallel=True, cache=True)
def _likeliest(probabilities, colours, pixels, nearness, likeness, reach, chosen):
    """Argmax of the weighted means, ``(h, w, K)`` by ``(H, W, 3)`` to ``(H, W)``, in place."""
    h, w, K = probabilities.shape
    H, W = chosen.shape
    for y in prange(H):
        row = (y + 0.5) * h / H - 0.5
        means = np.empty(K, dtype=np.float32)
        for x in range(W):
            column = (x + 0.5) * w / W - 0.5
            means[:] = 0
            i, j = int(np.floor(row + 0.5)), int(np.floor(column + 0.5))
            for u in range(max(0, i - reach), min(h, i + reach + 1)):
                for v in range(max(0, j - reach), min(w, j + reach + 1)):
                    distance = np.float32((u - row) ** 2 + (v - column) ** 2)
                    difference = np.float32(0)
                    for c in range(3):
                        difference += (pixels[y, x, c] - colours[u, v, c]) ** 2
                    weight = np.exp(-nearness * distance - likeness * difference) + np.float32(LEAST_WEIGHT)
                    for k in range(K):
                        means[k] += weight * probabilities[u, v, k]
            chosen[y, x] = np.argmax(means)
