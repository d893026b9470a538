r"""The training objective of neural eigenfunctions (paper, Eqs. 5-7).

With :math:`\Psi` of shape (B, K), columns of unit second moment, and :math:`R = \Psi^\top \kappa \Psi / B^2`, Eq. 5
maximises

.. math:: \sum_j R_{jj} - \beta \sum_j \sum_{i<j} \hat R_{ij}^2

where :math:`\hat R` is :math:`R` with a stop-gradient on its left factor. Function j climbs the kernel while pushed
away from functions 1 .. j-1, which do not feel the push: with w t (below) above
:func:`neuralef.fidelity.exactness_weight` they are the principal eigenfunctions in order at the optimum.

**Constants.** The official code uses columns of norm :math:`\sqrt t`, t = 0.01, and divides both terms by K. Write
:math:`\Lambda = \Psi^\top \kappa \Psi / B` (unit moment, so :math:`\Lambda_{jj}` is the Rayleigh quotient of
function j, comparable to an eigenvalue of kappa whatever the batch). The official columns are
:math:`\Psi \sqrt{t / B}`, hence its matrix is :math:`t \Lambda`, and its loss with weight w is

.. math:: \frac1K \Bigl(-t \sum_j \Lambda_{jj} + w\, t^2 \sum_{i<j} \hat\Lambda_{ij}^2\Bigr)
          = t \cdot \frac1K \Bigl(-\sum_j \Lambda_{jj} + w\, t \sum_{i<j} \hat\Lambda_{ij}^2\Bigr).

Since :math:`\Lambda = B R`, Eq. 5 times -B is :math:`-\sum_j \Lambda_{jj} + \frac{\beta}{B} \sum_{i<j}
\hat\Lambda_{ij}^2`; both agree in the ratio of their terms iff :math:`\beta = w\, t\, B`. This module returns the
bracket divided by K: the official loss without its overall factor t, to which Adam is indifferent.

The paper's published "beta = 0.08 at K = 256, 0.04 at K = 512" is w (``orthogonality_weight``): w K is constant.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from neuralef import loops

OFFICIAL_TRACE_SCALE = 0.01
"""t of the official code: squared column norm of its Psi."""


Kernel = sp.csr_array | Tensor
"""A kernel over a batch: scipy's matrix where a processor multiplies, a sparse tensor on a GPU."""


@dataclass(frozen=True)
class Objective:
    """Value of the objective on one batch.

    Attributes:
        loss: Value that is minimised, a scalar with gradient.
        rayleigh: Rayleigh quotients, the diagonal of Lambda, shape ``(K,)``, detached; smaller by the square of its
            moment for a column that :func:`neuralef.eigenfunctions.l2_batch_norm` leaves below unit moment.
        penalty: Mean of the squared upper off-diagonal entries of Lambda, detached.
    """

    loss: Tensor
    rayleigh: Tensor
    penalty: Tensor


def neural_eigenfunction_objective(
    psi: Tensor, kernel: Kernel, *, orthogonality_weight: float, trace_scale: float = OFFICIAL_TRACE_SCALE
) -> Objective:
    r"""Minus Eq. 5 in the official constants, see the module's derivation.

    The kernel is symmetric and has no gradient, so one product :math:`G = \kappa \Psi` gives everything:
    :math:`\hat\Lambda = \mathrm{sg}(G)^\top \Psi / B`, and :math:`\Lambda_{jj}`, quadratic in :math:`\Psi_j`, has twice
    the gradient of the same linear form. No product with the kernel is left for the backward pass.

    Args:
        psi: Normalised eigenfunctions on the batch, shape ``(B, K)``.
        kernel: :math:`\kappa`, shape ``(B, B)``, symmetric; a tensor where psi is on a GPU.
        orthogonality_weight: Weight w of the penalty, the paper's nominal beta.
        trace_scale: Squared column norm t of the official code.

    Raises:
        ValueError: If the kernel's size is not the batch's.
    """
    B, K = psi.shape
    if tuple(kernel.shape) != (B, B):
        raise ValueError(f"kernel has shape {kernel.shape}, psi has {B} rows; both must be over the same patches")
    product = _product(kernel, psi.detach().float())  # (B, K)
    stopped = product.T @ psi / B  # (K, K)
    rayleigh = stopped.diagonal()
    penalty = stopped.triu(1).square().sum()
    trace = 2 * rayleigh - rayleigh.detach()
    loss = (-trace.sum() + orthogonality_weight * trace_scale * penalty) / K
    pairs = max(1, K * (K - 1) // 2)
    return Objective(loss=loss, rayleigh=rayleigh.detach(), penalty=penalty.detach() / pairs)


def _product(kernel: Kernel, values: Tensor) -> Tensor:
    if isinstance(kernel, Tensor):
        # With row pointers 0.7 ms, with coordinates 7.0 ms (B = 14,400, K = 256, one H200).
        return kernel.to_sparse_csr() @ values
    dense = np.ascontiguousarray(values.numpy())
    return torch.from_numpy(loops.sparse_product(kernel.indptr, kernel.indices, kernel.data, dense))


def equation5_beta(orthogonality_weight: float, batch: int, trace_scale: float = OFFICIAL_TRACE_SCALE) -> float:
    """The beta of Eq. 5, with unit-moment Psi and R over B^2, that has the official ratio of the two terms."""
    return orthogonality_weight * trace_scale * batch
