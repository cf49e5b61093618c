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

from glc.engines import Tensor

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

    scale_indices: Tensor
    """(1, N, h/2, w/2) uint8: row of the scale table for each element."""
    means: Tensor
    """(1, N, h/2, w/2) float32: predicted value of each element, in units of quant_step."""


class SymbolCoder(Protocol):
    """Where symbols come from: read from a payload, or computed from a latent."""

    def code(self, part: int, prior: PartPrior) -> Tensor:
        """Return the symbols (1, N, h/2, w/2) int32 of one part; parts are asked for in order."""
        ...


def walk(
    first: PartPrior,
    next_prior: Callable[[int, Tensor], PartPrior],
    coder: SymbolCoder,
    assemble: Callable[[int, Tensor | None, Tensor, Tensor], Tensor],
) -> Tensor:
    """Go through the four parts and assemble the decoded latent.

    Args:
        first: prior of part 0.
        next_prior: (part, y_hat so far) -> prior of that part, for parts 1 to 3.
        coder: gives the symbols of each part.
        assemble: (part, y_hat so far or None, symbols, means) -> y_hat; `LatentSteps.assemble`.

    Returns:
        y_hat (1, N, h, w) float32 in units of quant_step.
    """
    y_hat = assemble(0, None, coder.code(0, first), first.means)
    for part in range(1, PARTS):
        prior = next_prior(part, y_hat)
        y_hat = assemble(part, y_hat, coder.code(part, prior), prior.means)
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
