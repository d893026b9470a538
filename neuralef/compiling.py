"""Compiling the inner loops ahead, several at a time, so that no run or test waits for them one after the other.

    python -m neuralef.compiling

numba compiles a loop when it is first called and keeps it beside its module, or in the user's cache where nothing can
be written there, until module, numba or processor change. Nothing depends on this: what is not there is compiled when
needed.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from time import perf_counter

from tqdm.auto import tqdm

_CSR = "int32[::1], int32[::1], float32[::1]"  # starts of rows, columns, entries
_CANDIDATES = "float32[:,::1], int32[:,::1], int64[::1]"  # similarities, numbers, lengths of the lists

SIGNATURES = {
    "loops.largest_of_upsampled": "float32[:,:,::1], int64[::1], float32[::1], int64[::1], float32[::1], uint16[:,::1]",
    "loops.sparse_sum": f"{_CSR}, {_CSR}",
    "upsampling._likeliest": f"{', '.join(['float32[:,:,::1]'] * 3)}, float32, float32, int64, int64[:,::1]",
    "loops.offer_block": f"float32[:,::1], int64, int64, {_CANDIDATES}, float32[::1], int64",
    "loops.sparse_product": f"{_CSR}, float32[:,::1]",
    "loops.nearest_points": "float32[:,:,::1], int64",
    "loops.offer_block_transposed": f"float32[:,::1], int64, int64, {_CANDIDATES}, float32[::1], int64",
    "loops.transposed": _CSR,
    "loops.scale_rows_and_columns": f"{_CSR}, float32[::1]",
    "loops.keep_largest_of_rows": f"{_CANDIDATES}, int64",
}
"""The compiled loops by module and name, and the types the package calls each with; those that take longest first."""


def compile_loop(name: str) -> None:
    """Compile one loop of :data:`SIGNATURES`, or load it where it is kept already."""
    module, function = name.split(".")
    getattr(import_module(f"neuralef.{module}"), function).compile(f"({SIGNATURES[name]})")


def compile_loops() -> None:
    """Compile all loops in two processes: a process compiles one at a time."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        compiled = pool.map(compile_loop, SIGNATURES)
        for _ in tqdm(compiled, total=len(SIGNATURES), desc="compiling inner loops", unit="loop"):
            pass


if __name__ == "__main__":
    began = perf_counter()
    compile_loops()
    print(f"{len(SIGNATURES)} inner loops are compiled and kept beside their modules ({perf_counter() - began:.0f} s)")
