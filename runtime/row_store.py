"""Rows of features in one piece of memory, of which those that nobody needs any more make room.

Memory that comes anew from the system comes page by page, zeroed, which took a tenth of a decode at 4K. So features of
one size follow each other in one piece, a little further up each time: a residual block gives a row while it still
needs the two above it.

    features of one pass          . . . . 0 1 2 3 4 5
    of the next, after 4 rows     . . 0 1 2 3 2 3 4 5
"""

from __future__ import annotations

import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glc.engines import Array

_STEP = 2
"""Rows by which features lie above those that they follow."""
_LEAD = 16 * _STEP
"""Rows left free above the first; memory comes for them when they are written."""
_HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)
"""Where the system has them, and memory is not shared: to get small pages, zeroed one by one, took 8 % of a decode."""
_GIVE_BACK = getattr(mmap, "MADV_DONTNEED", None)


class RowMemory:
    """Memory in which features follow each other, as long as they have the same size."""

    def __init__(self) -> None:
        self._piece: _Piece | None = None

    def end(self) -> None:
        """Let nothing follow: what is forgotten from now on is the system's again."""
        if self._piece is not None:
            self._piece.end()
            self._piece = None

    def place(self, rows: int, row_bytes: int) -> _Piece:
        """Give the next features their place, which starts at `first` of a piece."""
        if self._piece is not None and self._piece.takes(rows, row_bytes):
            self._piece.follow()
        else:
            self.end()
            self._piece = _Piece(rows, row_bytes)
        return self._piece


class RowStore:
    """The first rows of features (1, rows, columns, C); memory is taken as they are put."""

    def __init__(self, rows: int, memory: RowMemory) -> None:
        self.end = rows
        """Rows up to here have a place."""
        self._memory = memory
        self._forgotten = 0
        self._piece: _Piece | None = None
        self._first = 0
        self._values: Array = np.empty((rows, 0, 0), np.float32)

    def put(self, first: int, values: Array) -> None:
        """Copy rows (1, n, columns, C) to the place of row `first` and those behind it.

        Raises:
            IndexError: there lie rows of the features before that are not forgotten.
        """
        if self._piece is None:
            _, _, columns, channels = values.shape
            self._piece = self._memory.place(self.end, columns * channels * values.itemsize)
            self._first = self._piece.first
            self._values = self._piece.values(values.dtype).reshape(self.end, columns, channels)
        end = first + values.shape[1]
        if self._first + end > self._piece.needed:
            raise IndexError(f"rows {first} to {end} would lie where others are still needed")
        self._values[first:end] = values[0]

    def rows(self, first: int, end: int) -> Array:
        """Rows `first` up to `end`, (1, n, columns, C), where they lie: valid until they are forgotten.

        Raises:
            IndexError: they were.
        """
        if first < self._forgotten:
            raise IndexError(f"rows {first} to {end} were forgotten")
        return self._values[None, first:end]

    def forget(self, before: int) -> None:
        """Give the memory of all rows above a row to the features that follow, or to the system."""
        before = min(before, self.end)
        if before <= self._forgotten:
            return
        self._forgotten = before
        if self._piece is not None:
            self._piece.forget(self._first, before)


class _Piece:
    """Memory of features that follow each other; rows are counted from its start."""

    def __init__(self, rows: int, row_bytes: int) -> None:
        self._size = rows, row_bytes
        self.first = _LEAD
        """Where the last features start."""
        self.needed = self._end = _LEAD + rows
        """From here on lies what those before them still need."""
        self._free = 0  # rows above it hold nothing
        self._given_back = 0
        self._may_follow = True
        self._memory = _own_memory(max(1, self._end * row_bytes))
        if _HUGE_PAGES is not None:
            self._memory.madvise(_HUGE_PAGES)

    def takes(self, rows: int, row_bytes: int) -> bool:
        """Whether features of this size may follow."""
        return self._size == (rows, row_bytes) and self.first >= _STEP

    def follow(self) -> None:
        """Make place for further features."""
        self.needed = self._free
        self.first -= _STEP
        self._free = 0

    def values(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The place of the last features."""
        rows, row_bytes = self._size
        return np.frombuffer(self._memory, dtype, rows * row_bytes // dtype.itemsize, self.first * row_bytes)

    def forget(self, first: int, before: int) -> None:
        """Hear that of the features that start at `first` nobody needs the rows above one any more."""
        rows, _ = self._size
        free = self._end if before == rows else first + before
        if first == self.first:
            self._free = free
            if not self._may_follow:
                self._give_back()
        elif first == self.first + _STEP:
            self.needed = free

    def end(self) -> None:
        """Let nothing follow."""
        self._may_follow = False
        self._give_back()

    def _give_back(self) -> None:
        if _GIVE_BACK is None:
            return
        _, row_bytes = self._size
        # A page that a forgotten row shares with the next one goes with that one.
        first, end = (rows * row_bytes // mmap.PAGESIZE * mmap.PAGESIZE for rows in (self._given_back, self._free))
        if self._free == self._end:
            end = len(self._memory)
        self._given_back = self._free
        if end > first:
            self._memory.madvise(_GIVE_BACK, first, end - first)


def _own_memory(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
