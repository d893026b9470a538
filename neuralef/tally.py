"""Pixels by cluster and class, summed image after image and kept on the way: an interrupted evaluation continues."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from neuralef.files import read_checked_tensors, write_checked_tensors

KEEP_SECONDS = 60
"""Seconds of work that an interruption may cost."""

KEEP_SHARE = 0.05
"""Share of the time that writing may take, where the counts of every image are many."""


class Tally:
    """Counts of the images evaluated so far, under several heads of as many clusters.

    Attributes:
        path: File they are kept in until the evaluation is whole.
        identity: Digest of all that determines the counts.
        counts: Pixels of all images together, shape ``(heads, K, C)``, int64.
        tables: Pixels of every image, shape ``(heads, N, K, C)``, int32; N is 0 where they are not asked for.
        images: Number of images counted.
    """

    def __init__(self, path: Path, identity: str, shape: tuple[int, int, int], *, tables_of: int = 0):
        """Take up what ``path`` holds, if it is of ``identity``; else begin anew.

        Args:
            path: File of an evaluation that is not whole.
            identity: Digest of all that determines the counts.
            shape: Heads, clusters and classes, ``(heads, K, C)``.
            tables_of: Number of images whose counts are kept one by one; 0: none are.

        Raises:
            InputError: If the file is damaged.
        """
        self.path, self.identity = path, identity
        self.counts = np.zeros(shape, dtype=np.int64)
        self.tables = np.zeros((shape[0], tables_of, *shape[1:]), dtype=np.int32)
        self.images, self._seconds_before = 0, 0.0
        if path.is_file():
            self._take_up(*read_checked_tensors(path))
        self._began, self._due = perf_counter(), self._seconds_before + KEEP_SECONDS

    def _take_up(self, tensors: dict[str, torch.Tensor], document: dict) -> None:
        if document["identity"] != self.identity:
            return
        tables = tensors["tables"].numpy()
        self.counts, self.tables[:, : tables.shape[1]] = tensors["counts"].numpy(), tables
        self.images, self._seconds_before = document["images"], document["seconds"]

    @property
    def seconds(self) -> float:
        """Seconds that counting took, those before an interruption included as far as they are kept."""
        return self._seconds_before + perf_counter() - self._began

    def add(self, counts: Sequence[np.ndarray]) -> None:
        """Add the pixels of the next image under every head, each ``(K, C)``, and keep all once a minute."""
        self.counts += np.stack(counts)
        if self.tables.shape[1]:
            self.tables[:, self.images] = counts
        self.images += 1
        if self.seconds > self._due:
            began = self.seconds
            self._keep()
            self._due = self.seconds + max(KEEP_SECONDS, (self.seconds - began) / KEEP_SHARE)

    def _keep(self) -> None:
        tables = self.tables[:, : self.images]  # none, where none are asked for
        tensors = {"counts": torch.from_numpy(self.counts), "tables": torch.from_numpy(tables)}
        document = {"identity": self.identity, "images": self.images, "seconds": self.seconds}
        write_checked_tensors(self.path, tensors, document)

    def discard(self) -> None:
        """Remove the file: what it was kept for is written elsewhere, or not to be used."""
        self.path.unlink(missing_ok=True)
