"""The order in which a part is coded: by scale index, largest first, each level in the order of the part.

Elements are sorted, gathered and put back in blocks that the processor's cache holds: a symbol of a large image then
costs what one of a small image does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.errors import EngineFailed

BLOCK = 1 << 18
"""Elements of a block; at most 2^24."""

_POSITION_BITS = 24
"""Of 32, beside the 8 of a level."""


@dataclass(frozen=True, slots=True, eq=False)
class LevelValues:
    """Values of one level, in their order."""

    pieces: list[NDArray[np.int32]]
    """One for each block that has any."""
    largest: int
    """Of the magnitudes."""


@dataclass(frozen=True, slots=True, eq=False)
class CodingOrder:
    """Coding order of a part's elements."""

    levels: list[int]
    """Scale indices that occur, descending."""
    sizes: list[int]
    """Elements of each."""
    _orders: list[NDArray[np.uint32]]
    """Of each block: where its elements lie in it, in their order."""
    _counts: NDArray[np.intp]
    """(blocks, levels): elements of each level in each block."""

    @classmethod
    def of(cls, scale_indices: NDArray[np.uint8], levels: int) -> CodingOrder:
        """Find it.

        Args:
            scale_indices: of any shape, uint8.
            levels: all scale indices must be below this.

        Raises:
            EngineFailed: one is not.
        """
        flat = scale_indices.ravel()
        orders = [_sorted_keys(flat[first : first + BLOCK]) for first in range(0, flat.size, BLOCK)]
        counts = np.array([_level_counts(keys) for keys in orders], np.intp).reshape(-1, 256)
        for keys in orders:
            keys &= np.uint32((1 << _POSITION_BITS) - 1)
        sizes = counts.sum(axis=0)
        present = np.flatnonzero(sizes)
        if present.size and 255 - int(present[0]) >= levels:
            raise EngineFailed(f"scale index {255 - present[0]} is out of range 0..{levels - 1}")
        return cls((255 - present).tolist(), sizes[present].tolist(), orders, counts[:, present])

    def by_level(self, values: NDArray[np.int32]) -> list[LevelValues]:
        """Put values (elements,) in this order; one item for each of `levels`."""
        pieces: list[list[NDArray[np.int32]]] = [[] for _ in self.levels]
        largest = np.zeros(len(self.levels), np.uint32)
        for number, (order, counts) in enumerate(zip(self._orders, self._counts, strict=True)):
            block = values[number * BLOCK : (number + 1) * BLOCK]
            in_order = block.take(order.astype(np.intp))  # take would convert it by itself, in a fifth more time
            here = np.flatnonzero(counts)
            ends = counts[here].cumsum()
            starts = ends - counts[here]
            # As unsigned numbers, since the least int32 has no magnitude that an int32 holds.
            magnitudes = np.maximum.reduceat(np.abs(in_order).view(np.uint32), starts)
            largest[here] = np.maximum(largest[here], magnitudes)
            for level, start, end in zip(here.tolist(), starts.tolist(), ends.tolist(), strict=True):
                pieces[level].append(in_order[start:end])
        return list(map(LevelValues, pieces, largest.tolist()))

    def restored(self, levels: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
        """Undo `by_level`.

        Args:
            levels: values of each level, (size,), almost all of them zero.

        Returns:
            Values (elements,).
        """
        values = np.zeros(sum(self.sizes), np.int32)
        ends = self._counts.cumsum(axis=0)
        starts = ends - self._counts
        for number, order in enumerate(self._orders):
            shares = zip(levels, starts[number].tolist(), ends[number].tolist(), strict=True)
            in_order = np.concatenate([level[start:end] for level, start, end in shares])
            others = np.flatnonzero(in_order != 0)
            values[number * BLOCK : (number + 1) * BLOCK][order[others]] = in_order[others]
        return values


def _sorted_keys(scale_indices: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Descending level and ascending position, as one number each: all differ, so that no stable sort is needed."""
    keys = np.invert(scale_indices).astype(np.uint32)
    keys <<= np.uint32(_POSITION_BITS)
    keys |= np.arange(keys.size, dtype=np.uint32)
    keys.sort()
    return keys


def _level_counts(keys: NDArray[np.uint32]) -> NDArray[np.intp]:
    """How many elements each level has, from 255 down to 0."""
    ends = np.searchsorted(keys, np.arange(1, 256, dtype=np.uint32) << np.uint32(_POSITION_BITS))
    return np.diff(ends, prepend=0, append=keys.size)
