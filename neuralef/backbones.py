"""Frozen networks that turn an image into one feature vector per patch (paper, section 3.1).

Every backbone gives three levels, as the official code concatenates them for psi: a *low*, a *middle* and a *high* one.
The kernel's feature graph (Eq. 2) and the K-means baseline read the high level alone.

Vision transformers come from timm (``forward_intermediates``). Learned positions are resampled to any image size by
plain bicubic interpolation; timm's own ``dynamic_img_size`` antialiases them, which neither DINOv2 nor the ViTs of the
paper were trained with. DINOv3 has no learned positions: its attention turns queries and keys by theirs.

Blocks are the official code's: the first, the one after half of them, and the last. The last is read through the
network's own final norm, for DINO as the keys of its attention (paper facts, section 4, item 11).

References:
    Dosovitskiy et al., *An Image is Worth 16x16 Words*, arXiv:2010.11929.
    Radford et al., *CLIP*, arXiv:2103.00020; Caron et al., *DINO*, arXiv:2104.14294; Oquab et al., *DINOv2*,
    arXiv:2304.07193; Tschannen et al., *SigLIP 2*, arXiv:2502.14786; Siméoni et al., *DINOv3*, arXiv:2508.10104.
    Liu et al., *EfficientNet-Lite* (TensorFlow TPU models); Tan and Le, *EfficientNet*, arXiv:1905.11946.
"""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from neuralef import weights
from neuralef.errors import InputError
from neuralef.files import tensors_digest
from neuralef.precision import Precision, autocast

# timm brings torchvision and torch's compiler, a fifth of what it takes to import this package, and features that are
# stored or made without a network need none of it: the functions that do import it themselves.

log = logging.getLogger(__name__)

HighLevel = Literal["final_norm", "layer_norm", "raw", "keys"]
"""How the high level is read: through the network's final norm, through a parameter-free layer norm, as it is, or as
the attention keys of its block (what the official code does for DINO backbones)."""

IMAGES_AT_ONCE = {"float32": 8, "bfloat16": 2}
"""Images of one pass on a processor; in bfloat16 the attention matrices of two still fit its cache."""

IMAGES_AT_ONCE_CUDA = 16
"""Images of one pass on a GPU: a batch of the paper's."""


@dataclass(frozen=True)
class BackboneSpec:
    """What to build and where to tap it; ``blocks`` are the 0-indexed low, middle and high blocks (CNN: stages)."""

    name: str
    architecture: str
    blocks: tuple[int, ...]
    high_level: HighLevel
    note: str


@dataclass(frozen=True)
class KnownBackbone(BackboneSpec):
    """A backbone with a short name of its own; what is said of it here holds for the built one (tested).

    Attributes:
        patch_size: Side of a patch in pixels.
        channels: Width of each level, low to high.
        licence: Licence of the weights, as published.
    """

    patch_size: int
    channels: tuple[int, int, int]
    licence: str

    @property
    def source(self) -> str:
        """Where the weights come from, in words."""
        if not self.architecture:
            return "no weights"
        if self.name in weights.PACKAGED:
            return f"pip: {weights.PACKAGED[self.name].requirement}"
        return f"huggingface.co/{hub_file(self.architecture)[0]}"

    @property
    def ready(self) -> bool:
        """Whether :func:`build` needs no download."""
        if not self.architecture:
            return True
        if self.name in weights.PACKAGED:
            return weights.path_of(self.name).is_file()
        return isinstance(try_to_load_from_cache(*hub_file(self.architecture)), str)


def hub_file(architecture: str) -> tuple[str, str]:
    """Repository and file in which the model hub keeps the weights of a timm architecture.

    Raises:
        InputError: If timm knows of none.
    """
    import timm

    config = timm.get_pretrained_cfg(architecture)
    if config is None or not config.hf_hub_id:
        raise InputError(f"timm publishes no weights of {architecture}; name a file with --set checkpoint=FILE")
    return config.hf_hub_id, config.hf_hub_filename or "model.safetensors"


