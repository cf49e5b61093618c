"""The order in which parts are coded, against a plain stable sort."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from glc.errors import EngineFailed
from glc.runtime import coding_order
from glc.runtime.coding_order import BLOCK, CodingOrder

SIZES = [0, 1, 1000, BLOCK, 3 * BLOCK + 5]


def drawn(size: int, levels: int = 256) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, levels, size).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_levels_descend_and_each_keeps_the_order_of_the_part(size: int) -> None:
    scale_indices = drawn(size)
    order = CodingOrder.of(scale_indices, 256)
    assert order.levels == sorted(set(scale_indices.tolist()), reverse=True)
    assert order.sizes == [np.count_nonzero(scale_indices == level) for level in order.levels]
    places = order.by_level(np.arange(size, dtype=np.int32))
    assert [sum(map(len, group.pieces)) for group in places] == order.sizes
    found = [piece for group in places for piece in group.pieces]
    expected = np.argsort(-scale_indices.astype(np.int16), kind="stable")
    assert np.array_equal(np.concatenate([np.zeros(0, np.int32), *found]), expected)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_put_in_order_is_restored(size: int) -> None:
    values = np.random.default_rng(1).integers(-2, 3, size).astype(np.int32)
    order = CodingOrder.of(drawn(size, 40), 40)
    assert np.array_equal(order.restored([np.concatenate(group.pieces) for group in order.by_level(values)]), values)


def test_a_level_that_only_some_blocks_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding_order, "BLOCK", 4)
    scale_indices = np.array([2, 0, 2, 0, 1, 1, 1, 1, 0, 2], np.uint8)
    order = CodingOrder.of(scale_indices, 3)
    values = np.arange(10, dtype=np.int32)
    groups = order.by_level(values)
    assert (order.levels, order.sizes) == ([2, 1, 0], [3, 4, 3])
    assert [[piece.tolist() for piece in group.pieces] for group in groups] == [
        [[0, 2], [9]],
        [[4, 5, 6, 7]],
        [[1, 3], [8]],
    ]
    assert np.array_equal(order.restored([np.concatenate(group.pieces) for group in groups]), values)


@pytest.mark.parametrize("lowest", [-3, -(1 << 31)])
def test_the_largest_magnitude_of_each_level(lowest: int) -> None:
    order = CodingOrder.of(np.array([0, 1, 0, 1], np.uint8), 2)
    assert [group.largest for group in order.by_level(np.array([2, 0, lowest, -1], np.int32))] == [1, -lowest]


def test_a_scale_index_beyond_the_table_is_refused() -> None:
    with pytest.raises(EngineFailed, match=r"scale index 7 is out of range 0\.\.6"):
        CodingOrder.of(np.array([3, 7, 1], np.uint8), 7)
