"""Which device computes and in which precision matrices are multiplied, and which of them is faster here."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralef.errors import InputError

Precision = Literal["float32", "bfloat16"]
Device = Literal["cpu", "cuda"]

FASTEST = "fastest"
"""What profiles may say instead of a precision or a device."""


def autocast(precision: Precision, device: torch.device | Device = "cpu") -> torch.autocast:
    """Context that takes matrix products on a device in this precision; sums and norms stay in float32."""
    kind = "cuda" if torch.device(device).type == "cuda" else "cpu"  # not "meta", which counts what a processor does
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16")


def native_precisions(device: Device = "cpu") -> tuple[Precision, ...]:
    """The precisions a device has instructions for, slowest first: ``float32``, and maybe ``bfloat16``.

    Where a processor has none for bfloat16, torch emulates its products, many times slower than those of float32
    (``benchmarks/README.md``). Of processors only x86 ones are asked: elsewhere bfloat16 has not been measured here.
    """
    if device == "cuda":
        require(device)
        return ("float32", "bfloat16") if torch.cuda.is_bf16_supported(including_emulation=False) else ("float32",)
    capabilities = torch.cpu.get_capabilities()
    bfloat16 = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return ("float32", "bfloat16") if bfloat16 else ("float32",)


def fastest_precision(device: Device = "cpu") -> Precision:
    """The last of :func:`native_precisions`."""
    return native_precisions(device)[-1]


def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies float32 matrices faster than ``torch.mm`` on this processor.

    It does on AMD's with AVX-512: MKL, which ``torch.mm`` calls, stays at AVX2 there (``benchmarks/README.md``).
    """
    capabilities = torch.cpu.get_capabilities()
    amd = capabilities.get("cpu_name", "").startswith("AMD")
    return torch.backends.mkldnn.is_available() and amd and capabilities.get("avx512_f", False)


def product_by_onednn(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T`` of float32 matrices, ``(R, C)`` and ``(S, C)`` to ``(R, S)``, contiguous.

    It is a convolution of one pixel, which torch leaves to oneDNN. (In oneDNN's own layout, by ``to_mkldnn``, the
    matrices would be copied.)
    """
    pixels = left[None, None].permute(0, 3, 1, 2)  # (1, C, 1, R), channels last
    return F.conv2d(pixels, right[:, :, None, None]).permute(0, 2, 3, 1).flatten(0, 2).contiguous()


def fastest_device() -> Device:
    """``cuda`` where PyTorch sees an NVIDIA GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def require(device: Device) -> None:
    """Raise ``InputError`` if the device is a GPU and PyTorch sees none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device is cuda, but PyTorch sees no NVIDIA GPU here; set device=cpu, or install a driver and a build "
            "of PyTorch that has CUDA"
        )
