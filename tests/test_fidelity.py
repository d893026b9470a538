import numpy as np
import pytest
import torch
from small import same

from neuralef import fidelity, training
from neuralef.config import Config
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.errors import InputError
from neuralef.spectral import principal_eigenvectors

SIZES = (20, 22, 24, 26, 28, 30, 32, 34, 36, 38)
SMALL = (12, 15, 18)
CONFIG = Config(width=64, attention="elu", mlp_ratio=2, head_bias=False, standardise_inputs=True, learning_rate=3e-3)


@pytest.fixture(scope="module")
def small():
    graph = fidelity.planted_chain(SMALL)
    return graph, *principal_eigenvectors(graph.kernel, 4)


def test_unquantised_psi_recovers_ten_eigenfunctions_of_a_well_separated_graph():
    """The required result; eight functions with a correlation of 0.99 are asked for."""
    graph, K = fidelity.planted_chain(SIZES), len(SIZES)
    eigenvalues, exact = principal_eigenvectors(graph.kernel, K + 1)
    assert np.diff(eigenvalues).max() < -0.005, "equal eigenvalues could only be compared as subspaces"
    assert fidelity.exactness_weight(eigenvalues[:K]) < 1.0
    config = fidelity.plain_config(CONFIG, K, penalty=1.0)
    fit = fidelity.fit(
        graph.levels, graph.kernel, config, num_eigenfunctions=K, seed=0, steps=700, checkpoints=[0], progress=False
    )
    before, after = (fidelity.compare(functions, exact[:, :K], graph.kernel) for functions in fit.functions)
    assert before.same_index.max() < 0.9
    assert (after.same_index >= 0.99).sum() >= 8
    assert (after.partners == np.arange(K)).all()
    np.testing.assert_allclose(after.rayleigh, eigenvalues[:K], atol=0.01)
    assert np.degrees(after.angles[-1]) < 8


def solution(kernel, penalty, functions):
    """The functions that Eq. 5 has as its solution, one after the other, among all functions of unit moment."""
    deflated, found = kernel.toarray().astype(float), []
    for _ in range(functions):
        found.append(np.linalg.eigh(deflated)[1][:, -1])
        coupled = kernel @ found[-1]
        deflated = deflated - penalty * np.outer(coupled, coupled)
    return np.stack(found, axis=1)


def test_exactness_weight_is_where_the_solution_becomes_the_eigenvectors(small):
    graph, eigenvalues, exact = small
    threshold = fidelity.exactness_weight(eigenvalues)
    for factor, exactly in ((1.05, True), (5.0, True), (0.9, False)):
        found = solution(graph.kernel, factor * threshold, 4)
        correlations = fidelity.absolute_correlations(found, exact).diagonal()
        assert (correlations > 0.999).all() == exactly, factor


def test_no_weight_orders_functions_of_negative_eigenvalues():
    with pytest.raises(InputError, match=r"eigenvalue 3 of the kernel is -0\.1"):
        fidelity.exactness_weight(np.array([1.0, 0.5, -0.1]))


def test_plain_settings_have_the_penalty_asked_for():
    config = fidelity.plain_config(Config(trace_scale=0.02), 7, penalty=1.3)
    assert config.orthogonality_weight_for(7) * config.trace_scale == pytest.approx(1.3)
    assert not config.quantise


def test_order_sign_and_scale_are_matched_away(small):
    graph, eigenvalues, exact = small
    functions = exact[:, [2, 0, 3, 1]] * [-2.0, 1.0, 5.0, -1.0]
    found = fidelity.compare(functions, exact, graph.kernel)
    np.testing.assert_array_equal(found.partners, [1, 3, 0, 2])
    np.testing.assert_allclose(found.matched, 1)
    np.testing.assert_allclose(found.same_index, 0, atol=1e-8)
    np.testing.assert_allclose(found.rayleigh, eigenvalues[[2, 0, 3, 1]], atol=1e-6)
    np.testing.assert_allclose(found.ritz, eigenvalues, atol=1e-6)
    assert found.overlap == pytest.approx(1)
    np.testing.assert_allclose(fidelity.align(functions, exact), exact, atol=1e-8)


def test_matching_is_one_to_one_with_the_largest_sum():
    correlations = np.array([[0.9, 0.8], [0.85, 0.1], [0.2, 0.3]])
    np.testing.assert_array_equal(fidelity.match_functions(correlations), [1, 0])


def test_a_function_that_is_zero_correlates_with_nothing(small):
    _, _, exact = small
    assert (fidelity.absolute_correlations(np.zeros((len(exact), 2)), exact) == 0).all()


def test_angles_are_those_of_a_known_rotation():
    functions, turned, angle = np.eye(5)[:, :2], np.eye(5)[:, :2], 0.3
    turned[:, 1] = np.cos(angle) * np.eye(5)[1] + np.sin(angle) * np.eye(5)[4]
    np.testing.assert_allclose(fidelity.subspace_angles(turned, functions), [0, angle], atol=1e-7)
    np.testing.assert_allclose(fidelity.leading_angles(turned, functions), [0, angle], atol=1e-7)
    Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))
    np.testing.assert_allclose(fidelity.subspace_angles(turned @ Q, functions), [0, angle], atol=1e-7)


