"""Rows in one piece of memory: what is put is there, what is forgotten is the system's again."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from glc.runtime.memory_limit import resident_bytes
from glc.runtime.row_store import RowMemory, RowStore

MIB = 1 << 20


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_are_those_that_were_put(dtype: type[np.floating]) -> None:
    values = np.arange(10 * 3 * 2, dtype=dtype).reshape(1, 10, 3, 2)
    store = RowStore(8, RowMemory())
    for first in range(0, 8, 4):
        store.put(first, values[:, first : first + 4])
    assert store.rows(0, 8).dtype == dtype
    assert np.array_equal(store.rows(3, 7), values[:, 3:7])
    assert np.shares_memory(store.rows(0, 4), store.rows(2, 8)), "they are lent, not copied"


def test_nothing_is_kept_of_no_rows() -> None:
    store = RowStore(0, RowMemory())
    store.forget(5)
    assert store.end == 0


def test_other_rows_outlive_those_that_are_forgotten() -> None:
    values = np.random.default_rng(0).random((1, 64, 100, 3), np.float32)
    store = RowStore(64, RowMemory())
    store.put(0, values)
    for before in (1, 17, 40, 63):
        store.forget(before)
        assert np.array_equal(store.rows(before, 64), values[:, before:])
        with pytest.raises(IndexError, match="forgotten"):
            store.rows(before - 1, 64)
    store.forget(64)


def features(seed: int, rows: int = 64) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((1, rows, 512, 512), np.float32)


def replaced(old: RowStore, values: NDArray[np.float32], memory: RowMemory, step: int = 8) -> RowStore:
    """Put features strip by strip, as those before are forgotten, two rows of which are still needed."""
    new = RowStore(values.shape[1], memory)
    for first in range(0, new.end, step):
        end = first + step
        old.forget(end if end == new.end else end - 2)
        new.put(first, values[:, first:end])
    return new


def test_features_follow_each_other_in_one_piece_of_memory() -> None:
    memory = RowMemory()
    store = RowStore(64, memory)
    store.put(0, features(0))
    before = resident_bytes()
    for turn in range(1, 40):  # more than there are rows in front
        values = features(turn)
        store = replaced(store, values, memory)
        assert np.array_equal(store.rows(0, 64), values)
    assert resident_bytes() - before < 1.5 * values.nbytes, "values themselves, and little more"


def test_rows_that_are_still_needed_are_not_written_over() -> None:
    memory = RowMemory()
    old, new = RowStore(8, memory), RowStore(8, memory)
    values = np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1)
    old.put(0, values)
    old.forget(3)
    new.put(0, values[:, :5])
    with pytest.raises(IndexError, match="rows 5 to 6 would lie where others are still needed"):
        new.put(5, values[:, 5:6])
    assert np.array_equal(old.rows(3, 8), values[:, 3:])
    old.forget(8)
    new.put(5, values[:, 5:])
    assert np.array_equal(new.rows(0, 8), values)


@pytest.mark.parametrize("rows", [4, 9])
def test_features_of_another_size_have_a_piece_of_their_own(rows: int) -> None:
    memory = RowMemory()
    old, new = RowStore(8, memory), RowStore(rows, memory)
    values = np.arange(9, dtype=np.float32).reshape(1, 9, 1, 1)
    old.put(0, values[:, :8])
    new.put(0, values[:, :rows] + 1)
    assert np.array_equal(old.rows(0, 8), values[:, :8])
    assert np.array_equal(new.rows(0, rows), values[:, :rows] + 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems may keep the memory")
@pytest.mark.parametrize("follows", [False, True])
def test_rows_that_nothing_follows_give_their_memory_back(follows: bool) -> None:
    memory = RowMemory()
    store = RowStore(64, memory)
    before = resident_bytes()
    store.put(0, np.ones((1, 64, 1024, 512), np.float32))
    if follows:
        store = replaced(store, np.ones((1, 64, 1024, 512), np.float32), memory)
    put = resident_bytes()
    assert put - before > 120 * MIB
    memory.end()
    store.forget(48)
    assert put - resident_bytes() > 90 * MIB
    store.forget(64)
    assert put - resident_bytes() > 120 * MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems may keep the memory")
@pytest.mark.parametrize("ended", [False, True])
def test_what_was_forgotten_before_the_end_goes_back_too(ended: bool) -> None:
    memory = RowMemory()
    store = RowStore(64, memory)
    store.put(0, features(0))
    put = resident_bytes()
    store.forget(64)
    assert abs(put - resident_bytes()) < 8 * MIB, "it waits for those that follow"
    if ended:
        memory.end()
    else:
        RowStore(2, memory).put(0, features(1, 2))
    assert put - resident_bytes() > 50 * MIB
