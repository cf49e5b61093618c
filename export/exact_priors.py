"""All that decoding depends on, in integers: codebook, programs of the four parts, tables of scale indices."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.export.exact_calibration import Ranges, calibrate
from glc.export.exact_program import (
    CONTEXT,
    PARAMS,
    SCALES_MEANS,
    Y_HAT,
    Z_HAT,
    prior_programs,
)
from glc.export.exact_weights import FINEST, ExactProgram, Integers, convert, exponents_for, limit_for
from glc.export.model import GlcModel
from glc.runtime.scale_table import ScaleGrid

MEAN_EXPONENT = FINEST
"""Means, and with them y_hat, are multiples of 2 to the power of minus this at the finest."""


@dataclass(frozen=True, slots=True, eq=False)
class ExactPrior:
    """The prior of one part."""

    program: ExactProgram
    result: str
    """Tensor that holds scales and means (part 0: and quant_step before them)."""
    index_table: NDArray[np.uint8]
    """(rows, limit + 1): scale index of each positive integer at one exponent."""
    index_rows: Integers
    """(N,): row of each channel of the scales."""

    @property
    def exponents(self) -> Integers:
        """Of `result`."""
        return self.program.exponents[self.result]


@dataclass(frozen=True, slots=True, eq=False)
class ExactPriors:
    """The priors of all parts."""

    codebook: Integers
    """(M, N)."""
    hyper: ExactPrior
    spatial: tuple[ExactPrior, ExactPrior, ExactPrior]

    @property
    def parts(self) -> tuple[ExactPrior, ...]:
        """Of parts 0 to 3."""
        return self.hyper, *self.spatial

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All integers, under names, for the identity of the model."""
        arrays: dict[str, NDArray[np.generic]] = {"codebook": self.codebook}
        for part, prior in enumerate(self.parts):
            program = prior.program
            arrays[f"{part} index_table"], arrays[f"{part} index_rows"] = prior.index_table, prior.index_rows
            for name, conv in program.convs.items():
                arrays |= {f"{part} {name} {field}": getattr(conv, field) for field in ("weight", "bias", "shift")}
            for name, exponents in program.exponents.items():
                arrays[f"{part} {name} exponents"] = exponents
                arrays[f"{part} {name} limit"] = np.asarray(program.limits[name])
        return arrays


def exact_priors(model: GlcModel, images: Iterable[NDArray[np.uint8]], grid: ScaleGrid) -> ExactPriors:
    """Convert the prior networks of a model.

    Args:
        model: float32 model.
        images: (H, W, 3) uint8 each, to calibrate on.
        grid: of the scale table.

    Raises:
        ExportError: weights that have no integer form within the bound.
        ValueError: there is no image.
    """
    ranges = calibrate(model, images)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    programs = prior_programs(weights)
    n = model.config.latent_channels
    entries = weights["z_vq.embedding.weight"].astype(np.float64)
    # No margin is needed: nothing else than the entries can occur.
    limit = limit_for(n)
    z_exponents = exponents_for(np.abs(entries).max(0), limit, margin=1.0)
    codebook = np.rint(np.ldexp(entries, z_exponents)).astype(np.int64)
    program = convert(programs[0], weights, ranges[0], {Z_HAT: (z_exponents, limit)})
    hyper = _prior(program, PARAMS, slice(n, 2 * n), grid)
    context = (program.exponents[CONTEXT], program.limits[CONTEXT])
    y_hat = (np.full(n, MEAN_EXPONENT), 1 << 22)
    spatial = []
    for operations, seen in zip(programs[1:], ranges[1:], strict=True):
        widened: Ranges = {**seen, "known": np.maximum(seen["known"], 1.0)}
        program = convert(operations, weights, widened, {Y_HAT: y_hat, CONTEXT: context})
        spatial.append(_prior(program, SCALES_MEANS, slice(0, n), grid))
    first, second, third = spatial
    return ExactPriors(codebook, hyper, (first, second, third))


def _prior(program: ExactProgram, result: str, scales: slice, grid: ScaleGrid) -> ExactPrior:
    exponents, rows = np.unique(program.exponents[result][scales], return_inverse=True)
    values = np.arange(program.limits[result] + 1, dtype=np.float64)
    table = np.stack([_indices(np.ldexp(values, -exponent), grid) for exponent in exponents])
    return ExactPrior(program, result, table, rows.astype(np.int64))


def _indices(scales: NDArray[np.float64], grid: ScaleGrid) -> NDArray[np.uint8]:
    """Nearest level on a logarithmic axis, as in `glc.export.graphs.scale_indices`."""
    position = np.log(np.maximum(scales, 1e-5) / grid.smallest) / math.log(grid.ratio)
    return np.clip(np.rint(position), 0, grid.levels - 1).astype(np.uint8)
