"""From scales to the integer probabilities that a bundle ships."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from glc.runtime.scale_table import PROBABILITY_BITS, ScaleGrid, ScaleTable

_LEVELS = 128
_SMALLEST = 0.11
_LARGEST = 64.0

DEFAULT_GRID = ScaleGrid(_SMALLEST, (_LARGEST / _SMALLEST) ** (1 / (_LEVELS - 1)), _LEVELS)
"""128 levels from 0.11 to 64, 5 % apart."""

_FLOOR = 1e-5
"""What the authors' estimate adds to each probability (GLC.md, "Rate"). Trained models lean on it: their outliers
reach tens where the scale is small. On the demonstration checkpoint at its highest quality a floor that fell by 4 with
each step cost 5.2 % above the estimate, this one 0.3 %."""


def build_scale_table(grid: ScaleGrid) -> ScaleTable:
    """Round zero-mean normal distributions of every level to integers over 2^24."""
    rows = [_frequencies(grid.smallest * grid.ratio**level) for level in range(grid.levels)]
    return ScaleTable(np.array([len(row) // 2 - 1 for row in rows], np.int32), tuple(rows))


def level_of(scales: NDArray[np.float32], grid: ScaleGrid) -> NDArray[np.uint8]:
    """Scale indices for scales of any sign; `glc.export.graphs.scale_indices` in NumPy."""
    position = np.log(np.maximum(scales, 1e-5) / grid.smallest) / math.log(grid.ratio)
    return np.clip(np.rint(position), 0, grid.levels - 1).astype(np.uint8)


def _frequencies(scale: float) -> NDArray[np.int64]:
    reach = 4 + math.ceil(5 * scale)
    edges = [math.erf((n + 0.5) / (scale * math.sqrt(2))) / 2 for n in range(-1, reach + 1)]
    # P(n) for n = 0..reach, and what lies beyond; symmetric, so the negative half is its mirror image.
    half = [edges[n + 1] - edges[n] + (_FLOOR if n else 0.0) for n in range(reach + 1)]
    beyond = 1 - 2 * edges[-1] + _FLOOR
    weights = np.array([*half[:0:-1], *half, beyond])
    total = 1 << PROBABILITY_BITS
    frequencies = np.maximum(1, np.floor(weights * (total / weights.sum()))).astype(np.int64)
    frequencies[reach] += total - frequencies.sum()
    return np.asarray(frequencies, np.int64)
