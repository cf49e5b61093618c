"""The four-part walk over the latent, which encoder and decoder share.

    hyper prior --scale indices, means of part 0--> coder --symbols--> y_hat so far --+
                                                                                      |
          +--scale indices, means of part k-- spatial_prior_k <--context, y_hat so far+     k = 1, 2, 3

Every position of the latent belongs to one part (GLC.md, "Four-part spatial prior"; quadtree partition of DCVC).
A part is handled as a compact array (N, h/2, w/2): channel n, cell (i, j) stands for latent position
(n, 2i + row, 2j + column), where (row, column) depends on the part and on the quarter that n lies in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

_Number = TypeVar("_Number", bound=np.number[Any])

PARTS = 4

PART_OFFSETS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((0, 0), (0, 1), (1, 0), (1, 1)),
    ((1, 1), (1, 0), (0, 1), (0, 0)),
    ((1, 0), (1, 1), (0, 0), (0, 1)),
    ((0, 1), (0, 0), (1, 1), (1, 0)),
)
"""Part -> quarter of the channels -> (row, column) in each 2x2 cell of positions."""


@dataclass(frozen=True, slots=True, eq=False)
class PartPrior:
    """What is known of a part before its symbols are."""

    scale_indices: NDArray[np.uint8]
    """(N, h/2, w/2): row of the scale table for each element."""
    means: NDArray[np.float32]
    """(N, h/2, w/2): predicted value of each element, in units of quant_step."""


class SymbolCoder(Protocol):
    """Where symbols come from: read from a payload, or computed from a latent and written to one."""

    def code(self, part: int, prior: PartPrior) -> NDArray[np.int32]:
        """Return the symbols (N, h/2, w/2) of one part; parts are asked for in order."""
        ...


def walk(
    first: PartPrior,
    next_prior: Callable[[int, NDArray[np.float32]], PartPrior],
    coder: SymbolCoder,
) -> NDArray[np.float32]:
    """Go through the four parts and assemble the decoded latent.

    Args:
        first: prior of part 0.
        next_prior: (part, y_hat so far (N, h, w)) -> prior of that part, for parts 1 to 3.
        coder: gives the symbols of each part.

    Returns:
        y_hat (N, h, w) float32 in units of quant_step.
    """
    channels, half_height, half_width = first.means.shape
    y_hat = np.zeros((channels, 2 * half_height, 2 * half_width), np.float32)
    prior = first
    for part in range(PARTS):
        if part > 0:
            prior = next_prior(part, y_hat)
        scatter_part(y_hat, part, coder.code(part, prior) + prior.means)
    return y_hat


def gather_part(latent: NDArray[_Number], part: int) -> NDArray[_Number]:
    """Take one part (N, h/2, w/2) out of a latent (N, h, w)."""
    return np.concatenate(_part_views(latent, part))


def scatter_part(latent: NDArray[np.float32], part: int, values: NDArray[np.floating]) -> None:
    """Write the values (N, h/2, w/2) of one part into a latent (N, h, w)."""
    for view, quarter in zip(_part_views(latent, part), np.split(values, 4), strict=True):
        view[...] = quarter


def _part_views(latent: NDArray[_Number], part: int) -> list[NDArray[_Number]]:
    quarters = np.split(latent, 4)
    return [q[:, row::2, column::2] for q, (row, column) in zip(quarters, PART_OFFSETS[part], strict=True)]
