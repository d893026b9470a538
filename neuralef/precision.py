"""In which precision matrices are multiplied, and in which of them this processor is faster."""

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]

FASTEST = "fastest"
"""What profiles may say instead of a precision."""


def autocast(precision: Precision) -> torch.autocast:
    """Context that takes matrix products in this precision; sums and norms stay in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def native_precisions() -> tuple[Precision, ...]:
    """The precisions this processor has instructions for, slowest first: ``float32``, and maybe ``bfloat16``.

    Where it has none for bfloat16, torch emulates its products, many times slower than those of float32
    (``benchmarks/README.md``). Only x86 processors are asked: elsewhere bfloat16 has not been measured here.
    """
    capabilities = torch.cpu.get_capabilities()
    bfloat16 = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return ("float32", "bfloat16") if bfloat16 else ("float32",)


def fastest_precision() -> Precision:
    """The last of :func:`native_precisions`."""
    return native_precisions()[-1]
