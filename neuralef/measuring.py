"""Time and peak memory of a piece of work, measured in a process of its own.

A side is a function that prepares its inputs and returns what is to be measured, a function without arguments. It is
run in a fresh process, so that no measurement finds the memory or the caches of another. Its first call gives the peak
of resident memory above what was there before, the best of the following ones the time.
"""

import ctypes
import gc
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numba
import torch
from threadpoolctl import threadpool_limits

from neuralef.allocation import keep_freed_memory
from neuralef.errors import InputError
from neuralef.provenance import resident_mb

THREADS = 2


@dataclass(frozen=True)
class Measured:
    """Measurement of one side.

    Attributes:
        seconds: Seconds of the best of the timed calls; NaN if there were none.
        peak_mb: Peak resident memory of the first call above what the process held before it, in MB of 1e6 bytes; NaN
            where the system does not tell (it is read from ``/proc``, which Linux has).
        process_mb: Peak resident memory of the first call with all that the process held before it, in MB of 1e6 bytes;
            NaN as for ``peak_mb``.
        result: Return value of the last call.
    """

    seconds: float
    peak_mb: float
    process_mb: float
    result: Any


def measure(
    side: Callable[..., Callable[[], Any]],
    *arguments: Any,
    repeats: int = 3,
    threads: int = THREADS,
    remedy: str = "measure a smaller case",
) -> Measured:
    """Run one side in a fresh process.

    Args:
        side: Function of a module, called with ``arguments``; prepares and returns what is measured.
        arguments: Sizes and settings for ``side``.
        repeats: Number of timed calls after the first; 0 where only the result or the memory counts.
        threads: Number of threads of torch, of the compiled loops, and of every pool that is loaded, as that of BLAS.
        remedy: What to do if the process is killed, for the message: what to lower or to leave out.

    Raises:
        InputError: If the process was killed, as for memory.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_measure, side, arguments, repeats, threads).result()
    except BrokenProcessPool as error:
        raise InputError(
            f"the process that measured {side.__name__} was killed, most likely for memory; {remedy}"
        ) from error


def _measure(
    side: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...], repeats: int, threads: int
) -> Measured:
    keep_freed_memory()  # as commands and notebooks do
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    run = side(*arguments)
    gc.collect()
    _give_back_free_memory()
    clear_refs = Path("/proc/self/clear_refs")
    if clear_refs.exists():
        clear_refs.write_text("5")  # the peak starts again from what is resident now
    before = resident_mb("VmRSS")
    with threadpool_limits(threads):  # BLAS and scikit-learn have pools of their own
        result = run()
        peak = resident_mb("VmHWM")
        times = []
        for _ in range(repeats):
            del result
            began = perf_counter()
            result = run()
            times.append(perf_counter() - began)
    return Measured(min(times, default=float("nan")), peak - before, peak, result)


def _give_back_free_memory() -> None:
    """Hand what the heap holds unused to the system, else the work finds room there that no peak would show."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
        if trim:
            trim(0)
