"""Mean and variance of feature channels, gathered strip by strip: what GroupNorm needs of a whole image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.engines import Array

EPSILON = 1e-6
"""Added to the variance by every GroupNorm of the model (GLC.md, "Residual block")."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of each channel over the same elements."""

    count: int
    """Elements of one channel."""
    mean: NDArray[np.float64]
    """(C,)."""
    variance: NDArray[np.float64]
    """(C,), about the mean."""


def merged(parts: Sequence[Moments]) -> Moments:
    """Moments of several parts taken together, in float64."""
    count = sum(part.count for part in parts)
    weights = np.array([part.count for part in parts], np.float64)[:, None] / count
    means = np.stack([part.mean for part in parts])
    mean = np.sum(weights * means, axis=0)
    within = np.stack([part.variance for part in parts])
    return Moments(count, mean, np.sum(weights * (within + (means - mean) ** 2), axis=0))


def group_statistics(moments: Moments, groups: int) -> Mapping[str, Array]:
    """Inputs `mean` and `inverse_deviation`, (groups, 1) float32 each, of a graph that starts with a GroupNorm."""
    of_channels = moments.mean.reshape(groups, -1)
    mean = of_channels.mean(axis=1, keepdims=True)
    variance = (moments.variance.reshape(groups, -1) + (of_channels - mean) ** 2).mean(axis=1, keepdims=True)
    deviation = np.sqrt(variance + EPSILON)
    return {"mean": mean.astype(np.float32), "inverse_deviation": (1 / deviation).astype(np.float32)}
