r"""How near trained eigenfunctions come to the exact ones: psi fitted to one fixed kernel, and measures of nearness.

Where the kernel never changes, Eq. 5 has an exact answer to compare with. Let functions ``1 .. j - 1`` be the
eigenvectors :math:`e_i` of :math:`\kappa`, with eigenvalues :math:`\lambda_i`. In the constants of
:mod:`neuralef.objective` function j, of unit moment, maximises

.. math:: \Lambda_{jj} - w t \sum_{i<j} \hat\Lambda_{ij}^2
          = \psi_j^\top \Bigl(\kappa - w t \sum_{i<j} \lambda_i^2\, e_i e_i^\top\Bigr) \psi_j \Big/ B ,

the Rayleigh quotient of a deflated kernel that has the eigenvectors of :math:`\kappa`, with :math:`\lambda_i` lowered
to :math:`\lambda_i - w t \lambda_i^2`. Its principal eigenvector is :math:`e_j`, exactly and at finite weight, iff

.. math:: \lambda_j > \lambda_i - w t \lambda_i^2 \quad \text{for all } i < j ,

which :func:`exactness_weight` turns into the least :math:`w t`. A weight far above it gains nothing and makes the
problem ill-conditioned: its smallest eigenvalue is :math:`\lambda_1 - w t \lambda_1^2`.

Eigenvectors of equal eigenvalues are arbitrary up to rotation, so single functions may be compared only where
eigenvalues differ; :func:`eigenvalue_groups` and :func:`group_cosines` compare whole eigenspaces.

References:
    Pfau et al., *Spectral Inference Networks*, arXiv:1806.02215 (the ordering by a stopped gradient).
    Deng et al., *NeuralEF: Deconstructing Kernels by Deep Neural Networks*, arXiv:2205.00165.
    Bjoerck and Golub, *Numerical Methods for Computing Angles Between Linear Subspaces*, 1973 (scipy's algorithm).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from tqdm.auto import tqdm

from neuralef.config import PAPER_EIGENFUNCTIONS, Config
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.errors import InputError
from neuralef.graph import normalized_adjacency
from neuralef.training import new_optimizer, noise_of, optimise, schedules, set_learning_rate


@dataclass(frozen=True)
class PlantedGraph:
    """A random graph with known blocks, and features of its nodes that psi can read.

    Attributes:
        kernel: Normalised adjacency, shape ``(N, N)``, float32.
        blocks: Block of every node, ascending, shape ``(N,)``.
        levels: Features of the nodes as of one image of N x 1 patches, shape ``(1, N, 1, C)``, float32.
    """

    kernel: sp.csr_array
    blocks: np.ndarray
    levels: Tensor


def planted_chain(
    sizes: Sequence[int], *, inside: float = 0.6, across: float = 0.05, channels: int = 32, seed: int = 0
) -> PlantedGraph:
    """Blocks in a row, each linked to the next: a graph whose leading eigenvalues are distinct.

    Blocks without links between them would all have eigenvalue 1, and blocks each linked to every other alike would
    have nearly equal ones. Along a chain they are those of a vibrating string instead, and different sizes move them
    further apart.

    A function of features can only tell nodes apart whose features differ, so these must hold what an eigenvector
    depends on: every node sees its row of the normalised adjacency in ``channels`` random directions.

    Args:
        sizes: Number of nodes of each block.
        inside: Probability of a link within a block.
        across: Probability of a link between neighbouring blocks.
        channels: Number of channels of the features.
        seed: Seed of links and directions.

    Raises:
        InputError: If a node is left without links.
    """
    rng = np.random.default_rng(seed)
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    distance = np.abs(np.subtract.outer(blocks, blocks))
    probability = np.select([distance == 0, distance == 1], [inside, across], 0.0)
    links = np.triu(rng.random(distance.shape) < probability, 1).astype(np.float32)
    links += links.T
    if not links.any(axis=1).all():
        raise InputError(f"blocks of {list(sizes)} nodes linked with probability {inside} leave a node alone; raise it")
    kernel = normalized_adjacency(sp.csr_array(links))
    features = kernel @ rng.standard_normal((len(blocks), channels))
    return PlantedGraph(kernel, blocks, torch.from_numpy(features).float()[None, :, None])


def exactness_weight(eigenvalues: np.ndarray) -> float:
    r"""The least :math:`w t` at which Eq. 5 has the eigenvectors as its solution, one by one.

    Args:
        eigenvalues: First K eigenvalues of the kernel, descending and positive, shape ``(K,)``.

    Returns:
        The least weight, :math:`\max_{i<j} (\lambda_i - \lambda_j) / \lambda_i^2`; the weight must exceed it.

    Raises:
        InputError: If an eigenvalue is not positive: nothing keeps a function there apart from the earlier ones.
    """
    if eigenvalues[-1] <= 0:
        raise InputError(
            f"eigenvalue {len(eigenvalues)} of the kernel is {eigenvalues[-1]:.2g}, and Eq. 5 orders functions of "
            "positive eigenvalues only; ask for fewer functions"
        )
    return float(((eigenvalues - eigenvalues[-1]) / eigenvalues**2).max())


def plain_config(config: Config, num_eigenfunctions: int, *, penalty: float) -> Config:
    """Settings under which Eq. 5 is about eigenfunctions proper: no quantisation, and ``w t = penalty`` at this K."""
    weight = penalty * num_eigenfunctions / (PAPER_EIGENFUNCTIONS * config.trace_scale)
    return config.updated({"quantise": False, "orthogonality_weight": weight, "precision": "float32"})


def rayleigh_quotients(functions: np.ndarray, kernel: sp.csr_array) -> np.ndarray:
    """Rayleigh quotients of the columns of ``(B, K)`` under a kernel ``(B, B)``, ``(K,)``; 0 for a column of zeros."""
    unit = _unit_columns(functions)
    return (unit * (kernel @ unit)).sum(axis=0)


def ritz_values(functions: np.ndarray, kernel: sp.csr_array) -> np.ndarray:
    """Eigenvalues of the kernel restricted to the span of ``(B, K)``, descending, shape ``(K,)``.

    By Cauchy's interlacing theorem the j-th is at most the kernel's j-th eigenvalue. Functions that depend on each
    other span less: then the last ones are 0.
    """
    basis = _basis(functions)
    values = np.zeros(functions.shape[1])
    values[: basis.shape[1]] = np.linalg.eigvalsh(basis.T @ (kernel @ basis))[::-1]
    return values


def absolute_correlations(functions: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Absolute cosines between functions and eigenvectors, both as columns over the same patches.

    Not centred: both are vectors of unit second moment under the constraint of Eq. 5, and the first eigenvector hardly
    varies at all.

    Args:
        functions: Functions as columns, shape ``(B, K)``, of any scale and sign; a column of zeros correlates with
            nothing.
        exact: Eigenvectors as columns, shape ``(B, L)``.

    Returns:
        Absolute cosines, shape ``(K, L)``, in [0, 1].
    """
    return np.abs(_unit_columns(functions).T @ _unit_columns(exact)).clip(0, 1)


