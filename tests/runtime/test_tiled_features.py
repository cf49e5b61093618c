"""Rows that convolutions see, and layers that give some rows at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glc.engines import Array
from glc.runtime.moments import RowMoments
from glc.runtime.row_store import RowMemory
from glc.runtime.tiled_features import ComputedLayer, PassedLayer, Sampling, Storing

HEIGHT = 12


def convolved(x: torch.Tensor, sampling: Sampling, *, window: bool = False) -> torch.Tensor:
    """A 3x3 convolution along rows alone, as the model has it; of a window, without rows of its own."""
    kernel = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64).reshape(1, 1, 3, 1)
    match sampling:
        case Sampling.SAME:
            return F.conv2d(x, kernel, padding=(0 if window else 1, 0))
        case Sampling.HALVED:
            return F.conv2d(x if window else F.pad(x, (0, 0, 0, 1)), kernel, stride=(2, 1))
        case Sampling.DOUBLED:
            doubled = x.repeat_interleave(2, dim=2)
            return F.conv2d(doubled[:, :, 1:-1] if window else doubled, kernel, padding=(0 if window else 1, 0))


@pytest.mark.parametrize("sampling", list(Sampling))
def test_rows_of_a_window_are_those_of_the_whole(sampling: Sampling) -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(1, 9, (1, 1, HEIGHT, 2)).astype(np.float64))
    whole = convolved(x, sampling)
    assert whole.shape[2] == sampling.size(HEIGHT)
    for first in range(whole.shape[2]):
        for end in range(first + 1, whole.shape[2] + 1):
            made, made_end = sampling.made(first, end)
            window = sampling.window(made, made_end)
            within = slice(*window.within(HEIGHT))
            given = torch.from_numpy(window.filled(x[:, :, within].numpy().transpose(0, 2, 3, 1), HEIGHT))
            part = convolved(given.permute(0, 3, 1, 2), sampling, window=True)
            assert part.shape[2] == made_end - made
            assert torch.equal(part[:, :, first - made : end - made], whole[:, :, first:end])


def test_rows_beyond_the_image_are_zeros_and_said_to_be() -> None:
    window = Sampling.SAME.window(0, 3)
    assert window.inside(3).tolist() == [0, 1, 1, 1, 0]
    assert window.filled(np.ones((1, 3, 2, 1), np.float16), 3)[0, :, 0, 0].tolist() == [0, 1, 1, 1, 0]
    inner = np.ones((1, 5, 2, 1), np.float32)
    assert Sampling.SAME.window(4, 7).filled(inner, 12) is inner, "nothing is copied in the middle of an image"


WHOLE = np.arange(10 * 3, dtype=np.float32).reshape(1, 10, 3, 1)


class Source(ComputedLayer):
    """Rows of `WHOLE` that remembers what it was asked for."""

    height, width = 10, 3

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.forgotten: list[int] = []

    def strip(self, first: int, end: int) -> tuple[Array, RowMoments]:
        if first < max(self.forgotten, default=0):
            raise IndexError("asked for what was forgotten")
        self.asked.append((first, end))
        return WHOLE[:, first:end], RowMoments(np.zeros((end - first, 1)), np.zeros((end - first, 1)))

    def _forget(self, before: int) -> None:
        self.forgotten.append(before)


def passed(share: float, source: Source) -> PassedLayer:
    layer = PassedLayer(source, 4, share, Storing(lambda values: values, lambda values: values), RowMemory())
    for first in range(0, 10, 4):
        layer.take(first, WHOLE[:, first : first + 4])
    return layer


@pytest.mark.parametrize(("share", "kept_end"), [(0, 0), (0.3, 0), (0.4, 4), (0.7, 8), (1, 10)])
def test_rows_that_are_not_kept_are_computed_again(share: float, kept_end: int) -> None:
    source = Source()
    layer = passed(share, source)
    assert layer.kept_end == kept_end
    for first in range(10):
        for end in range(first + 1, 11):
            source.asked.clear()
            assert np.array_equal(layer.rows(first, end), WHOLE[:, first:end])
            assert source.asked == ([(max(first, kept_end), end)] if end > kept_end else [])


def test_what_is_forgotten_is_forgotten_below_too_and_once() -> None:
    source = Source()
    layer = passed(0.8, source)
    for before in (3, 7, 7, 5):
        layer.forget(before)
    assert np.array_equal(layer.rows(7, 10), WHOLE[:, 7:])
    assert source.forgotten == [3, 7]
    with pytest.raises(IndexError, match="forgotten"):
        layer.rows(6, 8)


@pytest.mark.parametrize("sampling", list(Sampling))
def test_rows_still_needed_are_those_of_the_window_until_the_end(sampling: Sampling) -> None:
    height = sampling.size(HEIGHT)
    for before in range(height):
        needed = sampling.needed(before, height, HEIGHT)
        later = [sampling.window(*sampling.made(first, height)) for first in range(before, height)]
        assert needed == min(window.within(HEIGHT)[0] for window in later)
    assert sampling.needed(height, height, HEIGHT) == HEIGHT
