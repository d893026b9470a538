import math
import os
import signal

import numba
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from neuralef.errors import InputError
from neuralef.measuring import measure

MEGABYTES = 64


def memory_side(held, worked_on):
    """A side that holds some MB before it is measured, and fills others while it is."""
    kept = np.ones(held * 1_000_000 // 8)

    def work():
        return float(np.ones(worked_on * 1_000_000 // 8)[0] + kept[0])

    return work


def littered_side(megabytes):
    """A side whose work fills as many kilobytes as its preparation has freed, behind one that is still held."""
    litter = [bytes(1000) for _ in range(1000 * megabytes)]
    held = bytes(1000)
    litter.clear()

    def work():
        filled = [bytes(1000) for _ in range(1000 * megabytes)]
        return len(filled) + len(held)

    return work


def counting_side():
    calls = []

    def work():
        calls.append(len(calls))
        return len(calls), torch.get_num_threads(), numba.get_num_threads()

    return work


def pools_side():
    return lambda: {pool["num_threads"] for pool in threadpool_info()}


def dying_side():
    return lambda: 1 / 0


def killed_side(*_):
    """A side whose process ends as the system ends one for memory."""
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


def test_memory_is_that_of_the_work_in_megabytes_and_not_what_was_held_before():
    found = measure(memory_side, MEGABYTES, 2 * MEGABYTES, repeats=0)
    assert found.result == 2.0
    assert found.peak_mb == pytest.approx(2 * MEGABYTES, abs=1.5)
    assert found.process_mb > found.peak_mb + MEGABYTES
    assert math.isnan(found.seconds)


def test_room_that_the_preparation_has_freed_counts_once_the_work_fills_it():
    assert measure(littered_side, MEGABYTES, repeats=0).peak_mb > 0.9 * MEGABYTES


def test_the_work_is_done_once_for_its_memory_and_then_for_its_time():
    found = measure(counting_side, repeats=3, threads=1)
    assert found.result == (4, 1, 1)
    assert found.seconds > 0


def test_every_pool_of_the_process_is_held_to_the_threads():
    assert measure(pools_side, repeats=0, threads=1).result == {1}


def test_what_the_work_raises_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        measure(dying_side, repeats=0)


def test_a_killed_process_is_named_with_its_remedy():
    with pytest.raises(InputError, match="measured killed_side was killed, most likely for memory; lower images"):
        measure(killed_side, repeats=0, remedy="lower images")
