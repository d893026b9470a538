"""Counts that outlive an interruption."""

import numpy as np
import pytest

from neuralef import tally
from neuralef.errors import InputError
from neuralef.tally import Tally

SHAPE = (2, 3, 4)  # heads, clusters and classes
RANDOM = np.random.default_rng(0)
IMAGES = [[RANDOM.integers(100, size=SHAPE[1:]) for _ in range(SHAPE[0])] for _ in range(5)]


@pytest.fixture
def path(tmp_path, monkeypatch):
    """File of a tally that is kept after every image."""
    monkeypatch.setattr(tally, "KEEP_SECONDS", 0)
    monkeypatch.setattr(tally, "KEEP_SHARE", 1e9)
    return tmp_path / "counts.safetensors"


@pytest.mark.parametrize("tables_of", [0, len(IMAGES)])
def test_counting_continues_where_it_was_interrupted(path, tables_of):
    for _ in range(2):
        begun = Tally(path, "this", SHAPE, tables_of=tables_of)
        for counts in IMAGES[begun.images :][:2]:
            begun.add(counts)
    whole = Tally(path, "this", SHAPE, tables_of=tables_of)
    assert whole.images == 4
    whole.add(IMAGES[4])
    np.testing.assert_array_equal(whole.counts, np.sum(IMAGES, axis=0))
    np.testing.assert_array_equal(whole.tables, np.stack(IMAGES, axis=1)[:, :tables_of])


def test_seconds_before_the_interruption_count(path, monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(tally, "perf_counter", lambda: next(now))
    first = Tally(path, "this", SHAPE)
    first.add(IMAGES[0])
    assert 10 <= Tally(path, "this", SHAPE).seconds - 10 <= first.seconds


def test_nothing_is_written_before_a_minute_is_over(tmp_path):
    quick = Tally(tmp_path / "counts.safetensors", "this", SHAPE)
    quick.add(IMAGES[0])
    assert list(tmp_path.iterdir()) == []


def test_what_takes_long_to_write_is_written_less_often(path, monkeypatch):
    monkeypatch.setattr(tally, "KEEP_SHARE", 0.05)
    clock, written = [0.0], []
    monkeypatch.setattr(tally, "perf_counter", lambda: clock[0])

    def slowly(*_):
        written.append(clock[0])
        clock[0] += 10

    monkeypatch.setattr(tally, "write_checked_tensors", slowly)
    slow = Tally(path, "this", SHAPE)
    for _ in range(900):
        clock[0] += 1
        slow.add(IMAGES[0])
    assert written == [1, 212, 423, 634, 845]  # 10 seconds of every 210


def test_counts_of_something_else_are_not_continued(path):
    Tally(path, "another", SHAPE).add(IMAGES[0])
    anew = Tally(path, "this", SHAPE)
    assert anew.images == 0
    assert not anew.counts.any()


def test_discarded_counts_are_gone(path):
    done = Tally(path, "this", SHAPE)
    done.add(IMAGES[0])
    assert path.is_file()
    done.discard()
    done.discard()  # nothing is left to remove
    assert Tally(path, "this", SHAPE).images == 0


def test_a_damaged_file_is_named(path):
    Tally(path, "this", SHAPE).add(IMAGES[0])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"counts\.safetensors does not match its checksum; delete it"):
        Tally(path, "this", SHAPE)


def test_a_continued_count_is_kept_after_another_minute(tmp_path, monkeypatch):
    clock, path = [0.0], tmp_path / "counts.safetensors"
    monkeypatch.setattr(tally, "perf_counter", lambda: clock[0])
    first = Tally(path, "this", SHAPE)
    clock[0] = 100.0
    first.add(IMAGES[0])
    continued = Tally(path, "this", SHAPE)
    for seconds, kept in ((130.0, 1), (161.0, 3)):
        clock[0] = seconds
        continued.add(IMAGES[1])
        assert Tally(path, "this", SHAPE).images == kept