def _vit(
    name: str,
    architecture: str,
    patch_size: int,
    channels: int,
    licence: str,
    note: str,
    high_level: HighLevel = "final_norm",
) -> KnownBackbone:
    return KnownBackbone(name, architecture, (), high_level, note, patch_size, (channels,) * 3, licence)


_SALIENCY_NOTE = (
    "fine-tuned by its author to predict saliency: saliency labels have probably entered the backbone, so "
    "'unsupervised' applies to the head only"
)
_PAPER_NOTE = (
    "of the paper's tables; supervised on ImageNet-21k, then on ImageNet-1k at 384 pixels, so 'unsupervised' applies "
    "to the head only"
)
# OpenAI's networks have QuickGELU; timm's plain vit_*_clip_* names put GELU in its place, which they never saw.
_CLIP_NOTE = "of the paper's Table 9; trained on pairs of image and text by OpenAI, with QuickGELU"
_DINO_NOTE = "self-supervised on ImageNet-1k; the high level is the keys of the last block"
_DINOV2_NOTE = "self-supervised on LVD-142M"
_DINOV3_NOTE = "self-supervised on LVD-1689M; rotary positions, four register tokens"
_SIGLIP2_NOTE = "trained on pairs of image and text (WebLI); no class token"
_DINOV3_LICENCE = "DINOv3 License, Meta's own, with terms on use and redistribution"
_KNOWN = (
    KnownBackbone(
        "vit_small_patch14_saliency",
        "vit_small_patch14_dinov2",
        (0, 4, 8),
        "layer_norm",
        _SALIENCY_NOTE,
        14,
        (384, 384, 384),
        weights.PACKAGED["vit_small_patch14_saliency"].licence,
    ),
    KnownBackbone(
        "efficientnet_lite0",
        "tf_efficientnet_lite0",
        (2, 3, 4),
        "raw",
        "supervised on ImageNet-1k",
        16,
        (40, 112, 320),
        weights.PACKAGED["efficientnet_lite0"].licence,
    ),
    KnownBackbone(
        "colour_patches",
        "",
        (0, 1, 2),
        "raw",
        "no network: colour statistics of patches",
        8,
        (8, 8, 16),
        "none needed",
    ),
    *(
        _vit(name, f"{name}.augreg_in21k_ft_in1k", 16, channels, "Apache-2.0", _PAPER_NOTE)
        for name, channels in (
            ("vit_small_patch16_384", 384),
            ("vit_base_patch16_384", 768),
            ("vit_large_patch16_384", 1024),
        )
    ),
    _vit("clip_vit_b16", "vit_base_patch16_clip_quickgelu_224.openai", 16, 768, "MIT", _CLIP_NOTE),
    _vit("clip_vit_l14", "vit_large_patch14_clip_quickgelu_224.openai", 14, 1024, "MIT", _CLIP_NOTE),
    _vit("clip_vit_l14_336", "vit_large_patch14_clip_quickgelu_336.openai", 14, 1024, "MIT", _CLIP_NOTE),
    _vit("dino_vit_s16", "vit_small_patch16_224.dino", 16, 384, "Apache-2.0", _DINO_NOTE, "keys"),
    _vit("dino_vit_s8", "vit_small_patch8_224.dino", 8, 384, "Apache-2.0", _DINO_NOTE, "keys"),
    _vit("dino_vit_b16", "vit_base_patch16_224.dino", 16, 768, "Apache-2.0", _DINO_NOTE, "keys"),
    _vit("dino_vit_b8", "vit_base_patch8_224.dino", 8, 768, "Apache-2.0", _DINO_NOTE, "keys"),
    _vit("dinov2_vit_s14", "vit_small_patch14_dinov2.lvd142m", 14, 384, "Apache-2.0", _DINOV2_NOTE),
    _vit("dinov2_vit_b14", "vit_base_patch14_dinov2.lvd142m", 14, 768, "Apache-2.0", _DINOV2_NOTE),
    _vit("dinov3_vit_s16", "vit_small_patch16_dinov3.lvd1689m", 16, 384, _DINOV3_LICENCE, _DINOV3_NOTE),
    _vit("dinov3_vit_b16", "vit_base_patch16_dinov3.lvd1689m", 16, 768, _DINOV3_LICENCE, _DINOV3_NOTE),
    _vit("siglip2_vit_b16", "vit_base_patch16_siglip_384.v2_webli", 16, 768, "Apache-2.0", _SIGLIP2_NOTE),
    _vit("siglip2_vit_l16", "vit_large_patch16_siglip_384.v2_webli", 16, 1024, "Apache-2.0", _SIGLIP2_NOTE),
)
_SPECS = {known.name: known for known in _KNOWN}


