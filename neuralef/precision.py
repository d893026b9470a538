"""In which precision matrices are multiplied, and in which of them this processor is faster."""

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]

FASTEST = "fastest"
"""What profiles may say instead of a precision."""


def fastest_precision() -> Precision:
    """``bfloat16`` where the processor has instructions for its products, else ``float32``.

    Where it has none, torch emulates them, at a third of the speed of ``float32`` or far less
    (``benchmarks/README.md``). Only x86 processors are asked: elsewhere bfloat16 has not been measured here.
    """
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return "bfloat16" if native else "float32"
