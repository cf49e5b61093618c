"""Memory of our own kernels: what is needed at once lies apart, and what waits is lent to one run at a time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from glc.engines.kernel_memory import ActivationMemory, Placement, overlaid

LINE = 64


@pytest.mark.parametrize("seed", range(20))
def test_what_is_needed_at_once_lies_apart(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = {number: int(random.integers(1, 1000)) for number in range(12)}
    spans = {number: tuple(sorted(random.integers(0, 8, 2).tolist())) for number in sizes}
    places, size = overlaid(sizes, spans)
    assert not any(place % LINE for place in places.values())
    assert max(places[number] + sizes[number] for number in sizes) == size
    for a, b in itertools.combinations(sizes, 2):
        if spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]:
            assert places[a] + sizes[a] <= places[b] or places[b] + sizes[b] <= places[a]


def test_what_is_never_needed_at_once_lies_over_each_other() -> None:
    places, size = overlaid({1: 1000, 2: 1000, 3: 64}, {1: (0, 2), 2: (3, 5), 3: (2, 3)})
    assert places[1] == places[2] == 0
    assert size == 1024 + 64


def test_nothing_takes_no_memory() -> None:
    assert overlaid({}, {}) == ({}, 0)


def test_placed_arrays_lie_where_it_was_said() -> None:
    placement = Placement()
    arrays: list[NDArray[Any]] = [np.arange(5, dtype=np.float32), np.arange(3, dtype=np.int8)]
    starts = [placement.add(each) for each in arrays]
    content = placement.content()
    assert content.ctypes.data % LINE == 0
    for start, array in zip(starts, arrays, strict=True):
        assert start % LINE == 0
        np.testing.assert_array_equal(content[start : start + array.nbytes].view(array.dtype), array)


def test_chains_share_the_memory_of_activations() -> None:
    memory = ActivationMemory()
    first = memory.take(1000)
    memory.leave(first)
    assert memory.take(900) is first
    assert memory.take(900) is not first, "it is lent to one run at a time"
    memory.leave(first)
    assert memory.take(10).size == 10, "what is far too large goes"
