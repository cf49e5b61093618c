"""Rows that convolutions see, and layers that give some rows at a time."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glc.engines import Array
from glc.runtime.moments import Moments
from glc.runtime.tiled_features import ComputedLayer, PassedLayer, Sampling, Storing

HEIGHT = 12


def convolved(x: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """A 3x3 convolution along rows alone, as the model has it."""
    kernel = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64).reshape(1, 1, 3, 1)
    match sampling:
        case Sampling.SAME:
            return F.conv2d(x, kernel, padding=(1, 0))
        case Sampling.HALVED:
            return F.conv2d(F.pad(x, (0, 0, 0, 1)), kernel, stride=(2, 1))
        case Sampling.DOUBLED:
            return F.conv2d(x.repeat_interleave(2, dim=2), kernel, padding=(1, 0))


@pytest.mark.parametrize("sampling", list(Sampling))
def test_rows_of_a_window_are_those_of_the_whole(sampling: Sampling) -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (1, 1, HEIGHT, 2)).astype(np.float64))
    whole = convolved(x, sampling)
    assert whole.shape[2] == sampling.size(HEIGHT)
    for first in range(whole.shape[2]):
        for end in range(first + 1, whole.shape[2] + 1):
            window = sampling.window(first, end, HEIGHT)
            chosen = slice(*window.chosen(first, end).tolist())
            part = convolved(x[:, :, window.first : window.end], sampling)[:, :, chosen]
            assert torch.equal(part, whole[:, :, first:end])


WHOLE = np.arange(10 * 3, dtype=np.float32).reshape(1, 1, 10, 3)


class Source(ComputedLayer):
    """Rows of `WHOLE` that remembers what it was asked for."""

    height, width = 10, 3

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.forgotten = 0

    def strip(self, first: int, end: int) -> tuple[Array, Moments]:
        if first < self.forgotten:
            raise IndexError("asked for what was forgotten")
        self.asked.append((first, end))
        return WHOLE[:, :, first:end], Moments(0, np.zeros(1), np.zeros(1))

    def forget(self, before: int) -> None:
        self.forgotten = max(self.forgotten, before)


def passed(share: float, source: Source) -> PassedLayer:
    layer = PassedLayer(source, 4, share, Storing(lambda values: values, lambda values: values))
    for first in range(0, 10, 4):
        layer.take(first, WHOLE[:, :, first : first + 4])
    return layer


@pytest.mark.parametrize(("share", "kept_end"), [(0, 0), (0.3, 0), (0.4, 4), (0.7, 8), (1, 10)])
def test_rows_that_are_not_kept_are_computed_again(share: float, kept_end: int) -> None:
    source = Source()
    layer = passed(share, source)
    assert layer.kept_end == kept_end
    for first in range(10):
        for end in range(first + 1, 11):
            source.asked.clear()
            assert np.array_equal(layer.rows(first, end), WHOLE[:, :, first:end])
            assert source.asked == ([(max(first, kept_end), end)] if end > kept_end else [])


def test_what_is_forgotten_is_forgotten_below_too() -> None:
    source = Source()
    layer = passed(0.8, source)
    layer.forget(7)
    assert np.array_equal(layer.rows(4, 10), WHOLE[:, :, 4:])
    assert source.forgotten == 7
    with pytest.raises(IndexError, match="forgotten"):
        layer.rows(3, 5)


def test_kept_strips_are_freed_as_they_are_forgotten() -> None:
    layer = passed(1, Source())
    freed = [weakref.ref(strip) for strip in layer._strips if strip is not None]
    layer.forget(8)
    assert [ref() is None for ref in freed] == [True, True, False]
    layer.forget(10)
    assert freed[2]() is None


@pytest.mark.parametrize("sampling", list(Sampling))
def test_rows_still_needed_are_those_of_the_window_until_the_end(sampling: Sampling) -> None:
    height = sampling.size(HEIGHT)
    for before in range(height):
        needed = sampling.needed(before, height, HEIGHT)
        assert needed == min(sampling.window(first, height, HEIGHT).first for first in range(before, height))
    assert sampling.needed(height, height, HEIGHT) == HEIGHT