def test_functions_that_depend_on_each_other_span_less(small):
    graph, eigenvalues, exact = small
    copied = exact * [1e-20, 1, 1, 1]  # a small scale is no lack
    copied[:, 2] = -3 * copied[:, 1]
    copied[:, 3] = 0
    np.testing.assert_allclose(fidelity.subspace_angles(copied, exact), [0, 0, np.pi / 2, np.pi / 2], atol=1e-7)
    np.testing.assert_allclose(fidelity.ritz_values(copied, graph.kernel), [*eigenvalues[:2], 0, 0], atol=1e-6)
    assert fidelity.compare(copied, exact, graph.kernel).overlap == pytest.approx(0.5)
    np.testing.assert_allclose(fidelity.subspace_angles(0 * exact, exact), np.pi / 2)


def test_equal_eigenvalues_are_compared_as_one_subspace():
    eigenvalues = np.array([1.0, 0.8, 0.7995, 0.3])
    groups = fidelity.eigenvalue_groups(eigenvalues, 0.001)
    assert groups == [slice(0, 1), slice(1, 3), slice(3, 4)]
    exact, rotated = np.eye(6)[:, :4], np.eye(6)[:, :4]
    rotated[:, 1:3] = rotated[:, 1:3] @ np.array([[0.8, -0.6], [0.6, 0.8]])
    np.testing.assert_allclose(fidelity.absolute_correlations(rotated, exact).diagonal(), [1, 0.8, 0.8, 1])
    np.testing.assert_allclose(fidelity.group_cosines(rotated, exact, groups), 1)


def test_checkpoints_begin_with_none_and_end_with_the_last():
    np.testing.assert_array_equal(fidelity.checkpoint_steps(100, 3), [0, 1, 10, 100])
    np.testing.assert_array_equal(fidelity.checkpoint_steps(1, 3), [0, 1])


def test_a_fit_keeps_its_checkpoints_and_repeats_itself(small):
    graph, _, _ = small

    def fitted(seed, quantise=False):
        config = CONFIG.updated({"quantise": quantise, "width": 16})
        return fidelity.fit(
            graph.levels,
            graph.kernel,
            config,
            num_eigenfunctions=3,
            seed=seed,
            steps=6,
            checkpoints=[0, 4],
            progress=False,
        )

    first, again, other, quantised = fitted(0), fitted(0), fitted(1), fitted(0, quantise=True)
    np.testing.assert_array_equal(first.steps, [0, 4, 6])
    assert first.functions.shape == (3, sum(SMALL), 3)
    np.testing.assert_array_equal(first.functions, again.functions)
    assert not np.allclose(first.functions, other.functions)
    assert not np.allclose(first.functions[1], first.functions[2])
    np.testing.assert_allclose(quantised.functions.sum(axis=2), 1)
    with torch.inference_mode():
        logits = first.psi(graph.levels.flatten(1, 2))[0]
    np.testing.assert_allclose(first.functions[-1], logits.numpy(), rtol=1e-6)


def test_impossible_fits_are_named(small):
    graph, _, exact = small
    with pytest.raises(InputError, match="46 functions"):
        fidelity.fit(graph.levels, graph.kernel, CONFIG, num_eigenfunctions=46, seed=0, steps=1)
    with pytest.raises(InputError, match="checkpoints"):
        fidelity.fit(graph.levels, graph.kernel, CONFIG, num_eigenfunctions=3, seed=0, steps=3, checkpoints=[4])
    with pytest.raises(ValueError, match="do not fit"):
        fidelity.compare(exact[:, :2], exact, graph.kernel)
    with pytest.raises(InputError, match="leave a node alone"):
        fidelity.planted_chain((5, 5), inside=0.01, across=0.0)


def test_a_fit_is_its_steps_written_out():
    graph = fidelity.planted_chain(SMALL)
    schedule = {"temperature_start": 2.0, "temperature_end": 0.5, "learning_rate": 1e-2}
    config = Config(width=16, standardise_inputs=True, **schedule)
    flat = graph.levels.flatten(0, 2)
    statistics = (flat.mean(dim=0), flat.std(dim=0, correction=0))
    psi = Eigenfunctions.of(config, flat.shape[1], 3, seed=5, input_statistics=statistics)
    adam = training.new_optimizer(psi, config)
    for step in range(4):
        temperature, rate = training.schedules(config, step / 4)
        training.set_learning_rate(adam, rate)
        noise = training.noise_of(5, step)
        training.optimise(psi, adam, graph.levels, graph.kernel, config, temperature=temperature, noise=noise)
    fit = fidelity.fit(graph.levels, graph.kernel, config, num_eigenfunctions=3, seed=5, steps=4, progress=False)
    assert same(psi.state_dict(), fit.psi.state_dict())
    with torch.inference_mode():
        logits = psi(graph.levels.flatten(1, 2))[0].double()
    np.testing.assert_array_equal(fit.functions[-1], (logits / 0.5).softmax(dim=1).numpy())


def test_plain_settings_are_in_single_precision():
    assert fidelity.plain_config(Config(precision="bfloat16"), 7, penalty=1.3).precision == "float32"
