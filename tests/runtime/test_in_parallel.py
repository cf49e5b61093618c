"""Work on many items at once: order, bounds, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from tests.runtime.conftest import SMALL

import glc
from glc.errors import NotABitstream
from glc.runtime.in_parallel import in_parallel


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def slow_for_even(item: int) -> int:
        threading.Event().wait(0.002 * (item % 2))
        return item * item

    assert in_parallel(slow_for_even, range(40), workers) == [item * item for item in range(40)]
    assert in_parallel(slow_for_even, (), workers) == []


def test_a_source_is_read_no_further_ahead_than_there_is_room() -> None:
    read, done, ahead = 0, 0, 0

    def source() -> Iterator[int]:
        nonlocal read, ahead
        for item in range(50):
            read += 1
            ahead = max(ahead, read - done)
            yield item

    def work(item: int) -> int:
        nonlocal done
        done += 1
        return item

    in_parallel(work, source(), 2)
    assert ahead <= 2 * 2 + 2


def test_workers_run_at_once() -> None:
    together = threading.Barrier(3, timeout=10)
    in_parallel(lambda _: together.wait(), range(3), 3)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_error_ends_the_work(workers: int) -> None:
    started: list[int] = []

    def fail(item: int) -> None:
        started.append(item)
        raise KeyError(item)

    with pytest.raises(KeyError, match="0"):
        in_parallel(fail, range(1000), workers)
    assert len(started) <= 2 * workers + 1


def test_workers_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1; got 0"):
        in_parallel(str, (), 0)


def test_batches_of_a_codec_are_those_of_single_calls(codec: glc.Codec) -> None:
    images = [SMALL[: 20 + 3 * n] for n in range(6)]
    expected = [codec.encode(image, 2) for image in images]
    assert codec.encode_batch(iter(images), 2, workers=3) == expected
    for found, data in zip(codec.decode_batch(expected, workers=2), expected, strict=True):
        assert np.array_equal(found, codec.decode(data))
    with pytest.raises(NotABitstream):
        codec.decode_batch([expected[0], b"no stream", expected[1]], workers=2)
