"""Plans: what they keep in the memory that there is."""

from __future__ import annotations

from itertools import pairwise

import pytest

from glc.runtime.tile_layout import TileLevel
from glc.runtime.tile_plan import Kept, fastest_plan, least_bytes, operations

NATURAL = (TileLevel(3, 128), TileLevel(3, 256), TileLevel(3, 256), TileLevel(3, 512))
EIGHT_K = (4352, 7680)
GIB = 1 << 30


def test_with_room_all_is_kept_in_float32() -> None:
    plan = fastest_plan(NATURAL, 1536, 2048, 16 * GIB)
    assert plan is not None
    assert all(kept == Kept(1, 1, "float32") for kept in plan.kept)


def test_levels_below_stay_in_float32_where_the_finest_fits_in_float16() -> None:
    plan = fastest_plan(NATURAL, 1536, 2048, int(2.5 * GIB))
    assert plan is not None
    assert plan.kept == (Kept(1, 1, "float16"), *[Kept(1, 1, "float32")] * 3)


def test_a_level_is_kept_in_float16_where_the_levels_below_the_finest_would_not_fit() -> None:
    plan = fastest_plan(NATURAL, *EIGHT_K, least_bytes(NATURAL, *EIGHT_K))
    assert plan is not None
    assert [kept.storage for kept in plan.kept[:3]] == ["float16"] * 3


def test_less_memory_never_takes_fewer_operations() -> None:
    rooms = [least_bytes(NATURAL, *EIGHT_K), *(n * GIB for n in (7, 8, 10, 16, 32, 64))]
    work = []
    for room in rooms:
        plan = fastest_plan(NATURAL, *EIGHT_K, room)
        assert plan is not None
        work.append(operations(plan, NATURAL, *EIGHT_K))
    assert all(a >= b for a, b in pairwise(work))
    assert work[0] > 1.5 * work[-1]


def test_only_of_the_finest_level_are_features_computed_anew() -> None:
    for room in (7, 8, 10, 16, 32):
        plan = fastest_plan(NATURAL, *EIGHT_K, room * GIB)
        assert plan is not None
        assert all(kept.features == 1 for kept in plan.kept[1:])
        assert all(0 <= share <= 1 for kept in plan.kept for share in (kept.features, kept.within))


def test_rows_that_are_computed_through_more_blocks_need_more_room() -> None:
    shares = []
    for blocks in (1, 3):
        plan = fastest_plan((TileLevel(blocks, 128), *NATURAL[1:]), *EIGHT_K, 8 * GIB)
        assert plan is not None
        shares.append(plan.kept[0].features)
    assert shares[1] < shares[0] < 1


def test_below_the_least_there_is_no_plan() -> None:
    least = least_bytes(NATURAL, *EIGHT_K)
    assert fastest_plan(NATURAL, *EIGHT_K, least) is not None
    assert fastest_plan(NATURAL, *EIGHT_K, least - 1) is None


@pytest.mark.parametrize("room", [8 * GIB, 64 * GIB])
def test_strips_have_rows_whatever_the_width(room: int) -> None:
    plan = fastest_plan(NATURAL, *EIGHT_K, room)
    assert plan is not None
    assert plan.strip_rows(NATURAL[0], 4352, 1 << 20) == 8
    assert plan.strip_rows(NATURAL[0], 4352, 64) * 64 * 128 * 4 <= plan.strip_bytes


@pytest.mark.parametrize("height", [64, 320, 832, 2176, 4352])
def test_strips_of_a_level_have_one_height(height: int) -> None:
    plan = fastest_plan(NATURAL, height, 3840, 8 * GIB)
    assert plan is not None
    for number, level in enumerate(NATURAL):
        rows = plan.strip_rows(level, height >> number, 3840 >> number)
        assert rows % 8 == 0
        assert (height >> number) % rows == 0


def test_a_level_may_hold_more_than_the_one_above_it() -> None:
    levels = (TileLevel(1, 8), TileLevel(1, 512))
    for room in (least_bytes(levels, 256, 256), GIB):
        plan = fastest_plan(levels, 256, 256, room)
        assert plan is not None
        assert 0 <= plan.kept[0].features <= 1


def test_a_level_may_hold_as_much_as_the_one_above_it() -> None:
    levels = (TileLevel(1, 128), TileLevel(1, 512))
    least = least_bytes(levels, 1024, 1024)
    assert fastest_plan(levels, 1024, 1024, least) is not None
    assert fastest_plan(levels, 1024, 1024, least // 2) is None