def match_functions(correlations: np.ndarray) -> np.ndarray:
    """For every eigenvector the function that stands for it, one to one, with the largest sum of correlations.

    Args:
        correlations: Absolute correlations, shape ``(K, L)`` with ``L <= K``, functions in rows.

    Returns:
        Number of the function for each eigenvector, from 0, shape ``(L,)``.
    """
    columns, rows = linear_sum_assignment(correlations.T, maximize=True)
    return rows[np.argsort(columns)]


def align(functions: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Functions in the order, sign and scale of the eigenvectors they are matched with: ``(B, K)`` to ``(B, L)``."""
    matched = functions[:, match_functions(absolute_correlations(functions, exact))]
    return _unit_columns(matched) * np.where((matched * exact).sum(axis=0) < 0, -1, 1)


def subspace_angles(functions: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Principal angles between the spans of two sets of columns, radians, ascending, shape ``(min(K, L),)``.

    Where functions depend on each other (copies, columns of zeros) their span lacks dimensions; each counts as a right
    angle. scipy would leave them out, and columns of small scale with them.
    """
    angles = np.full(min(functions.shape[1], exact.shape[1]), np.pi / 2)
    bases = _basis(functions), _basis(exact)
    if min(basis.shape[1] for basis in bases):
        found = scipy.linalg.subspace_angles(*bases)[::-1]
        angles[: len(found)] = found
    return angles


def leading_angles(functions: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Largest angle between the spans of the first j functions and the first j eigenvectors, radians, ``(K,)``."""
    return np.array([subspace_angles(functions[:, :j], exact[:, :j])[-1] for j in range(1, exact.shape[1] + 1)])


def eigenvalue_groups(eigenvalues: np.ndarray, tolerance: float) -> list[slice]:
    """Runs of eigenvalues in which each is within ``tolerance`` of the next; inside one, eigenvectors may rotate.

    The last run may go on beyond the last eigenvalue given: compare it with care, or ask for one eigenvalue more.
    """
    borders = np.flatnonzero(eigenvalues[:-1] - eigenvalues[1:] > tolerance) + 1
    return [slice(int(a), int(b)) for a, b in zip([0, *borders], [*borders, len(eigenvalues)], strict=True)]


def group_cosines(functions: np.ndarray, exact: np.ndarray, groups: Sequence[slice]) -> np.ndarray:
    """How well each eigenspace is found: the cosine of the largest angle to the functions of the same places.

    For a group of one it is the absolute correlation. A rotation inside a group changes nothing.
    """
    return np.array([np.cos(subspace_angles(functions[:, group], exact[:, group])[-1]) for group in groups])


@dataclass(frozen=True)
class Fidelity:
    """Functions laid beside exact eigenvectors.

    Attributes:
        rayleigh: Rayleigh quotient of every function, in psi's order, shape ``(K,)``.
        ritz: Ritz values of the functions' span, descending, shape ``(K,)``.
        same_index: Absolute correlation of function j with eigenvector j, shape ``(K,)``.
        matched: Absolute correlation of eigenvector j with the function matched to it, shape ``(K,)``.
        partners: Number of the function matched to each eigenvector, from 0, shape ``(K,)``.
        angles: Principal angles between the two spans, radians, ascending, shape ``(K,)``.
    """

    rayleigh: np.ndarray
    ritz: np.ndarray
    same_index: np.ndarray
    matched: np.ndarray
    partners: np.ndarray
    angles: np.ndarray

    @property
    def overlap(self) -> float:
        """Mean squared cosine of the principal angles: 1 for equal spans, about K / B for random ones."""
        return float(np.square(np.cos(self.angles)).mean())


def compare(functions: np.ndarray, exact: np.ndarray, kernel: sp.csr_array) -> Fidelity:
    """Every measure of nearness at once.

    Args:
        functions: psi's functions on the kernel's patches, shape ``(B, K)``.
        exact: Eigenvectors, descending by eigenvalue, shape ``(B, K)``.
        kernel: Kernel over the patches, shape ``(B, B)``.

    Raises:
        ValueError: If the shapes differ.
    """
    if functions.shape != exact.shape or kernel.shape[0] != len(exact):
        raise ValueError(f"functions {functions.shape}, eigenvectors {exact.shape}, kernel {kernel.shape} do not fit")
    correlations = absolute_correlations(functions, exact)
    partners = match_functions(correlations)
    return Fidelity(
        rayleigh=rayleigh_quotients(functions, kernel),
        ritz=ritz_values(functions, kernel),
        same_index=correlations.diagonal(),
        matched=correlations[partners, np.arange(exact.shape[1])],
        partners=partners,
        angles=subspace_angles(functions, exact),
    )


@dataclass(frozen=True)
class Fit:
    """psi trained on one kernel, and its functions on the way.

    Attributes:
        psi: psi after the last step, in evaluation mode.
        steps: Number of steps taken at each checkpoint, ascending, shape ``(n,)``.
        functions: psi's values at each checkpoint, shape ``(n, B, K)``, float64; see :func:`functions_of`.
        train_s: Seconds of the steps alone.
    """

    psi: Eigenfunctions
    steps: np.ndarray
    functions: np.ndarray
    train_s: float


def checkpoint_steps(steps: int, count: int = 14) -> np.ndarray:
    """0, ``steps`` and up to ``count`` numbers between, even on a logarithmic scale; ascending, without repetition."""
    return np.unique(np.concatenate([[0, steps], np.geomspace(1, max(1, steps), count).round()]).astype(int))


def fit(
    levels: Tensor,
    kernel: sp.csr_array,
    config: Config,
    *,
    num_eigenfunctions: int,
    seed: int,
    steps: int,
    checkpoints: Sequence[int] = (),
    progress: bool = True,
) -> Fit:
    """Train psi on one batch and its kernel, again and again: the same step as :func:`neuralef.training.train`.

    Args:
        levels: Features of all patches, shape ``(images, h, w, C)``.
        kernel: Kernel over all patches, shape ``(B, B)`` with ``B = images * h * w``.
        config: Hyper-parameters of psi, quantisation, objective, learning rate and temperatures.
        num_eigenfunctions: Number of eigenfunctions, K.
        seed: Seed of initial weights and Gumbel noise.
        steps: Number of steps, over which learning rate and temperature go from their starts to their ends.
        checkpoints: Steps after which psi's functions are kept, besides the last; 0 is psi untrained.
        progress: Whether to show a progress bar.

    Raises:
        InputError: If a checkpoint lies beyond the last step, or K exceeds the patches.
    """
    B = kernel.shape[0]
    if num_eigenfunctions > B:
        raise InputError(f"{num_eigenfunctions} functions were asked of a kernel over {B} patches; ask for fewer")
    kept = sorted({*checkpoints, steps})
    if kept[0] < 0 or kept[-1] > steps:
        raise InputError(f"checkpoints {kept} must lie within 0..{steps}, the steps taken")
    flat = levels.flatten(0, 2)
    statistics = (flat.mean(dim=0), flat.std(dim=0, correction=0)) if config.standardise_inputs else None
    psi = Eigenfunctions.of(config, levels.shape[-1], num_eigenfunctions, seed=seed, input_statistics=statistics)
    optimizer = new_optimizer(psi, config)
    functions, seconds = [], 0.0
    if 0 in kept:
        functions.append(functions_of(psi, levels, config))
    for step in tqdm(range(steps), desc=f"fitting psi, seed {seed}", unit="step", disable=not progress):
        began = perf_counter()
        temperature, learning_rate = schedules(config, step / steps)
        set_learning_rate(optimizer, learning_rate)
        noise = noise_of(seed, step)
        optimise(psi.train(), optimizer, levels, kernel, config, temperature=temperature, noise=noise)
        seconds += perf_counter() - began
        if step + 1 in kept:
            functions.append(functions_of(psi, levels, config))
    return Fit(psi.eval(), np.array(kept), np.stack(functions), seconds)


def functions_of(psi: Eigenfunctions, levels: Tensor, config: Config) -> np.ndarray:
    """psi's functions on ``(images, h, w, C)``, shape ``(B, K)``, float64.

    They are the logits; where psi is quantised, their softmax at the last temperature: what the Gumbel-Softmax becomes
    without its noise.
    """
    with torch.inference_mode():
        logits = psi.eval()(levels.flatten(1, 2)).flatten(0, 1).double()
    return ((logits / config.temperature_end).softmax(dim=1) if config.quantise else logits).numpy()


def _basis(columns: np.ndarray) -> np.ndarray:
    """Orthonormal basis of a span, shape ``(B, rank)``; no column is too small to count."""
    unit = _unit_columns(columns)
    return scipy.linalg.orth(unit, rcond=1e-7) if unit.any() else unit[:, :0]


def _unit_columns(columns: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(columns, axis=0)
    return np.divide(columns, norms, out=np.zeros(columns.shape), where=norms > 0)
