import subprocess
import sys

import pytest

from neuralef import allocation

PASSES = """
import resource
import numpy as np
import neuralef.allocation
{keep}
def filled():
    arrays = [np.ones(2_000_000) for _ in range(8)]  # 16 MB each, a block's
for _ in range(3):
    filled()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
filled()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep):
    """Pages that the system maps anew for 128 MB that a process has filled and freed before."""
    ran = subprocess.run(
        [sys.executable, "-c", PASSES.format(keep=keep)], capture_output=True, text=True, check=True, timeout=60
    )
    return int(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator has the setting")
def test_freed_memory_is_mapped_anew_only_beyond_the_limit():
    by_default = page_faults("")
    if by_default < 1000:
        pytest.skip(f"this allocator keeps what is freed by itself: {by_default} pages were mapped anew")
    assert page_faults("neuralef.allocation.keep_freed_memory()") < by_default / 10
    assert page_faults("neuralef.allocation.keep_freed_memory(limit=1 << 20)") > by_default / 2


def test_it_does_nothing_where_the_library_has_no_such_setting(monkeypatch):
    monkeypatch.setattr(allocation.sys, "platform", "darwin")
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda _: pytest.fail("the library was asked"))
    allocation.keep_freed_memory()
