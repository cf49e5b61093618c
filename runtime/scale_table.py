"""The scale table: integer symbol probabilities for every scale index.

Probabilities are integers over 2^24, computed once at export and shipped in the bundle. Nothing here turns a scale
into a probability, so that a decoder's floating point has no say in what a payload means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.errors import BundleInvalid

PROBABILITY_BITS = 24
"""Probabilities are integers that add up to 2^24."""

MAX_LEVELS = 256
"""Scale indices are uint8."""


@dataclass(frozen=True, slots=True)
class ScaleGrid:
    """Levels of the scale, evenly spaced on a logarithmic axis: level i is `smallest * ratio**i`."""

    smallest: float
    """Scale of index 0."""
    ratio: float
    """Quotient of neighbouring levels, > 1."""
    levels: int
    """Number of levels, at most 256."""


@dataclass(frozen=True, slots=True, eq=False)
class ScaleTable:
    """Distributions of the symbols, one row for each scale index.

    Row i has probabilities for the symbols -reach[i] .. reach[i] in that order, then one for the escape, which
    stands for any symbol beyond.
    """

    reach: NDArray[np.int32]
    """(levels,): largest magnitude that row i codes without an escape, >= 1."""
    frequencies: tuple[NDArray[np.int64], ...]
    """Row i: (2 reach[i] + 2,) integers >= 1 that add up to 2^24."""

    def __post_init__(self) -> None:
        levels = len(self.frequencies)
        if not 1 <= levels <= MAX_LEVELS or self.reach.shape != (levels,):
            raise BundleInvalid(f"scale table: {levels} rows and {self.reach.shape} reaches; expected 1 to 256 of each")
        for index, (reach, row) in enumerate(zip(self.reach.tolist(), self.frequencies, strict=True)):
            if reach < 1 or row.shape != (2 * reach + 2,) or row.min() < 1 or row.sum() != 1 << PROBABILITY_BITS:
                raise BundleInvalid(
                    f"scale table: row {index} must hold {2 * reach + 2} positive integers that add up to 2^24"
                )

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays for tables.npz: `scale_reach` (levels,) int32, `scale_frequencies` (all rows in turn,) int32."""
        rows = np.concatenate(self.frequencies).astype(np.int32)
        return {"scale_reach": self.reach.astype(np.int32), "scale_frequencies": rows}

    @classmethod
    def from_arrays(cls, reach: NDArray[np.generic], frequencies: NDArray[np.generic]) -> ScaleTable:
        """Read what `to_arrays` wrote.

        Raises:
            BundleInvalid: the arrays are not a scale table.
        """
        if reach.dtype != np.int32 or frequencies.dtype != np.int32 or reach.ndim != 1 or frequencies.ndim != 1:
            raise BundleInvalid("scale table: scale_reach and scale_frequencies must be int32 vectors")
        reaches = np.asarray(reach, np.int64)
        ends = np.cumsum(2 * reaches + 2)
        if (reaches < 1).any() or len(ends) == 0 or ends[-1] != len(frequencies):
            raise BundleInvalid("scale table: scale_frequencies does not have the length that scale_reach implies")
        rows = np.split(np.asarray(frequencies, np.int64), ends[:-1].tolist())
        return cls(np.asarray(reach, np.int32), tuple(rows))
