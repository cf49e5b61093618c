"""Rows in one piece of memory: what is put is there, what is forgotten is the system's again."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from glc.runtime.memory_limit import resident_bytes
from glc.runtime.row_store import RowStore

MIB = 1 << 20


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_are_those_that_were_put(dtype: type[np.floating]) -> None:
    values = np.arange(10 * 3 * 2, dtype=dtype).reshape(1, 10, 3, 2)
    store = RowStore(8)
    for first in range(0, 8, 4):
        store.put(first, values[:, first : first + 4])
    assert store.rows(0, 8).dtype == dtype
    assert np.array_equal(store.rows(3, 7), values[:, 3:7])
    assert np.shares_memory(store.rows(0, 4), store.rows(2, 8)), "they are lent, not copied"


def test_nothing_is_kept_of_no_rows() -> None:
    store = RowStore(0)
    store.forget(5)
    assert store.end == 0


def test_other_rows_outlive_those_that_are_forgotten() -> None:
    values = np.random.default_rng(0).random((1, 64, 100, 3), np.float32)
    store = RowStore(64)
    store.put(0, values)
    for before in (1, 17, 40, 63):
        store.forget(before)
        assert np.array_equal(store.rows(before, 64), values[:, before:])
        with pytest.raises(IndexError, match="forgotten"):
            store.rows(before - 1, 64)
    store.forget(64)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems may keep the memory")
def test_forgotten_rows_give_their_memory_back() -> None:
    store = RowStore(64)
    before = resident_bytes()
    store.put(0, np.ones((1, 64, 1024, 512), np.float32))
    put = resident_bytes()
    assert put - before > 120 * MIB
    store.forget(48)
    assert put - resident_bytes() > 90 * MIB
    store.forget(64)
    assert put - resident_bytes() > 120 * MIB
