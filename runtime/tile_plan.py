"""How an image is computed in tiles: what is kept of each level, and the memory that this takes.

Tiles are strips of the whole width. A GroupNorm needs statistics of its whole input, so that features are gone through
again and again; at each level they are kept, or computed again from what is (docs/decisions/0010).
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from glc.runtime.tile_layout import TileLevel

Storage = Literal["float32", "float16"]

_FLOAT_BYTES = 4
_STRIP_BYTES = (96 << 20, 64 << 20, 32 << 20, 16 << 20, 8 << 20, 2 << 20)
"""Of a strip in float32: higher ones have fewer rows that are computed twice."""
_LEAST_ROWS = 8
"""Of a strip: with fewer, most of what is computed is computed twice."""
_COPIES = 10
"""Strips that an engine holds of a graph: input and result, in its own layout too, activated, for the moments."""
_UNDER_WAY = 5
"""Strips that are between graphs."""


class Kept(enum.IntEnum):
    """What is kept of one level."""

    NOTHING = 0
    """Every pass computes the level from the one before."""
    FEATURES = 1
    """What is between residual blocks; what is within is computed twice."""
    ALL = 2
    """And what is within."""


@dataclass(frozen=True, slots=True)
class TilePlan:
    """One way through the levels of a transform."""

    kept: tuple[Kept, ...]
    """Of each level, from full resolution down."""
    storage: Storage
    """Of what is kept."""
    strip_bytes: int
    """Largest strip in float32, unless it would have too few rows."""

    def strip_rows(self, level: TileLevel, width: int) -> int:
        """Rows of a strip at a level, of an image's width there."""
        return max(_LEAST_ROWS, self.strip_bytes // (_FLOAT_BYTES * level.channels * width))


def plans(levels: int) -> Iterator[TilePlan]:
    """All plans, from the fastest to the one that takes the least memory."""
    everything = (Kept.ALL,) * levels
    for strip_bytes in _STRIP_BYTES:
        yield TilePlan(everything, "float32", strip_bytes)
    finest = ((Kept.ALL, 0), (Kept.FEATURES, 0), *((Kept.NOTHING, level) for level in range(levels)))
    for first, lean in finest:
        # Below the finest level features are always kept: to compute two levels anew takes ten times as long.
        kept = (first, *(Kept.FEATURES if level <= lean else Kept.ALL for level in range(1, levels)))
        for strip_bytes in _STRIP_BYTES:
            yield TilePlan(kept, "float16", strip_bytes)


def memory_bytes(plan: TilePlan, levels: Sequence[TileLevel], height: int, width: int) -> int:
    """Estimate of what a plan takes beside the deepest level, for an image of the padded size."""
    item = 2 if plan.storage == "float16" else _FLOAT_BYTES
    kept = [
        value * item * level.channels * (height >> n) * (width >> n)
        for n, (value, level) in enumerate(zip(plan.kept, levels, strict=True))
    ]
    # A level is built while the one before it is still there, but without what is within its blocks.
    features = [memory // max(value, 1) for memory, value in zip(kept, plan.kept, strict=True)]
    largest = max(max(kept), *(a + b for a, b in itertools.pairwise(features)), 0)
    rows = [plan.strip_rows(level, width >> n) for n, level in enumerate(levels)]
    strip = max(
        _FLOAT_BYTES * level.channels * (width >> n) * (count + 4)
        for n, (level, count) in enumerate(zip(levels, rows, strict=True))
    )
    return largest + strip * (_COPIES + _UNDER_WAY)


def graph_runs(plan: TilePlan, levels: Sequence[TileLevel]) -> tuple[int, ...]:
    """How often the positions of each level pass through a graph: what progress is told by."""
    runs = []
    for value, level in zip(plan.kept, levels, strict=True):
        halves = 2 * level.blocks
        runs.append({Kept.ALL: halves, Kept.FEATURES: 3 * level.blocks}.get(value, halves * (halves + 3) // 2) + 1)
    return tuple(runs)
