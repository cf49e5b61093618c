"""Rows that convolutions see, and layers that give some rows at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glc.runtime.tiled_features import KeptLayer, Sampling

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


def test_kept_rows_come_back_across_strips_until_they_are_forgotten() -> None:
    whole = np.arange(10 * 3, dtype=np.float32).reshape(1, 1, 10, 3)
    layer = KeptLayer(10, 3, 4, lambda values: values)
    for first in range(0, 10, 4):
        layer.append(whole[:, :, first : first + 4])
    for first in range(10):
        for end in range(first + 1, 11):
            assert np.array_equal(layer.rows(first, end), whole[:, :, first:end])
    layer.forget(7)
    assert np.array_equal(layer.rows(4, 10), whole[:, :, 4:])
    with pytest.raises(IndexError, match="forgotten"):
        layer.rows(3, 5)
