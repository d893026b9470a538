from functools import partial

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from huggingface_hub.errors import HfHubHTTPError
from timm.layers import QuickGELU
from timm.models.vision_transformer import ParallelThingsBlock

from neuralef import backbones
from neuralef.backbones import build, resample_positions
from neuralef.errors import InputError

TINY = "vit_tiny_patch16_224"
DINO = "vit_small_patch16_224.dino"


def photographs(height, width, images=2, seed=0):
    return torch.rand(images, 3, height, width, generator=torch.Generator().manual_seed(seed))


HALF, IMAGENET = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)
CLIP = (0.48145466, 0.4578275, 0.40821073)
FIRST_MIDDLE_LAST, OF_24 = (0, 6, 11), (0, 12, 23)

# Patch, channels, blocks, tokens before the patches, mean colour: worked out from the papers.
HUB = {
    "vit_small_patch16_384": (16, 384, FIRST_MIDDLE_LAST, 1, HALF),
    "vit_base_patch16_384": (16, 768, FIRST_MIDDLE_LAST, 1, HALF),
    "vit_large_patch16_384": (16, 1024, OF_24, 1, HALF),
    "clip_vit_b16": (16, 768, FIRST_MIDDLE_LAST, 1, CLIP),
    "clip_vit_l14": (14, 1024, OF_24, 1, CLIP),
    "clip_vit_l14_336": (14, 1024, OF_24, 1, CLIP),
    "dino_vit_s16": (16, 384, FIRST_MIDDLE_LAST, 1, IMAGENET),
    "dino_vit_s8": (8, 384, FIRST_MIDDLE_LAST, 1, IMAGENET),
    "dino_vit_b16": (16, 768, FIRST_MIDDLE_LAST, 1, IMAGENET),
    "dino_vit_b8": (8, 768, FIRST_MIDDLE_LAST, 1, IMAGENET),
    "dinov2_vit_s14": (14, 384, FIRST_MIDDLE_LAST, 1, IMAGENET),
    "dinov2_vit_b14": (14, 768, FIRST_MIDDLE_LAST, 1, IMAGENET),
    "dinov3_vit_s16": (16, 384, FIRST_MIDDLE_LAST, 5, IMAGENET),
    "dinov3_vit_b16": (16, 768, FIRST_MIDDLE_LAST, 5, IMAGENET),
    "siglip2_vit_b16": (16, 768, FIRST_MIDDLE_LAST, 0, HALF),
    "siglip2_vit_l16": (16, 1024, OF_24, 0, HALF),
}


@pytest.fixture
def without_numbers(monkeypatch):
    """Networks on torch's meta device: shapes alone, so that the largest costs as little as the smallest."""
    monkeypatch.setattr(backbones, "tensors_digest", lambda _tensors: "")
    with torch.device("meta"):
        yield


