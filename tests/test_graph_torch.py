import pytest
import torch

from neuralef import graph, graph_torch
from neuralef.errors import InputError
from neuralef.objective import neural_eigenfunction_objective

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no NVIDIA GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def patches(images=3, h=6, w=5, channels=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(images, h, w, channels, generator=generator),
        torch.rand(images, h, w, 3, generator=generator),
    )


def dense(matrix):
    return matrix.to_dense().cpu() if isinstance(matrix, torch.Tensor) else torch.from_numpy(matrix.toarray())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pixel_weight": 0.0},
        {"pixel_neighbors": (4, 0)},
        {"pixel_neighbors": (), "coordinate_weights": ()},
    ],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_is_that_of_the_processor(device, settings, masked):
    features, colours = patches()
    kept = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(1)) < 0.6 if masked else None
    expected = graph.kernel(features, colours, feature_neighbors=9, kept=kept, **settings)
    kappa = graph_torch.kernel(
        features.to(device),
        colours.to(device),
        feature_neighbors=9,
        kept=None if kept is None else kept.to(device),
        **settings,
    )
    assert kappa.device.type == device
    torch.testing.assert_close(dense(kappa), dense(expected))
    assert (dense(kappa) == dense(kappa).T).all()


@pytest.mark.parametrize("device", DEVICES)
def test_fewer_patches_than_neighbours_are_all_neighbours(device):
    features, colours = patches()
    kept = torch.zeros(3, 6, 5, dtype=torch.bool)
    kept[:, :2] = True
    found = graph_torch.kernel(features.to(device), colours.to(device), feature_neighbors=256, kept=kept.to(device))
    torch.testing.assert_close(dense(found), dense(graph.kernel(features, colours, feature_neighbors=256, kept=kept)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("similarities", [1, 700, 10**6])
def test_neighbours_do_not_depend_on_how_many_similarities_are_held(device, similarities, monkeypatch):
    monkeypatch.setattr(graph_torch, "SIMILARITIES", similarities)
    flat = patches()[0].flatten(0, 2)
    indices, cosines = graph_torch.nearest_neighbors(flat.to(device), 5)
    whole = graph.nearest_neighbors(flat, 5)
    assert [set(row.tolist()) for row in indices] == [set(row.tolist()) for row in whole[0]]
    torch.testing.assert_close(cosines.cpu().sort(dim=1).values, whole[1].sort(dim=1).values)


@pytest.mark.parametrize("device", DEVICES)
def test_of_equally_near_patches_the_first_are_linked(device):
    flat_colour = torch.full((2, 9, 9, 3), 0.5)
    expected = graph.pixel_graph(flat_colour)
    torch.testing.assert_close(dense(graph_torch.pixel_graph(flat_colour.to(device))), dense(expected), atol=0, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_images_that_are_mostly_padding_link_the_patches_they_have(device):
    colours, kept = patches()[1], torch.ones(3, 6, 5, dtype=torch.bool)
    kept[0], kept[1] = False, False
    kept[1, 2, 2:4] = True
    found = graph_torch.pixel_graph(colours.to(device), kept=kept.to(device))
    torch.testing.assert_close(dense(found), dense(graph.pixel_graph(colours, kept=kept)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("distances", [1, 2 * 30**2, 10**6])
@pytest.mark.parametrize("masked", [False, True])
def test_links_of_pixels_do_not_depend_on_how_many_distances_are_held(device, distances, masked, monkeypatch):
    monkeypatch.setattr(graph_torch, "SIMILARITIES", distances)
    colours = patches()[1]
    kept = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(1)) < 0.6 if masked else None
    found = graph_torch.pixel_graph(colours.to(device), kept=None if kept is None else kept.to(device))
    torch.testing.assert_close(dense(found), dense(graph.pixel_graph(colours, kept=kept)), atol=0, rtol=0)


@pytest.mark.parametrize("kept", [None, torch.tensor([[[False]], [[True]]])], ids=["whole", "padded"])
def test_images_of_one_patch_have_no_links_of_pixels(kept):
    found = graph_torch.pixel_graph(torch.rand(2, 1, 1, 3), neighbors=(0, 0), kept=kept)
    N = 2 if kept is None else 1
    assert found.shape == (N, N)
    assert found.values().numel() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_loss_and_gradient_are_those_of_the_processor(device):
    features, colours = patches()
    psi = torch.randn(90, 4, generator=torch.Generator().manual_seed(2))
    losses, gradients = [], []
    for build, where in ((graph.kernel, "cpu"), (graph_torch.kernel, device)):
        kappa = build(features.to(where), colours.to(where), feature_neighbors=9)
        values = psi.to(where).detach().clone().requires_grad_()
        losses.append(neural_eigenfunction_objective(values, kappa, orthogonality_weight=0.5).loss)
        losses[-1].backward()
        gradients.append(values.grad.cpu())
    torch.testing.assert_close(losses[1].cpu(), losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda f, c: graph_torch.kernel(f, c, feature_neighbors=90), "feature_neighbors is 90"),
        (lambda f, c: graph_torch.kernel(f * torch.nan, c, feature_neighbors=3), "not all finite"),
        (lambda f, c: graph_torch.kernel(f, c, feature_neighbors=3, pixel_neighbors=(30, 5)), "more than 30 patches"),
    ],
)
def test_what_the_processor_refuses_is_refused(build, message):
    with pytest.raises(InputError, match=message):
        build(*patches())


def test_patches_without_a_neighbour_have_empty_rows():
    features = -torch.eye(4).expand(1, 1, 4, 4) + 0.0
    features[0, 0, :2] = torch.tensor([1.0, 0, 0, 0])
    kappa = graph_torch.kernel(features, torch.rand(1, 1, 4, 3), feature_neighbors=1, pixel_weight=0.0)
    assert dense(kappa).sum(dim=1).tolist() == [1.0, 1.0, 0.0, 0.0]