def available() -> tuple[KnownBackbone, ...]:
    """The backbones with short names; any other vision transformer of timm can be named as well."""
    return _KNOWN


def fetch(name: str) -> Path:
    """Download the weights of a backbone, unless they are here; :func:`build` does the same by itself.

    Args:
        name: Name of the backbone, as for :func:`build`.

    Returns:
        File that holds the weights.

    Raises:
        InputError: If the name is unknown, there is nothing to fetch, or the weights cannot be had.
    """
    spec = _SPECS.get(name) or _transformer_spec(name)
    if not spec.architecture:
        raise InputError(f"{name} has no weights to fetch; it can be used as it is")
    if name in weights.PACKAGED:
        return weights.fetch(name)
    source = hub_file(spec.architecture)
    _network(spec, checkpoint=None, pretrained=True)
    return Path(try_to_load_from_cache(*source))


class Backbone(nn.Module, ABC):
    """A frozen network with its pre-processing and padding.

    Attributes:
        spec: Specification of what was built.
        patch_size: Side of a patch in pixels.
        channels: Width of each level, low to high.
        fingerprint: Digest of everything the features depend on besides the image and the precision.
    """

    def __init__(
        self, spec: BackboneSpec, network: nn.Module, patch_size: int, mean: Sequence[float], std: Sequence[float]
    ):
        super().__init__()
        self.spec = spec
        self.network = network.eval().requires_grad_(False)
        self.patch_size = patch_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        weights_digest = tensors_digest(network.state_dict())  # before the probe, which resamples the positions
        probe = self.levels(torch.zeros(1, 3, 4 * patch_size, 4 * patch_size))
        self.channels = tuple(level.shape[1] for level in probe)
        tapped = f"{spec.architecture} {spec.blocks} {spec.high_level}"
        identity = f"{tapped} {patch_size} {tuple(mean)} {tuple(std)} {weights_digest}"
        self.fingerprint = sha256(identity.encode()).hexdigest()

    @property
    def device(self) -> torch.device:
        """Device of the weights; :meth:`to` moves them."""
        return self.mean.device

    def levels(self, images: Tensor, *, precision: Precision = "float32") -> list[Tensor]:
        """Low, middle and high features of a batch.

        Args:
            images: Images, shape ``(B, 3, H, W)``, values in [0, 1]. Sides that are not a multiple of the patch are
                padded with zeros on the right and below, after normalisation, as Segmenter's code does.
            precision: Precision of the matrix products; the rest stays in float32.

        Returns:
            One ``(B, C, ceil(H / P), ceil(W / P))`` tensor per level, on the backbone's device.
        """
        height, width = images.shape[-2:]
        normalised = (images.to(self.device) - self.mean) / self.std
        padded = F.pad(normalised, (0, -width % self.patch_size, 0, -height % self.patch_size))
        with autocast(precision, self.device):
            return self._levels(self.network if precision == "float32" else self._bfloat16_network, padded)

    def forward(self, images: Tensor, *, precision: Precision = "float32") -> Tensor:
        """All levels concatenated, the high one last: ``(B, 3, H, W)`` in [0, 1] to float32 ``(B, h, w, sum C)``.

        The images may lie on another device; the features are on the backbone's.
        """
        together = IMAGES_AT_ONCE[precision] if self.device.type == "cpu" else IMAGES_AT_ONCE_CUDA
        with torch.inference_mode():
            parts = [self.levels(part, precision=precision) for part in images.split(together)]
            joined = [torch.cat([level.float() for level in levels], dim=1) for levels in parts]
        return torch.cat(joined).permute(0, 2, 3, 1)

    @cached_property
    def _bfloat16_network(self) -> nn.Module:
        """The network with the weights of its matrix products in bfloat16; autocast would cast them at every call."""
        network = copy.deepcopy(self.network)
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(torch.bfloat16)
            if hasattr(module, "fused_attn") and self.device.type == "cpu":
                module.fused_attn = False  # torch's fused attention on a CPU multiplies in float32
        return network

    @abstractmethod
    def _levels(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """Low, middle and high level of normalised images ``(B, 3, H, W)``, each ``(B, C, H / patch, W / patch)``."""


class TransformerBackbone(Backbone):
    """A timm ``VisionTransformer``, or an ``Eva`` with rotary positions alone, tapped after three of its blocks.

    Raises:
        InputError: If the network does not have what the high level is read through.
    """

    def __init__(self, spec: BackboneSpec, network: nn.Module):
        from timm.models.eva import Eva

        if spec.high_level == "final_norm" and isinstance(network.norm, nn.Identity):
            raise InputError(f"{spec.name} has no norm after its last block; set high_level to layer_norm, raw or keys")
        if spec.high_level == "keys" and isinstance(network, Eva):
            raise InputError(
                f"high_level is keys, but those of {spec.name} are turned by rotary positions; set final_norm, "
                "layer_norm or raw"
            )
        if spec.high_level == "keys" and not all(hasattr(block, "attn") for block in network.blocks):
            raise InputError(
                f"high_level is keys, but a block of {spec.name} has several attentions side by side; set final_norm, "
                "layer_norm or raw"
            )
        self._positions = network.pos_embed.detach().clone() if network.pos_embed is not None else None
        self._position_grid = network.patch_embed.grid_size
        self._resampled: dict[tuple[int, int], Tensor] = {}  # of the few sizes a run meets
        network.patch_embed.strict_img_size = False
        patch = network.patch_embed.patch_size[0]
        config = network.pretrained_cfg
        super().__init__(spec, network, patch, config["mean"], config["std"])

    def _levels(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        if self._positions is not None:
            network.pos_embed = nn.Parameter(self._positions_on(grid).to(images.device), requires_grad=False)
        keys: list[Tensor] = []
        hook = None
        if self.spec.high_level == "keys":
            attention = network.blocks[self.spec.blocks[-1]].attn
            hook = attention.qkv.register_forward_hook(
                lambda _module, _inputs, output: keys.append(output.chunk(3, -1)[1])
            )
        try:
            low, middle, high = network.forward_intermediates(
                images, indices=list(self.spec.blocks), stop_early=True, output_fmt="NLC", intermediates_only=True
            )
        finally:
            if hook:
                hook.remove()
        if self.spec.high_level == "final_norm":
            high = network.norm(high)
        elif self.spec.high_level == "layer_norm":
            high = F.layer_norm(high, high.shape[-1:])
        elif self.spec.high_level == "keys":
            high = keys[0][:, network.num_prefix_tokens :]
        return [level.transpose(1, 2).unflatten(2, grid) for level in (low, middle, high)]

    def _positions_on(self, grid: tuple[int, int]) -> Tensor:
        if grid not in self._resampled:
            prefix = 0 if self.network.no_embed_class else self.network.num_prefix_tokens
            self._resampled[grid] = resample_positions(self._positions, self._position_grid, grid, prefix_tokens=prefix)
        return self._resampled[grid]


class ConvolutionalBackbone(Backbone):
    """A timm CNN; three stages brought to the grid of stride 16 by averaging (finer) or bilinearly (coarser)."""

    def __init__(self, spec: BackboneSpec, network: nn.Module):
        config = network.pretrained_cfg
        super().__init__(spec, network, 16, config["mean"], config["std"])

    def _levels(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        maps = network.forward_intermediates(images, indices=list(self.spec.blocks), intermediates_only=True)
        return [
            F.adaptive_avg_pool2d(level, grid)
            if level.shape[-1] >= grid[1]
            else F.interpolate(level, grid, mode="bilinear", align_corners=False)
            for level in maps
        ]


class ColourBackbone(Backbone):
    """No network: mean, spread and gradient of the colours of each 8 x 8 patch, alone and over its 3 x 3 neighbours."""

    def __init__(self, spec: BackboneSpec):
        super().__init__(spec, nn.Identity(), 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def _levels(self, _network: nn.Module, images: Tensor) -> list[Tensor]:
        grey = images.mean(1, keepdim=True)
        gradients = torch.cat([F.pad(grey.diff(dim=3).abs(), (0, 1)), F.pad(grey.diff(dim=2).abs(), (0, 0, 0, 1))], 1)
        mean = F.avg_pool2d(images, self.patch_size)
        spread = (F.avg_pool2d(images**2, self.patch_size) - mean**2).clamp_min(0).sqrt()
        low = torch.cat([mean, 2 * spread, 4 * F.avg_pool2d(gradients, self.patch_size)], 1)
        middle = F.avg_pool2d(low, 3, stride=1, padding=1, count_include_pad=False)
        return [low, middle, torch.cat([low, middle], 1)]


def resample_positions(
    positions: Tensor, grid: tuple[int, int], target: tuple[int, int], *, prefix_tokens: int
) -> Tensor:
    """Learned position embeddings for another grid, by bicubic interpolation without antialiasing.

    Args:
        positions: Position embeddings, shape ``(1, prefix_tokens + h * w, C)``.
        grid: Grid ``(h, w)`` that the embeddings were learned for.
        target: Grid ``(h', w')`` that is wanted.
        prefix_tokens: Leading tokens (class, registers) that have no place in the grid and are kept.

    Returns:
        Position embeddings of the target grid, shape ``(1, prefix_tokens + h' * w', C)``.
    """
    if grid == target:
        return positions
    prefix, spatial = positions[:, :prefix_tokens], positions[:, prefix_tokens:]
    spatial = spatial.unflatten(1, grid).permute(0, 3, 1, 2)
    spatial = F.interpolate(spatial, size=target, mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([prefix, spatial.flatten(2).transpose(1, 2)], dim=1)


def build(
    name: str,
    *,
    blocks: tuple[int, ...] | None = None,
    high_level: HighLevel | None = None,
    checkpoint: str | Path | None = None,
    pretrained: bool = True,
) -> Backbone:
    """Build a frozen backbone with its pretrained weights.

    Args:
        name: One of :func:`available`, or any timm vision transformer (``deit3_small_patch16_224``).
        blocks: Low, middle and high block, 0-indexed, negative from the end; default: the backbone's own
            (first, middle and last for a timm ViT, as in the paper). ``colour_patches`` has none to choose from.
        high_level: Way the high block is read, see :data:`HighLevel`; default: the backbone's own (for a timm ViT the
            final norm, for DINO the keys).
        checkpoint: A local safetensors state dict to load instead of the published weights.
        pretrained: Whether to load weights; ``False`` leaves them random, for tests and control experiments.

    Raises:
        InputError: If the name or a block is unknown, a setting has no meaning for this backbone, or the weights cannot
            be had.
    """
    spec = _SPECS.get(name) or _transformer_spec(name)
    if spec.architecture == "":
        _block_indices(name, blocks or spec.blocks, len(spec.blocks))
        for setting, value in {"high_level": high_level, "checkpoint": checkpoint}.items():
            if value:
                raise InputError(f"{setting} is {value!r}, but {name} has no network; leave it out or name another")
        return ColourBackbone(spec)
    network = _network(spec, checkpoint=checkpoint, pretrained=pretrained)
    depth = len(network.blocks) if _is_transformer(network) else len(network.feature_info)
    spec = replace(
        spec,
        blocks=_block_indices(spec.name, blocks or spec.blocks or (0, depth // 2, depth - 1), depth),
        high_level=high_level or spec.high_level,
    )
    if _is_transformer(network):
        return TransformerBackbone(spec, network)
    if spec.high_level != "raw":
        raise InputError(f"high_level is {spec.high_level!r}, but {name} is not a vision transformer; leave it out")
    return ConvolutionalBackbone(spec, network)


def _transformer_spec(name: str) -> BackboneSpec:
    import timm

    if not timm.is_model(name):
        raise InputError(
            f"unknown backbone {name!r}; there are {', '.join(_SPECS)}, and every vision transformer of timm "
            "(`python -c \"import timm; print(timm.list_models('vit_*'))\"`)"
        )
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # is_model looks at what stands before the dot alone
        architecture = name.partition(".")[0]
        raise InputError(
            f"unknown weights of backbone {name!r}; there are "
            f"{', '.join(timm.list_pretrained(f'{architecture}.*')) or f'none of {architecture}'}"
        ) from error
    # DINO's last block is trained through its class token alone; its keys are what describes a patch.
    keys = "dino" in name and "dinov" not in name
    return BackboneSpec(name, name, (), "keys" if keys else "final_norm", "weights as timm publishes them")


def _network(spec: BackboneSpec, *, checkpoint: str | Path | None, pretrained: bool) -> nn.Module:
    import timm
    from huggingface_hub.errors import HfHubHTTPError

    packaged = spec.name in weights.PACKAGED
    from_hub = pretrained and checkpoint is None and not packaged
    if from_hub and spec.name not in _SPECS:  # before anything is downloaded, or asked to be
        _refuse_others(spec.name, timm.create_model(spec.architecture))
    try:
        network = timm.create_model(spec.architecture, pretrained=from_hub, num_classes=0 if not packaged else None)
    # What the hub's client raises is the first or the second; what its HTTP library does may be neither.
    except (OSError, RuntimeError, *HfHubHTTPError.__bases__) as error:
        repository, file = hub_file(spec.architecture)
        raise InputError(
            f"the weights of {spec.name} could not be downloaded ({type(error).__name__}); fetch the file `{file}` of "
            f"huggingface.co/{repository} by hand and name it with --set checkpoint=FILE"
        ) from error
    if not packaged:
        _refuse_others(spec.name, network)
    if checkpoint is not None:
        _load_checkpoint(network, Path(checkpoint))
    elif pretrained and packaged:
        network.load_state_dict(weights.load(spec.name))
    return network


def _refuse_others(name: str, network: nn.Module) -> None:
    """Raise ``InputError`` for a network of timm that is not :func:`_is_transformer`."""
    if not _is_transformer(network):
        raise InputError(
            f"backbone {name} is neither a plain timm VisionTransformer nor one with rotary positions alone, as "
            "DINOv3; name a vit_* or deit_* model"
        )


def _is_transformer(network: nn.Module) -> bool:
    """Whether it reads any grid of patches: by resampled positions, or by rotary ones that are made for the grid.

    A hybrid, whose patches are cut from a CNN's features, counts them in pixels of those, not of the image. A
    ``VisionTransformer`` that resamples its positions by itself leaves the patches in two dimensions.
    """
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import HybridEmbed

    rotary = isinstance(network, Eva) and network.pos_embed is None and network.dynamic_img_size
    plain = isinstance(network, VisionTransformer) and not isinstance(network.patch_embed, HybridEmbed)
    return rotary or (plain and not network.dynamic_img_size)


def _load_checkpoint(network: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist; give a safetensors file")
    try:
        state = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise InputError(f"checkpoint {path} is damaged or no safetensors file ({error})") from error
    wanted = network.state_dict()
    wrong = [name for name in wanted if name not in state or state[name].shape != wanted[name].shape]
    if wrong:
        raise InputError(f"checkpoint {path} does not fit the backbone: {wrong[0]} is missing or has another shape")
    network.load_state_dict({name: state[name] for name in wanted})


def _block_indices(name: str, blocks: tuple[int, ...], depth: int) -> tuple[int, ...]:
    positive = tuple(block + depth if block < 0 else block for block in blocks)
    if len(positive) != 3 or not -1 < positive[0] < positive[1] < positive[2] < depth:
        raise InputError(
            f"blocks {blocks} do not fit {name}: give low, middle and high, ascending, within 0..{depth - 1}"
        )
    return positive