@pytest.fixture
def three_blocks(monkeypatch):
    """Networks of three blocks."""
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=3))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file of random weights that fits TINY."""
    torch.manual_seed(1)
    state = timm.create_model(TINY, pretrained=False, num_classes=0).state_dict()
    state["norm.weight"], state["norm.bias"] = 1 + 0.3 * torch.randn(192), 0.3 * torch.randn(192)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    safetensors.torch.save_file(state, path)
    return path


@pytest.fixture(scope="module")
def tiny(checkpoint):
    return build(TINY, checkpoint=checkpoint)


@pytest.fixture(scope="module")
def efficientnet():
    torch.manual_seed(0)
    return build("efficientnet_lite0", pretrained=False)


def test_the_backbones_of_the_registry_are_named():
    names = [known.name for known in backbones.available()]
    assert names[:3] == ["vit_small_patch14_saliency", "efficientnet_lite0", "colour_patches"]
    assert set(names[3:]) == set(HUB)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["vit_small_patch14_saliency", "efficientnet_lite0", "colour_patches"])
def test_what_the_registry_says_of_the_others_holds(name):
    known, built = backbones._SPECS[name], build(name, pretrained=False)
    assert (built.patch_size, built.channels) == (known.patch_size, known.channels)


@pytest.mark.parametrize("name", HUB)
def test_a_backbone_of_the_hub_has_the_shape_the_registry_says(without_numbers, name):
    patch, channels, blocks, prefix, mean = HUB[name]
    known, built = backbones._SPECS[name], build(name, pretrained=False)
    assert (built.patch_size, built.channels) == (patch, (channels,) * 3) == (known.patch_size, known.channels)
    assert built.spec.blocks == blocks
    assert built.spec.high_level == ("keys" if name.startswith("dino_") else "final_norm")
    assert built.network.num_prefix_tokens == prefix
    assert built.network.pretrained_cfg["mean"] == mean
    assert isinstance(built.network.norm_pre, torch.nn.Identity) != name.startswith("clip_")
    assert (built._positions is None) == name.startswith("dinov3_")
    grid = (-(-480 // patch), -(-321 // patch))
    assert [level.shape for level in built.levels(torch.empty(2, 3, 480, 321))] == [(2, channels, *grid)] * 3


def test_clip_has_the_activation_it_was_trained_with(without_numbers):
    for name in ("clip_vit_b16", "clip_vit_l14", "clip_vit_l14_336"):
        assert isinstance(build(name, pretrained=False).network.blocks[0].mlp.act, QuickGELU)


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_384", "clip_vit_b16", "dinov2_vit_s14", "dinov3_vit_s16", "siglip2_vit_b16"]
)
def test_the_levels_of_every_family_are_what_timm_computes(three_blocks, name):
    built = build(name, pretrained=False)
    network = built.network
    for norm in (network.norm, network.norm_pre):
        for parameter in norm.parameters():
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    side = network.pretrained_cfg["input_size"][-1]  # the grid its positions were learned for
    images = photographs(side, side, images=1)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    taken = []
    hooks = [block.register_forward_hook(lambda _module, _inputs, out: taken.append(out)) for block in network.blocks]
    features = built(images).flatten(1, 2)
    for hook in hooks:
        hook.remove()
    with torch.inference_mode():
        high = network.forward_features((images - mean) / std)
    expected = torch.cat([taken[0], taken[1], high], dim=-1)[:, network.num_prefix_tokens :]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(taken[2], high)


def test_rotary_positions_follow_the_grid(three_blocks):
    built = build("dinov3_vit_s16", pretrained=False)
    grey = torch.full((1, 3, 64, 96), 0.5)
    features = built(grey)
    assert features.shape == (1, 4, 6, 3 * 384)
    assert not torch.allclose(features[0, 0, 0], features[0, 3, 5])  # equal patches: only where they lie differs


def test_an_unknown_backbone_is_named_with_the_known_ones():
    with pytest.raises(InputError, match="unknown backbone 'vit_enormous'; there are vit_small_patch14_saliency"):
        build("vit_enormous")


def test_unknown_weights_of_a_known_backbone_are_named_with_the_known_ones():
    with pytest.raises(InputError, match=f"unknown weights of backbone '{TINY}.moon'; there are {TINY}.augreg_in21k"):
        build(f"{TINY}.moon")


# The last of them cuts patches that stay in two dimensions.
@pytest.mark.parametrize(
    "name", ["resnet18", "swin_tiny_patch4_window7_224", "vit_small_r26_s32_224", "test_vit.r160_in1k"]
)
def test_a_network_that_is_no_plain_transformer_is_refused(name):
    with pytest.raises(InputError, match=f"{name} is neither a plain timm VisionTransformer"):
        build(name, pretrained=False)


def test_a_network_that_cannot_be_used_is_refused_before_its_weights_are_asked_for(monkeypatch):
    create = timm.create_model

    def offline(*names, pretrained=False, **settings):
        if pretrained:
            raise OSError("no route to host")
        return create(*names, **settings)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match="resnet18 is neither a plain timm VisionTransformer"):
        build("resnet18")
    with pytest.raises(InputError, match=f"the weights of {TINY} could not be downloaded"):
        build(TINY)


@pytest.mark.parametrize("name", [TINY, "efficientnet_lite0"])
@pytest.mark.parametrize(
    "blocks", [(0, 4, 12), (-13, 0, 1), (8, 4, 0), (3, 3, 3), (0, 3, 3), (1, 2), (0, 1, 2, 3), (0, -1, 2)]
)
def test_blocks_that_do_not_fit_are_named_with_the_range(name, blocks):
    last = 11 if name == TINY else 4
    with pytest.raises(InputError, match=rf"blocks \({', '.join(map(str, blocks))}\) do not fit {name}.*0\.\.{last}"):
        build(name, blocks=blocks, pretrained=False)


def test_negative_blocks_count_from_the_end(checkpoint, tiny):
    chosen = build(TINY, blocks=(-12, -6, -1), checkpoint=checkpoint)
    assert chosen.spec.blocks == (0, 6, 11) == tiny.spec.blocks  # first, middle, last: the paper's
    assert torch.equal(chosen(photographs(64, 64)), tiny(photographs(64, 64)))


@pytest.mark.parametrize("name", ["colour_patches", "tiny", "efficientnet"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (1, 1), (17, 33), (48, 31), (100, 130)])
def test_any_size_gives_one_vector_per_patch_begun(request, name, height, width):
    backbone = build(name) if name == "colour_patches" else request.getfixturevalue(name)
    images = photographs(height, width)
    features = backbone(images)
    grid = (-(-height // backbone.patch_size), -(-width // backbone.patch_size))
    assert features.shape == (2, *grid, sum(backbone.channels))
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    levels = [level.permute(0, 2, 3, 1) for level in backbone.levels(images)]
    assert tuple(level.shape[-1] for level in levels) == backbone.channels
    torch.testing.assert_close(features, torch.cat(levels, dim=-1))


def test_padding_leaves_the_patches_of_the_image_alone(colour_backbone):
    images = photographs(29, 45)
    low = colour_backbone.levels(images)[0]
    of_crop = colour_backbone.levels(images[..., :24, :40])[0]
    # The last row and column of each gradient look one pixel further; mean and spread do not.
    assert torch.equal(low[:, :6, :3, :5], of_crop[:, :6])
    assert torch.equal(low[:, :, :2, :4], of_crop[:, :, :2, :4])


def test_padding_is_zero_after_normalisation(tiny):
    images = photographs(30, 45)
    by_hand = tiny.mean.expand(2, 3, 32, 48).clone()
    by_hand[..., :30, :45] = images
    torch.testing.assert_close(tiny(images), tiny(by_hand), rtol=0, atol=1e-5)


def test_colour_levels_are_mean_spread_and_gradient_of_each_patch(colour_backbone):
    images = photographs(16, 24, images=1)
    low, middle, high = (level[0] for level in colour_backbone.levels(images))
    patch = (2 * images[0] - 1)[:, 8:16, 8:16]
    torch.testing.assert_close(low[:3, 1, 1], patch.mean((1, 2)))
    torch.testing.assert_close(low[3:6, 1, 1], 2 * patch.flatten(1).std(1, correction=0), rtol=1e-4, atol=1e-5)
    grey = (2 * images[0] - 1).mean(0)
    assert low[6, 1, 1].item() == pytest.approx(4 * grey.diff(dim=1).abs()[8:16, 8:16].mean().item(), rel=1e-4)
    torch.testing.assert_close(middle[:, 0, 0], low[:, :2, :2].mean((1, 2)))
    assert torch.equal(high, torch.cat([low, middle]))


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_positions_on_their_own_grid_stay_as_they_are(prefix):
    positions = torch.randn(1, prefix + 12, 7)
    assert torch.equal(resample_positions(positions, (3, 4), (3, 4), prefix_tokens=prefix), positions)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("target", [(6, 8), (2, 9), (1, 1), (4, 3)])
def test_positions_are_resampled_by_plain_bicubic_interpolation(prefix, target):
    positions = torch.randn(1, prefix + 12, 7)
    found = resample_positions(positions, (3, 4), target, prefix_tokens=prefix)
    assert torch.equal(found[:, :prefix], positions[:, :prefix])
    by_channel = [
        F.interpolate(channel.view(1, 1, 3, 4), size=target, mode="bicubic").flatten()
        for channel in positions[0, prefix:].T
    ]
    torch.testing.assert_close(found[0, prefix:], torch.stack(by_channel, dim=1))


def test_equal_positions_stay_equal_on_any_grid():
    positions = torch.full((1, 1 + 16, 3), 0.7)
    torch.testing.assert_close(
        resample_positions(positions, (4, 4), (7, 5), prefix_tokens=1), torch.full((1, 1 + 35, 3), 0.7)
    )


def test_one_size_after_another_gives_what_a_fresh_backbone_gives(tiny, checkpoint):
    sizes = [(224, 224), (32, 64), (80, 48), (224, 224), (64, 32)]
    for size in sizes:
        assert torch.equal(tiny(photographs(*size)), build(TINY, checkpoint=checkpoint)(photographs(*size)))


def test_images_of_a_batch_do_not_see_each_other(tiny):
    images = photographs(48, 64, images=3)
    torch.testing.assert_close(tiny(images)[1:2], tiny(images[1:2]), rtol=1e-4, atol=1e-4)


def test_final_norm_is_what_timm_gives_after_all_blocks(tiny, checkpoint):
    network = timm.create_model(TINY, pretrained=False, num_classes=0, checkpoint_path=str(checkpoint)).eval()
    images = photographs(224, 224)
    with torch.inference_mode():
        expected = network.forward_features((images - 0.5) / 0.5)[:, 1:]  # 0.5: what this network was trained with
    high = tiny(images)[..., -192:].flatten(1, 2)
    torch.testing.assert_close(high, expected, rtol=1e-4, atol=1e-5)


def test_layer_norm_has_no_parameters_and_raw_has_no_norm(tiny, checkpoint):
    images = photographs(64, 48)
    raw = build(TINY, checkpoint=checkpoint, blocks=(0, 4, 8), high_level="raw")(images)
    normed = build(TINY, checkpoint=checkpoint, blocks=(0, 4, 8), high_level="layer_norm")(images)
    assert torch.equal(raw[..., :384], normed[..., :384])  # low and middle are read as they are
    assert torch.equal(raw[..., :192], tiny(images)[..., :192])
    high = raw[..., -192:]
    centred = high - high.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(normed[..., -192:], expected, rtol=1e-4, atol=1e-5)


def test_dino_s_high_level_is_the_keys_of_its_last_block():
    backbone = build(DINO, pretrained=False)
    assert backbone.spec.high_level == "keys"
    network, block = backbone.network, backbone.network.blocks[11]
    for bias in (block.attn.qkv.bias, block.norm1.bias):
        torch.nn.init.normal_(bias)
    images = photographs(32, 48)
    features = backbone(images)
    with torch.inference_mode():
        before = network.forward_intermediates(
            (images - backbone.mean) / backbone.std,
            indices=[10],
            intermediates_only=True,
            output_fmt="NLC",
        )[0]
        tokens = block.norm1(before)
        C = tokens.shape[-1]
        keys = tokens @ block.attn.qkv.weight[C : 2 * C].T + block.attn.qkv.bias[C : 2 * C]
    torch.testing.assert_close(features[..., -C:].flatten(1, 2), keys, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_base_patch16_224"])
def test_other_transformers_are_read_through_their_final_norm(name):
    assert backbones._transformer_spec(name).high_level == "final_norm"


def test_register_tokens_are_dropped():
    backbone = build("vit_small_patch14_reg4_dinov2", pretrained=False)
    assert backbone.network.num_prefix_tokens == 5
    assert backbone(photographs(28, 42)).shape == (2, 2, 3, 3 * 384)


def test_hooks_do_not_stay():
    backbone = build(DINO, pretrained=False)
    backbone(photographs(32, 32))
    assert not backbone.network.blocks[11].attn.qkv._forward_hooks


def test_backbones_are_frozen(tiny, efficientnet):
    for backbone in (tiny, efficientnet):
        assert not backbone.network.training
        assert not any(parameter.requires_grad for parameter in backbone.parameters())
        assert not backbone(photographs(32, 32)).requires_grad


def test_bfloat16_gives_nearly_the_same_in_float32(tiny):
    images = photographs(64, 64)
    exact, fast = tiny(images), tiny(images, precision="bfloat16")
    assert fast.dtype == torch.float32
    assert not torch.equal(fast, exact)
    assert F.cosine_similarity(fast, exact, dim=-1).min() > 0.99


def test_efficientnet_stages_meet_on_the_grid_of_stride_16(efficientnet):
    images = photographs(96, 64)
    assert efficientnet.channels == (40, 112, 320)
    maps = efficientnet.network.forward_intermediates(
        (images - efficientnet.mean) / efficientnet.std, indices=[2, 3, 4], intermediates_only=True
    )
    fine, same, coarse = (level.permute(0, 2, 3, 1) for level in efficientnet.levels(images))
    assert [tuple(level.shape[-2:]) for level in maps] == [(12, 8), (6, 4), (3, 2)]
    torch.testing.assert_close(fine, F.avg_pool2d(maps[0], 2).permute(0, 2, 3, 1))
    torch.testing.assert_close(same, maps[1].permute(0, 2, 3, 1))
    torch.testing.assert_close(coarse.mean((1, 2)), maps[2].mean((2, 3)), rtol=1e-3, atol=1e-4)


def test_a_local_checkpoint_is_what_the_network_gets(tiny, checkpoint):
    stored = safetensors.torch.load_file(checkpoint)
    assert torch.equal(tiny.network.blocks[3].attn.qkv.weight, stored["blocks.3.attn.qkv.weight"])
    assert torch.equal(tiny._positions, stored["pos_embed"])


def test_a_checkpoint_may_hold_more_than_the_network_needs(tmp_path, checkpoint, tiny):
    state = safetensors.torch.load_file(checkpoint) | {"head.weight": torch.zeros(1000, 192)}
    safetensors.torch.save_file(state, tmp_path / "with_head.safetensors")
    assert build(TINY, checkpoint=tmp_path / "with_head.safetensors").fingerprint == tiny.fingerprint


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path, state: None, "does not exist"),
        (lambda path, state: path.write_bytes(b"no tensors"), "is damaged or no safetensors file"),
        (
            lambda path, state: safetensors.torch.save_file(
                {name: tensor for name, tensor in state.items() if name != "blocks.5.mlp.fc1.bias"}, path
            ),
            r"does not fit the backbone: blocks\.5\.mlp\.fc1\.bias is missing",
        ),
        (
            lambda path, state: safetensors.torch.save_file(state | {"norm.weight": torch.ones(384)}, path),
            r"does not fit the backbone: norm\.weight is missing or has another shape",
        ),
    ],
    ids=["missing", "no safetensors", "lacks a tensor", "other shape"],
)
def test_a_checkpoint_that_cannot_be_used_is_named(tmp_path, checkpoint, spoil, message):
    path = tmp_path / "given.safetensors"
    spoil(path, safetensors.torch.load_file(checkpoint))
    with pytest.raises(InputError, match=f"checkpoint {path} {message}"):
        build(TINY, checkpoint=path)


@pytest.mark.parametrize("name", HUB)
def test_weights_that_cannot_be_downloaded_are_named_with_their_repository(monkeypatch, name):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    repository, file = backbones.hub_file(backbones._SPECS[name].architecture)
    assert repository.startswith("timm/vit_") and "quickgelu" not in repository
    assert file == "model.safetensors"
    with pytest.raises(InputError, match=rf"{name} could not be downloaded.*huggingface\.co/{repository}"):
        build(name)


def test_an_architecture_nobody_publishes_weights_of_is_named():
    with pytest.raises(InputError, match="publishes no weights of vit_base_patch16_18x2_224"):
        backbones.hub_file("vit_base_patch16_18x2_224")


def test_fetch_says_where_the_hub_s_file_lies(monkeypatch, tiny):
    asked = []

    def created(architecture, *, pretrained, **_):
        asked.append((architecture, pretrained))
        return tiny.network

    monkeypatch.setattr(timm, "create_model", created)
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda repository, file: f"/hub/{repository}/{file}")
    path = backbones.fetch("dinov2_vit_s14")
    assert path.as_posix() == "/hub/timm/vit_small_patch14_dinov2.lvd142m/model.safetensors"
    assert asked == [("vit_small_patch14_dinov2.lvd142m", True)]


def test_fetch_refuses_what_has_no_weights():
    with pytest.raises(InputError, match="colour_patches has no weights"):
        backbones.fetch("colour_patches")
    with pytest.raises(InputError, match="unknown backbone 'moon'"):
        backbones.fetch("moon")
    with pytest.raises(InputError, match=r"publishes no weights of vit_huge_patch14_gap_224\.in1k_ijepa"):
        backbones.fetch("vit_huge_patch14_gap_224.in1k_ijepa")  # nor is anything downloaded to find that out


def test_ready_is_what_needs_no_download(monkeypatch, data_folder):
    def ready():
        return {known.name for known in backbones.available() if known.ready}

    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda *_: None)
    assert ready() == {"colour_patches"}
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda name, _: "file" if "dinov2" in name else None)
    assert ready() == {"colour_patches", "dinov2_vit_s14", "dinov2_vit_b14"}


def test_settings_without_a_meaning_are_refused():
    with pytest.raises(InputError, match="high_level is 'keys', but efficientnet_lite0 is not a vision transformer"):
        build("efficientnet_lite0", high_level="keys", pretrained=False)
    build("efficientnet_lite0", high_level="raw", pretrained=False)
    with pytest.raises(InputError, match=r"blocks \(3, 5, 7\) do not fit colour_patches"):
        build("colour_patches", blocks=(3, 5, 7))
    build("colour_patches", blocks=(-3, -2, -1))  # all that it has


def test_a_high_level_that_the_network_does_not_have_is_refused(monkeypatch, three_blocks):
    with pytest.raises(InputError, match="high_level is keys, but those of dinov3_vit_s16 are turned"):
        build("dinov3_vit_s16", high_level="keys", pretrained=False)
    with monkeypatch.context() as parallel, pytest.raises(InputError, match=r"a block of .* has several attentions"):
        parallel.setattr(timm, "create_model", partial(timm.create_model, block_fn=ParallelThingsBlock))
        build(TINY, high_level="keys", pretrained=False)
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, global_pool="avg"))
    with pytest.raises(InputError, match=f"{TINY} has no norm after its last block"):
        build(TINY, pretrained=False)
    build(TINY, high_level="layer_norm", pretrained=False)


@pytest.mark.parametrize(
    "failure",
    [
        OSError("no route to host"),
        RuntimeError("Cannot send a request"),
        HfHubHTTPError.__bases__[0]("the proxy refused"),  # of the hub's HTTP library: neither of the two
    ],
)
def test_weights_the_hub_does_not_give_are_asked_for_by_hand(monkeypatch, failure):
    def unreachable(*_, pretrained, **__):
        assert pretrained
        raise failure

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(InputError) as refused:
        build("vit_small_patch16_384")
    message = str(refused.value)
    assert type(failure).__name__ in message
    assert "huggingface.co/timm/vit_small_patch16_384" in message
    assert "--set checkpoint=FILE" in message


def test_fingerprint_follows_what_the_features_depend_on(tiny, checkpoint):
    same = build(TINY, checkpoint=checkpoint)
    same(photographs(32, 48), precision="bfloat16")
    assert same.fingerprint == tiny.fingerprint
    others = [
        build(TINY, checkpoint=checkpoint, blocks=(0, 5, 11)),
        build(TINY, checkpoint=checkpoint, high_level="raw"),
        build(TINY, checkpoint=checkpoint, high_level="keys"),
        build(TINY, pretrained=False),
        build("colour_patches"),
    ]
    assert len({tiny.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


@pytest.mark.parametrize("name", ["pos_embed", "cls_token", "blocks.11.mlp.fc2.bias", "patch_embed.proj.weight"])
def test_fingerprint_follows_every_number_of_every_tensor(tmp_path, checkpoint, tiny, name):
    state = safetensors.torch.load_file(checkpoint)
    state[name].view(-1)[-1] += 1
    safetensors.torch.save_file(state, tmp_path / "other.safetensors")
    assert build(TINY, checkpoint=tmp_path / "other.safetensors").fingerprint != tiny.fingerprint


@pytest.mark.parametrize("setting", [{"high_level": "keys"}, {"checkpoint": "weights.safetensors"}])
def test_settings_of_a_network_are_refused_where_there_is_none(setting):
    with pytest.raises(InputError, match=rf"{next(iter(setting))} is .*, but colour_patches has no network"):
        backbones.build("colour_patches", **setting)


def test_more_images_than_pass_together_are_all_seen_in_order(colour_backbone):
    images = torch.rand(2 * backbones.IMAGES_AT_ONCE["float32"] + 1, 3, 16, 24)
    expected = torch.cat([colour_backbone(image[None]) for image in images])
    torch.testing.assert_close(colour_backbone(images), expected)
