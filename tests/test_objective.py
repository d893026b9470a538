import numpy as np
import pytest
import scipy.sparse as sp
import torch
from reference import official_loss

from neuralef.eigenfunctions import l2_batch_norm
from neuralef.objective import equation5_beta, neural_eigenfunction_objective


def random_kernel(B, seed=0):
    generator = np.random.default_rng(seed)
    dense = generator.random((B, B), dtype=np.float32) * (generator.random((B, B)) < 0.3)
    return sp.csr_array((dense + dense.T) / 2)


@pytest.mark.parametrize(("B", "K", "weight", "t"), [(30, 4, 0.08, 0.01), (50, 8, 5.0, 0.01), (40, 3, 0.0, 1.0)])
def test_loss_and_gradient_are_the_official_ones_over_t(B, K, weight, t):
    kappa = random_kernel(B)
    raw = (3 * torch.randn(B, K, generator=torch.Generator().manual_seed(1))).requires_grad_()
    ours = neural_eigenfunction_objective(l2_batch_norm(raw), kappa, orthogonality_weight=weight, trace_scale=t).loss
    (ours_gradient,) = torch.autograd.grad(ours, raw)
    theirs = official_loss(raw, torch.from_numpy(kappa.toarray()), weight=weight, t=t)
    (their_gradient,) = torch.autograd.grad(theirs, raw)
    torch.testing.assert_close(ours, theirs / t, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours_gradient, their_gradient / t, rtol=1e-4, atol=1e-7)


def test_ratio_of_the_terms_is_equation_5_with_the_derived_beta():
    B, K, weight, t = 60, 5, 0.32, 0.01
    kappa = random_kernel(B)
    psi = l2_batch_norm(torch.randn(B, K, generator=torch.Generator().manual_seed(2)) + 0.5)
    R = psi.T @ torch.from_numpy(kappa.toarray()) @ psi / B**2
    beta = equation5_beta(weight, B, t)
    equation5 = R.trace() - beta * R.triu(1).square().sum()
    ours = neural_eigenfunction_objective(psi, kappa, orthogonality_weight=weight, trace_scale=t).loss
    torch.testing.assert_close(ours, -equation5 * B / K, rtol=1e-5, atol=1e-6)


def test_earlier_functions_do_not_feel_the_push_of_later_ones():
    kappa = random_kernel(20)
    psi = torch.randn(20, 3, generator=torch.Generator().manual_seed(3)).requires_grad_()
    with_push = neural_eigenfunction_objective(psi, kappa, orthogonality_weight=100.0).loss
    without = neural_eigenfunction_objective(psi, kappa, orthogonality_weight=0.0).loss
    (pushed,) = torch.autograd.grad(with_push, psi)
    (free,) = torch.autograd.grad(without, psi)
    torch.testing.assert_close(pushed[:, 0], free[:, 0])
    assert not torch.allclose(pushed[:, 2], free[:, 2])


def test_descent_on_free_values_finds_the_leading_eigenvectors():
    generator = np.random.default_rng(0)
    basis, _ = np.linalg.qr(generator.standard_normal((40, 40)))
    spectrum = np.concatenate([[1.0, 0.8, 0.6], 0.1 * generator.random(37)])
    kappa = sp.csr_array((basis * spectrum @ basis.T).astype(np.float32))
    values = torch.randn(40, 3, generator=torch.Generator().manual_seed(4)).requires_grad_()
    optimizer = torch.optim.Adam([values], lr=0.05)
    for _ in range(1500):
        psi = values / values.norm(dim=0) * 40**0.5
        loss = neural_eigenfunction_objective(psi, kappa, orthogonality_weight=10.0, trace_scale=1.0).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = (values / values.norm(dim=0)).detach().numpy()
    assert np.abs((found * basis[:, :3]).sum(axis=0)).min() > 0.99


def test_mean_rayleigh_quotient_of_exact_eigenvectors_is_their_eigenvalue():
    kappa = random_kernel(30)
    eigenvalues, vectors = torch.linalg.eigh(torch.from_numpy(kappa.toarray()))
    report = neural_eigenfunction_objective(vectors[:, -4:] * 30**0.5, kappa, orthogonality_weight=0.08)
    torch.testing.assert_close(report.rayleigh, eigenvalues[-4:], rtol=1e-4, atol=1e-5)
    assert report.penalty < 1e-9


@pytest.mark.parametrize("K", [1, 2, 5])
def test_the_reported_penalty_is_the_mean_of_the_squared_entries_above_the_diagonal(K):
    kappa = random_kernel(30)
    psi = l2_batch_norm(torch.randn(30, K, generator=torch.Generator().manual_seed(5)) + 0.5)
    report = neural_eigenfunction_objective(psi, kappa, orthogonality_weight=0.08)
    Lambda = (psi.T @ torch.from_numpy(kappa.toarray()) @ psi / 30).numpy()
    squares = [Lambda[i, j] ** 2 for j in range(K) for i in range(j)]
    assert report.penalty.item() == pytest.approx(np.mean(squares) if squares else 0.0, rel=1e-5)


def test_kernel_of_another_batch_is_refused():
    with pytest.raises(ValueError, match="same patches"):
        neural_eigenfunction_objective(torch.ones(10, 2), random_kernel(11), orthogonality_weight=0.08)
