"""Memory that a process keeps after freeing it, where glibc would hand it back to the system.

A network frees and asks for the same large arrays block after block. By default glibc returns what was freed last, and
the system maps and clears it again, page by page, in between: a pass of ViT-S/14 over eight crops then spent 5 to 10 %
of its time on that (``benchmarks/README.md``). This is a setting of the whole process: commands, kernels of notebooks
and measurements ask for it when they start; code that merely imports the package is left alone.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Parameters of glibc's ``mallopt``, from its ``malloc.h``."""

LARGEST_MMAP_THRESHOLD = 32 << 20
"""Bytes from which an array has a mapping of its own, which ends with it; glibc takes no more."""


def keep_freed_memory(limit: int = 1 << 30, *, whatever_size: bool = False) -> None:
    """Let this process keep what it has freed; does nothing where glibc is not the allocator.

    Args:
        limit: Most bytes that it keeps at the end of its heap, below 2 GiB.
        whatever_size: Whether arrays of 32 MiB and more are kept as well, which otherwise go back to the system.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    mallopt(M_TRIM_THRESHOLD, limit)
    if whatever_size:
        mallopt(M_MMAP_MAX, 0)
    else:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
