import pytest
import torch
import torch.nn.functional as F
from reference import softmax_attention, softmax_free_attention

from neuralef.eigenfunctions import (
    Block,
    Eigenfunctions,
    LinearAttention,
    OrthonormalRows,
    PositiveFeatures,
    Standardise,
    gumbel_softmax,
    l2_batch_norm,
)
from neuralef.errors import InputError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("kind", "quadratic"), [("softmax", softmax_attention), ("elu", softmax_free_attention)])
def test_linear_attention_equals_the_quadratic_form(kind, quadratic):
    attention = LinearAttention(128, kind)
    x = torch.randn(1, 9, 128, generator=seeded())
    q, k, v = attention.qkv(x)[0].split(128, dim=-1)
    heads = [quadratic(q[:, part], k[:, part], v[:, part]) for part in (slice(0, 64), slice(64, 128))]
    torch.testing.assert_close(attention(x)[0], attention.out(torch.cat(heads, dim=-1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "heads"), [(384, 6), (40, 1), (200, 2), (472, 4), (1152, 18)])
def test_heads_divide_any_width(channels, heads):
    attention = LinearAttention(channels, "softmax")
    assert attention.heads == heads
    assert attention(torch.randn(1, 3, channels, generator=seeded())).shape == (1, 3, channels)


def test_positive_features_are_elu_plus_one_with_its_gradient():
    x = torch.cat([torch.linspace(-30, 30, 61), torch.tensor([-1e-3, 0.0, 1e-3])]).double().requires_grad_()
    torch.testing.assert_close(PositiveFeatures.apply(x), F.elu(x) + 1)
    torch.testing.assert_close(
        torch.autograd.grad(PositiveFeatures.apply(x).square().sum(), x),
        torch.autograd.grad((F.elu(x) + 1).square().sum(), x),
    )
    away_from_the_kink = torch.randn(20, generator=seeded(), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(PositiveFeatures.apply, away_from_the_kink)


@pytest.mark.parametrize("kind", ["softmax", "elu"])
def test_permuting_patches_permutes_the_logits(kind):
    psi = Eigenfunctions(24, 5, width=16, attention=kind, generator=seeded())
    x = torch.randn(2, 10, 24, generator=seeded(1))
    order = torch.randperm(10, generator=seeded(2))
    torch.testing.assert_close(psi(x[:, order]), psi(x)[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "elu"])
def test_images_do_not_see_each_other(kind):
    psi = Eigenfunctions(24, 5, width=16, attention=kind, generator=seeded())
    x = torch.randn(3, 10, 24, generator=seeded(1))
    torch.testing.assert_close(psi(x)[1:2], psi(x[1:2]), rtol=1e-4, atol=1e-5)


def test_head_rows_are_orthonormal_and_stay_so_while_training():
    psi = Eigenfunctions(24, 5, width=16, generator=seeded())
    optimizer = torch.optim.Adam(psi.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        psi(torch.randn(2, 10, 24, generator=seeded(1))).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(psi.head.weight @ psi.head.weight.T, torch.eye(5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "elu"])
def test_one_patch_image_works(kind):
    assert Eigenfunctions(24, 5, width=16, attention=kind, generator=seeded())(torch.randn(1, 1, 24)).shape == (1, 1, 5)


def test_width_defaults_to_the_papers_3c():
    psi = Eigenfunctions(24, 5, generator=seeded())
    assert psi.hidden(torch.randn(1, 4, 24)).shape == (1, 4, 24)
    assert isinstance(psi.projection, torch.nn.Identity)


def test_hidden_features_and_logits_are_those_of_pre_norm_blocks_written_out():
    psi = Eigenfunctions(24, 5, width=16, depth=3, mlp_ratio=2.0, generator=seeded())
    torch.nn.init.normal_(psi.head.bias, generator=seeded(2))  # starts at 0
    generator = seeded(1)
    for module in psi.modules():
        if isinstance(module, torch.nn.LayerNorm):  # all start alike
            torch.nn.init.normal_(module.weight, generator=generator)
            torch.nn.init.normal_(module.bias, generator=generator)
    inputs = torch.randn(2, 10, 24, generator=generator)

    def normalised(x, norm):
        return (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True) * norm.weight + norm.bias

    x = inputs @ psi.projection.weight.T + psi.projection.bias
    assert len(psi.blocks) == 3
    for block in psi.blocks:
        x = x + block.attention(normalised(x, block.norm1))
        wide = normalised(x, block.norm2) @ block.mlp[0].weight.T + block.mlp[0].bias
        assert wide.shape[-1] == 32
        x = x + F.gelu(wide) @ block.mlp[2].weight.T + block.mlp[2].bias
    hidden = normalised(x, psi.norm)
    torch.testing.assert_close(psi.hidden(inputs), hidden, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(psi(inputs), hidden @ psi.head.weight.T + psi.head.bias, rtol=1e-3, atol=1e-3)


def test_initial_weights_keep_the_scale_of_their_inputs():
    psi = Eigenfunctions(256, 5, width=128, depth=1, mlp_ratio=3.0, generator=seeded())
    attention, mlp = psi.blocks[0].attention, psi.blocks[0].mlp
    for layer in (psi.projection, attention.qkv, attention.out, *mlp[::2]):
        assert layer.weight.std().item() == pytest.approx(layer.in_features**-0.5, rel=0.02)
    for layer in (psi.projection, attention.out, *mlp[::2], psi.head):
        assert not layer.bias.any()


def test_what_has_a_bias_is_what_was_asked_for():
    """The official code's queries, keys and values have none; its head has."""
    official = Eigenfunctions(24, 5, width=16, generator=seeded())
    other = Eigenfunctions(24, 5, width=16, attention="elu", head_bias=False, generator=seeded())
    for psi, has_bias in ((official, False), (other, True)):
        assert [block.attention.qkv.bias is not None for block in psi.blocks] == [has_bias] * 2
        assert (psi.head.bias is None) == has_bias


def test_more_eigenfunctions_than_channels_are_refused():
    assert Eigenfunctions(24, 16, width=16, generator=seeded()).head.weight.shape == (16, 16)
    with pytest.raises(InputError, match="17 clusters need a psi at least as wide"):
        Eigenfunctions(24, 17, width=16, generator=seeded())


def test_equal_seeds_give_equal_weights_whatever_the_global_state():
    torch.manual_seed(1)
    first = Eigenfunctions(24, 5, width=16, generator=seeded(7)).state_dict()
    torch.manual_seed(2)
    second = Eigenfunctions(24, 5, width=16, generator=seeded(7)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gumbel_softmax_samples_the_softmax_distribution():
    logits = torch.tensor([1.0, 0.0, -1.0]).expand(40_000, 3)
    hard = gumbel_softmax(logits, temperature=0.1, generator=seeded()).argmax(dim=1)
    share = torch.bincount(hard, minlength=3) / 40_000
    torch.testing.assert_close(share, logits[0].softmax(0), atol=0.01, rtol=0)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_gumbel_softmax_is_soft_and_sums_to_one(temperature):
    sample = gumbel_softmax(torch.zeros(50, 4), temperature=temperature, generator=seeded())
    torch.testing.assert_close(sample.sum(1), torch.ones(50))
    assert ((sample > 0) & (sample < 1)).any()


def test_gumbel_softmax_agrees_with_torch_on_the_same_noise():
    logits = torch.randn(20, 6, generator=seeded(3))
    torch.manual_seed(5)
    theirs = F.gumbel_softmax(logits, tau=0.7)
    ours = gumbel_softmax(logits, temperature=0.7, generator=seeded(5))
    torch.testing.assert_close(ours, theirs)


def test_l2_batch_norm_gives_unit_second_moments():
    psi = l2_batch_norm(torch.randn(100, 4, generator=seeded()) * torch.tensor([1.0, 10.0, 100.0, 0.5]))
    torch.testing.assert_close(psi.square().mean(0), torch.ones(4))


def test_l2_batch_norm_does_not_blow_up_a_dead_cluster():
    dead = torch.zeros(100, 1)
    dead[0] = 0.5
    torch.testing.assert_close(l2_batch_norm(dead), dead * 10)


def test_standardised_channels_have_zero_mean_and_unit_variance():
    features = torch.randn(500, 6, generator=seeded()) * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0, 0.0]) + 5
    mean, deviation = features.mean(0), features.std(0, correction=0)
    standardised = Standardise(mean, deviation)(features)
    torch.testing.assert_close(standardised.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(standardised.std(0, correction=0)[:5], torch.ones(5), atol=1e-3, rtol=0)
    assert not standardised[:, 5].any()


def test_orthonormal_rows_are_gram_schmidt_of_the_rows():
    weight = torch.randn(4, 9, generator=seeded(), dtype=torch.float64)
    rows = []
    for row in weight:
        row = row - sum((row @ other) * other for other in rows)
        rows.append(row / row.norm())
    torch.testing.assert_close(OrthonormalRows()(weight), torch.stack(rows))


def test_orthonormal_rows_pass_the_gradient():
    weight = torch.randn(3, 5, generator=seeded(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(OrthonormalRows(), weight)


def test_an_mlp_without_hidden_channels_is_refused():
    with pytest.raises(InputError, match=r"mlp_ratio is 0\.01, which leaves no hidden channel of 32"):
        Eigenfunctions(8, 4, width=32, mlp_ratio=0.01, generator=seeded())


def test_hidden_channels_are_cut_to_whole_ones():
    assert Block(6, "softmax", 0.45).mlp[0].out_features == 2
