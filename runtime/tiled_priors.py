"""Exact prior graphs in strips of the latent: integers, and so the same to the last bit as in one piece."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from glc.engines import Array, Tensor
from glc.runtime.networks import HyperPrior
from glc.runtime.spatial_walk import PartPrior

_SEEN = 8
"""Rows of the latent above and below that a prior graph may see: 3x3 convolutions, four or six one after the other, two
of which lie at half and quarter resolution. A multiple of 4, the cell of the hyper latent."""


def tiled_hyper_prior(run: Callable[[Tensor], HyperPrior], z_indices: Array, rows: int) -> HyperPrior:
    """Run the hyper prior strip by strip.

    Args:
        run: the graph, on z indices of some rows.
        z_indices: (1, h/4, w/4) int32.
        rows: of the latent in a strip; a multiple of 4.
    """
    height = 4 * z_indices.shape[1]
    made: dict[str, Array] = {}
    for first in range(0, height, rows):
        end, top, bottom = _neighbourhood(first, rows, height)
        prior = run(np.ascontiguousarray(z_indices[:, top // 4 : bottom // 4]))
        found = {
            "scale_indices": prior.first.scale_indices,
            "means": prior.first.means,
            "quant_step": prior.quant_step,
            "context": prior.context,
        }
        for name, tensor in found.items():
            _place(made, name, np.asarray(tensor), (first, end), top, height)
    return HyperPrior(PartPrior(made["scale_indices"], made["means"]), made["quant_step"], made["context"])


def tiled_spatial_prior(run: Callable[[Array, Array], PartPrior], y_hat: Array, context: Array, rows: int) -> PartPrior:
    """Run a spatial prior strip by strip.

    Args:
        run: the graph, on some rows of both.
        y_hat: (1, N, h, w) float32.
        context: (1, N, h, w) float32.
        rows: of the latent in a strip; even.
    """
    height = y_hat.shape[2]
    made: dict[str, Array] = {}
    for first in range(0, height, rows):
        end, top, bottom = _neighbourhood(first, rows, height)
        prior = run(*(np.ascontiguousarray(tensor[:, :, top:bottom]) for tensor in (y_hat, context)))
        for name, tensor in (("scale_indices", prior.scale_indices), ("means", prior.means)):
            _place(made, name, np.asarray(tensor), (first, end), top, height)
    return PartPrior(made["scale_indices"], made["means"])


def _neighbourhood(first: int, rows: int, height: int) -> tuple[int, int, int]:
    """End of a strip, and the rows that it depends on."""
    end = min(first + rows, height)
    return end, max(first - _SEEN, 0), min(end + _SEEN, height)


def _place(made: dict[str, Array], name: str, strip: Array, rows: tuple[int, int], top: int, height: int) -> None:
    """Copy what is right of a strip into the whole, which has all or half of the latent's rows."""
    batch, channels, _, columns = strip.shape
    first, end = rows
    share = 2 if name in ("scale_indices", "means") else 1
    if name not in made:
        made[name] = np.empty((batch, channels, height // share, columns), strip.dtype)
    made[name][:, :, first // share : end // share] = strip[:, :, (first - top) // share : (end - top) // share]
