"""Mean and variance of feature channels, gathered row by row: what GroupNorm needs of a whole image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.engines import Array

EPSILON = 1e-6
"""Added to the variance by every GroupNorm of the model (GLC.md, "Residual block")."""


@dataclass(frozen=True, slots=True, eq=False)
class RowMoments:
    """Of each row of each channel, over its columns."""

    means: NDArray[np.float64]
    """(rows, C)."""
    squares: NDArray[np.float64]
    """(rows, C): means of the squares."""

    @classmethod
    def of_results(cls, results: Mapping[str, Array], columns: int) -> RowMoments:
        """Take them from what a tile graph gives: `row_means` and `row_lengths`, (1, C, rows, 1) float32 each."""
        means, lengths = (results[name][0, :, :, 0].T.astype(np.float64) for name in ("row_means", "row_lengths"))
        return cls(means, lengths**2 / columns)

    def chosen(self, first: int, end: int) -> RowMoments:
        """Those of some rows."""
        return RowMoments(self.means[first:end], self.squares[first:end])


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of each channel over the same elements."""

    mean: NDArray[np.float64]
    """(C,)."""
    variance: NDArray[np.float64]
    """(C,), about the mean."""


def merged(parts: Sequence[RowMoments]) -> Moments:
    """Moments of rows taken together, in float64.

    The variance is a difference of squares, as in engines/ov_group_norm.py: its relative error is that of a float32
    times (mean / deviation)^2, less what rows level out among each other.
    """
    mean = np.concatenate([part.means for part in parts]).mean(axis=0)
    square = np.concatenate([part.squares for part in parts]).mean(axis=0)
    return Moments(mean, np.maximum(square - mean**2, 0))


def group_statistics(moments: Moments, groups: int) -> Mapping[str, Array]:
    """Inputs `mean` and `inverse_deviation`, (groups, 1) float32 each, of a graph that starts with a GroupNorm."""
    of_channels = moments.mean.reshape(groups, -1)
    mean = of_channels.mean(axis=1, keepdims=True)
    variance = (moments.variance.reshape(groups, -1) + (of_channels - mean) ** 2).mean(axis=1, keepdims=True)
    deviation = np.sqrt(variance + EPSILON)
    return {"mean": mean.astype(np.float32), "inverse_deviation": (1 / deviation).astype(np.float32)}
