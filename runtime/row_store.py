"""Rows of features in one piece of memory, of which those that nobody needs any more go back to the system."""

from __future__ import annotations

import mmap
import sys

import numpy as np

from glc.engines import Array

_HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)
"""Where the system has them, and memory is not shared: to get small pages, zeroed one by one, took 8 % of a decode."""
_GIVE_BACK = getattr(mmap, "MADV_DONTNEED", None)


class RowStore:
    """The first rows of features (1, rows, columns, C); memory comes from the system as rows are put."""

    def __init__(self, rows: int) -> None:
        self.end = rows
        """Rows up to here have a place."""
        self._forgotten = 0
        self._memory: mmap.mmap | None = None
        self._values: Array = np.empty((rows, 0, 0), np.float32)

    def put(self, first: int, values: Array) -> None:
        """Copy rows (1, n, columns, C) to the place of row `first` and those behind it."""
        if self._memory is None:
            _, _, columns, channels = values.shape
            self._memory = _own_memory(max(1, self.end * columns * channels * values.itemsize))
            if _HUGE_PAGES is not None:
                self._memory.madvise(_HUGE_PAGES)
            self._values = np.frombuffer(self._memory, values.dtype).reshape(self.end, columns, channels)
        self._values[first : first + values.shape[1]] = values[0]

    def rows(self, first: int, end: int) -> Array:
        """Rows `first` up to `end`, (1, n, columns, C), where they lie: valid until they are forgotten.

        Raises:
            IndexError: they were.
        """
        if first < self._forgotten:
            raise IndexError(f"rows {first} to {end} were forgotten")
        return self._values[None, first:end]

    def forget(self, before: int) -> None:
        """Give back the memory of all rows above a row."""
        before = min(before, self.end)
        if before <= self._forgotten:
            return
        done, self._forgotten = self._forgotten, before
        if self._memory is None or _GIVE_BACK is None:
            return
        row_bytes = self._values.strides[0]
        # A page that a forgotten row shares with the next one goes with that one.
        first, end = (rows * row_bytes // mmap.PAGESIZE * mmap.PAGESIZE for rows in (done, before))
        if before == self.end:
            end = len(self._memory)
        if end > first:
            self._memory.madvise(_GIVE_BACK, first, end - first)


def _own_memory(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
