"""How an image is computed in tiles: how much is kept of each level, in strips of what size, and the memory it takes.

Tiles are strips of the whole width. A GroupNorm needs statistics of its whole input, so that features are gone through
again and again; what is not kept of them is computed again from what is (docs/decisions/0010).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from glc.runtime.tile_layout import TileLevel

Storage = Literal["float32", "float16"]

_FLOAT_BYTES = 4
_ITEM_BYTES: dict[Storage, int] = {"float32": _FLOAT_BYTES, "float16": 2}
_STRIP_BYTES = (64 << 20, 24 << 20, 16 << 20, 8 << 20, 2 << 20)
"""Of a strip in float32: higher ones have fewer rows that are computed twice."""
_REUSED_BYTES = 28 << 20
"""Strips up to this, with rows of their neighbours, are in memory that is used again (`memory_limit.REUSED_BYTES`)."""
_OF_NEW_MEMORY = 1.15
"""Time that larger ones take for that of smaller ones, measured; the rows of neighbours apart."""
_LEAST_ROWS = 8
"""Of a strip: with fewer, most of what is computed anew is computed twice. It divides the height of every level above
the deepest, since images are padded to whole code vectors of 4x4 positions of the latent."""
_NORMALISING = 0.1
"""Time that GroupNorm and swish take for that of the convolution behind them."""
_STRIPS_AT_WORK = 20
"""Strips' worth of memory that is held beside what is kept: by a graph, between graphs, and by glibc for the next ones;
about 11 (OpenVINO) and 22 to 30 (ONNX Runtime) were measured, of which glibc is made to give back what is too much."""
_ROWS_OF_A_BLOCK = 4
"""Rows that a residual block sees beside those that it gives, above and below together."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How much is kept of one level: always the first rows, as a share of all."""

    features: float
    """Of what is between residual blocks."""
    within: float
    """Of what is within a block."""
    storage: Storage
    """Of both."""


@dataclass(frozen=True, slots=True)
class TilePlan:
    """One way through the levels of a transform."""

    kept: tuple[Kept, ...]
    """Of each level, from full resolution down; below full resolution, features are kept in whole."""
    strip_bytes: int
    """Largest strip in float32, unless it would have too few rows."""

    def strip_rows(self, level: TileLevel, height: int, width: int) -> int:
        """Rows of a strip at a level, of an image's size there: a multiple of `_LEAST_ROWS` that divides the height.

        Strips of one height each are what engines compile for (`HostLoader.load_strips`).
        """
        most = max(_LEAST_ROWS, self.strip_bytes // (_FLOAT_BYTES * level.channels * width))
        return next(rows for rows in range(most // _LEAST_ROWS * _LEAST_ROWS, 0, -_LEAST_ROWS) if height % rows == 0)


def fastest_plan(levels: Sequence[TileLevel], height: int, width: int, room_bytes: int) -> TilePlan | None:
    """Choose how to compute an image of the padded size above its deepest level.

    Args:
        levels: from full resolution down.
        height: of the padded image.
        width: of the padded image.
        room_bytes: memory that may be taken.

    Returns:
        The plan that takes the fewest operations; None where none fits.
    """
    plans = _plans(levels, height, width, room_bytes)
    return min(plans, key=lambda plan: operations(plan, levels, height, width), default=None)


def least_bytes(levels: Sequence[TileLevel], height: int, width: int) -> int:
    """Memory with which `fastest_plan` has one."""
    features = _features_bytes(levels, height, width, ["float16"] * len(levels))
    at_work = _at_work_bytes(_STRIP_BYTES[-1], levels, height, width, of_finest=levels[0].blocks)
    return at_work + _below_finest_bytes(features)


def operations(plan: TilePlan, levels: Sequence[TileLevel], height: int, width: int) -> float:
    """Estimate of what a plan computes, in values of float32 that pass through a convolution, by their channels."""
    total = 0.0
    for n, (kept, level) in enumerate(zip(plan.kept, levels, strict=True)):
        halves = 2 * level.blocks
        rows = plan.strip_rows(level, height >> n, width >> n)
        # What is within a block is computed once and, where it is not kept, once more, with two rows of neighbours;
        # then the rest of the block.
        of_kept = kept.features * level.blocks * (2 + (1 - kept.within) * (1 + 2 / rows))
        # Two more rows for each half of a block on the way down.
        of_others = (1 - kept.features) * halves * (halves + 3) / 2 * (1 + 2 * halves / 3 / rows)
        # Neighbours are normalised anew for each strip.
        each = 1 + _NORMALISING * 2 / rows
        if plan.strip_bytes > _REUSED_BYTES:
            each *= _OF_NEW_MEMORY
        # Storing in float16 takes two conversions of what is kept: a few hundredths of a convolution each.
        if kept.storage == "float16":
            each *= 1.03
        total += (of_kept + of_others) * each * level.channels**2 * (height >> n) * (width >> n)
    return total


def _plans(levels: Sequence[TileLevel], height: int, width: int, room_bytes: int) -> Iterator[TilePlan]:
    choices = itertools.product(_STRIP_BYTES, itertools.product(_ITEM_BYTES, repeat=len(levels)))
    for strip_bytes, storages in choices:
        finest, *others = features = _features_bytes(levels, height, width, storages)
        room = room_bytes - _at_work_bytes(strip_bytes, levels, height, width, of_finest=1)
        if finest > room:
            # Rows that are not kept are computed from the level below, through all blocks of the finest level.
            room = room_bytes - _at_work_bytes(strip_bytes, levels, height, width, of_finest=levels[0].blocks)
        if room < _below_finest_bytes(features):
            continue
        # Rows of the finest level take the place of those of the level below that they are computed from.
        below = others[0] if others else 0
        share = 1.0 if finest <= room else (room - below) / (finest - below)
        shares = (share, *[1.0] * len(others))
        withins = [max(0.0, min(1.0, (room - size) / size)) for size in features]
        yield TilePlan(tuple(map(Kept, shares, withins, storages)), strip_bytes)


def _features_bytes(levels: Sequence[TileLevel], height: int, width: int, storages: Sequence[Storage]) -> list[int]:
    """Of each level, what is between two blocks."""
    return [
        _ITEM_BYTES[storage] * level.channels * (height >> n) * (width >> n)
        for n, (level, storage) in enumerate(zip(levels, storages, strict=True))
    ]


def _below_finest_bytes(features: Sequence[int]) -> int:
    """What has to be kept: all levels but the finest; one is built while the one before it is still there."""
    return max(features[1:], default=0) + max(features[2:], default=0)


def _at_work_bytes(strip_bytes: int, levels: Sequence[TileLevel], height: int, width: int, of_finest: int) -> int:
    """What strips take while they are computed, with the rows of their neighbours.

    Args:
        strip_bytes: as in a plan.
        levels: from full resolution down.
        height: of the padded image.
        width: of the padded image.
        of_finest: blocks of the finest level that may have to be computed for one strip.
    """
    plan = TilePlan((), strip_bytes)
    blocks = (of_finest, *[1] * (len(levels) - 1))
    largest = max(
        _FLOAT_BYTES
        * level.channels
        * (width >> n)
        * (plan.strip_rows(level, height >> n, width >> n) + _ROWS_OF_A_BLOCK * passed)
        for n, (level, passed) in enumerate(zip(levels, blocks, strict=True))
    )
    return _STRIPS_AT_WORK * largest
