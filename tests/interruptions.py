"""Trainings that are interrupted, as by Ctrl-C, and disks that fill."""

from contextlib import contextmanager
from types import ModuleType

import pytest


@contextmanager
def interrupted_at(module: ModuleType, number: int):
    """Within it the step of that number is an interruption, which the test expects.

    Args:
        module: Module whose ``_train_step`` is called.
        number: Number of the step, from 0.
    """
    step = module._train_step

    def dies(*arguments, **keywords):
        if keywords["step"] == number:
            raise KeyboardInterrupt
        return step(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "_train_step", dies)
        yield


def half_then_fail(path, content):
    """In place of ``Path.write_bytes``: a disk that fills on the way."""
    with path.open("wb") as file:
        file.write(content[: len(content) // 2])
    raise OSError(28, "No space left on device")
