"""What exact arithmetic does to the rate: ranges, saturation and added bits of each layer, over photographs.

Layers are rounded one at a time while all others compute as published, so that each one's share shows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glc.export.exact_calibration import Slopes, central_crop, float_result, walk_priors
from glc.export.exact_graphs import LARGE_SLOPE, SMALL_SLOPE, powers
from glc.export.exact_priors import ExactPriors
from glc.export.exact_program import Conv, Shuffle
from glc.export.exact_weights import ExactProgram, met_exponents
from glc.export.graphs import Analysis, interpolated_row, scale_indices
from glc.export.model import GlcModel
from glc.export.reference import estimated_bits
from glc.runtime.scale_table import ScaleGrid

_DYADIC = Slopes(SMALL_SLOPE, LARGE_SLOPE)

Layer = tuple[int, str]
"""Part, and the tensor that an operation makes."""


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One operation of one part."""

    part: int
    tensor: str
    limit: int
    """Largest integer."""
    exponents: tuple[int, int]
    """Lowest and highest over the channels."""
    ranges: tuple[float, float]
    """Largest magnitude seen, lowest and highest over the channels."""
    saturated: float
    """Part of the elements that the limit clamps, all layers being rounded."""
    added_rate: float
    """Bits added where this layer alone is rounded, as a part of the published rate."""


@dataclass(frozen=True, slots=True)
class RoundingReport:
    """Of all prior networks."""

    images: int
    published_bits: float
    """Of the symbols, over the images at all qualities."""
    added_rate: float
    """Bits added where all layers are rounded, as a part of the published rate."""
    saturated: float
    """Part of all elements that are clamped."""
    layers: tuple[LayerReport, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    z_hat: Tensor
    y: Tensor


@dataclass(slots=True)
class _Clamped:
    elements: int = 0
    beyond: int = 0
    ranges: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))

    @property
    def share(self) -> float:
        return self.beyond / self.elements


@torch.inference_mode()
def rounding_report(
    model: GlcModel, priors: ExactPriors, images: Iterable[NDArray[np.uint8]], grid: ScaleGrid, *, layers: bool
) -> RoundingReport:
    """Measure over the middle of images at all qualities.

    Args:
        model: float32.
        priors: the same model's.
        images: (H, W, 3) uint8 each.
        grid: of the scale table.
        layers: also round each layer alone: as many walks as there are layers, at the highest quality only.
    """
    analysis, samples = Analysis(model), []
    for image in images:
        latent = analysis.latent(torch.from_numpy(central_crop(image).copy())[None])
        for quality in range(model.config.qualities):
            y, z_indices = analysis.coded(latent, interpolated_row(model.q_enc, quality))
            samples.append(_Sample(model.z_vq.lookup(z_indices), y))
    networks = _Networks(model, priors, grid)
    everything = networks.layers()
    published = networks.bits(samples, ())
    rounded = networks.bits(samples, everything, clamped := {layer: _Clamped() for layer in everything})
    elements = sum(seen.elements for seen in clamped.values())
    rows = []
    if layers:
        last = samples[model.config.qualities - 1 :: model.config.qualities]
        alone = networks.bits(last, ())
        for layer in everything:
            program, seen = priors.parts[layer[0]].program, clamped[layer]
            exponents = program.exponents[layer[1]]
            rows.append(
                LayerReport(
                    *layer,
                    program.limits[layer[1]],
                    (int(exponents.min()), int(exponents.max())),
                    (float(seen.ranges.min()), float(seen.ranges.max())),
                    seen.share,
                    networks.bits(last, (layer,)) / alone - 1,
                )
            )
    return RoundingReport(
        len(samples) // model.config.qualities,
        published,
        rounded / published - 1,
        sum(seen.beyond for seen in clamped.values()) / elements,
        tuple(rows),
    )


class _Networks:
    """Prior networks of which chosen layers are rounded; tensors are real numbers all the way."""

    def __init__(self, model: GlcModel, priors: ExactPriors, grid: ScaleGrid) -> None:
        self._weights = model.state_dict()
        self._programs = [prior.program for prior in priors.parts]
        self._rounded_weights = [_real_weights(program) for program in self._programs]
        self._grid = grid

    def layers(self) -> tuple[Layer, ...]:
        """All layers that round or clamp, in order."""
        return tuple(
            (part, op.out)
            for part, program in enumerate(self._programs)
            for op in program.operations
            if not isinstance(op, Shuffle)
        )

    def bits(
        self, samples: Sequence[_Sample], rounded: Collection[Layer], clamped: Mapping[Layer, _Clamped] | None = None
    ) -> float:
        """Estimated bits of the symbols."""

        def network(part: int, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            program, tensors = self._programs[part], dict(given)
            for op in program.operations:
                if (part, op.out) in rounded:
                    exact = float_result(op, self._rounded_weights[part], tensors, _DYADIC)
                    tensors[op.out] = _rounded(
                        program, op.out, exact, None if clamped is None else clamped[part, op.out]
                    )
                else:
                    tensors[op.out] = float_result(op, self._weights, tensors)
            return tensors

        total = 0.0
        for sample in samples:
            for symbols, scales in walk_priors(network, sample.z_hat, sample.y):
                levels = self._grid.smallest * self._grid.ratio ** scale_indices(scales, self._grid).float()
                total += estimated_bits(symbols, levels)
        return total


def _rounded(program: ExactProgram, tensor: str, exact: Tensor, seen: _Clamped | None) -> Tensor:
    unit, limit = powers(program.exponents[tensor]), program.limits[tensor]
    integers = exact * unit
    if seen is not None:
        seen.elements += integers.numel()
        seen.beyond += int((integers.abs() > limit + 0.5).sum())
        seen.ranges = np.maximum(seen.ranges, exact.abs().amax((0, 2, 3)).double().numpy())
    return integers.round().clamp(-limit, limit) / unit


def _real_weights(program: ExactProgram) -> dict[str, Tensor]:
    """Integer weights and biases as the real numbers that they stand for, under the names of the state dict."""
    weights: dict[str, Tensor] = {}
    for op in program.operations:
        if isinstance(op, Conv):
            conv = program.convs[op.out]
            out = conv.shift + program.exponents[op.out]
            scale = met_exponents(program.exponents[op.x], conv.weight.shape) - out[:, None, None, None]
            weight = np.ldexp(conv.weight.astype(np.float64), scale)
            bias = np.ldexp(conv.bias.astype(np.float64), -out)
            weights[f"{op.weights}.weight"] = torch.from_numpy(weight).float()
            weights[f"{op.weights}.bias"] = torch.from_numpy(bias).float()
    return weights
