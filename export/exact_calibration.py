"""Ranges of the prior networks' activations, over photographs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glc.export.exact_program import (
    CONTEXT,
    PARAMS,
    SCALES_MEANS,
    Y_HAT,
    Z_HAT,
    Concat,
    Conv,
    Gate,
    Leaky,
    Operation,
    Program,
    Shuffle,
    prior_programs,
)
from glc.export.graphs import Analysis, compact_part, interpolated_row
from glc.export.model import MIN_QUANT_STEP, GlcModel
from glc.runtime.codec import DEFAULT_MAX_PIXELS
from glc.runtime.default_model import packaged_photos
from glc.runtime.images import read_image
from glc.runtime.spatial_walk import PARTS, scatter_part

CROP = 320
"""Side in pixels of what calibration takes of an image."""

Ranges = Mapping[str, NDArray[np.float64]]
"""Tensor -> largest magnitude of each channel (C,)."""


@dataclass(slots=True)
class _Watch:
    ranges: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def see(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            largest = tensor.abs().amax((0, 2, 3)).double().numpy()
            self.ranges[name] = np.maximum(largest, self.ranges.get(name, 0.0))


@dataclass(frozen=True, slots=True)
class Slopes:
    """Of LeakyReLU on negative numbers."""

    convolution: float
    gate: float
    """And of LeakyReLU by itself."""


PUBLISHED = Slopes(0.01, 0.1)


def run_float(program: Program, weights: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Interpret a program as published, in the weights' precision; returns every tensor, the given ones too."""
    tensors = dict(given)
    for operation in program:
        tensors[operation.out] = float_result(operation, weights, tensors)
    return tensors


def float_result(
    operation: Operation, weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor], slopes: Slopes = PUBLISHED
) -> Tensor:
    """Result of one operation in real numbers, not rounded."""
    match operation:
        case Conv(_, x, prefix, leaky, add, _):
            weight, bias = weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]
            groups = tensors[x].shape[1] // weight.shape[1]
            result = F.conv2d(tensors[x], weight, bias, padding=weight.shape[2] // 2, groups=groups)
            result = F.leaky_relu(result, slopes.convolution) if leaky else result
            return result if add is None else result + tensors[add]
        case Gate(_, x):
            u, v = tensors[x].chunk(2, dim=1)
            return u * F.leaky_relu(v, slopes.gate)
        case Leaky(_, x):
            return F.leaky_relu(tensors[x], slopes.gate)
        case Shuffle(_, x):
            return F.pixel_shuffle(tensors[x], 2)
        case Concat(_, parts):
            return torch.cat([tensors[part] for part in parts], dim=1)
        case _:
            return tensors[operation.x] + tensors[operation.add]


PriorNetwork = Callable[[int, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""(part, tensors that its program takes) -> at least those that it gives."""


def walk_priors(network: PriorNetwork, z_hat: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Go through the four parts as an encoder does.

    Args:
        network: prior networks of the four parts.
        z_hat: (1, N, h/4, w/4).
        y: (1, N, h, w).

    Yields:
        Symbols and scales of each part, (1, N, h/2, w/2).
    """
    given: Mapping[str, Tensor] = {Z_HAT: z_hat}
    results = network(0, given)
    quant_step, scales, means = results[PARAMS].chunk(3, dim=1)
    target = y / quant_step.clamp(min=MIN_QUANT_STEP)
    context, y_hat = results[CONTEXT], torch.zeros_like(target)
    for part in range(PARTS):
        if part > 0:
            scales, means = network(part, {Y_HAT: y_hat, CONTEXT: context})[SCALES_MEANS].chunk(2, dim=1)
        mean = compact_part(means, part)
        symbols = torch.round(compact_part(target, part) - mean)
        scatter_part(y_hat[0].numpy(), part, (symbols + mean)[0].numpy())
        yield symbols, compact_part(scales, part)


def packaged_images() -> list[NDArray[np.uint8]]:
    """Photographs of the package (H, W, 3), for those who name none to calibrate on."""
    return [read_image(path, DEFAULT_MAX_PIXELS).pixels for path in packaged_photos()]


def central_crop(image: NDArray[np.uint8], largest: int = CROP) -> NDArray[np.uint8]:
    """Middle of an image (H, W, 3), at most so large a side; calibration in float64 costs seconds even so."""
    top, left = (max(size - largest, 0) // 2 for size in image.shape[:2])
    return image[top : top + largest, left : left + largest]


@torch.inference_mode()
def calibrate(model: GlcModel, images: Iterable[NDArray[np.uint8]]) -> tuple[Ranges, ...]:
    """Pass the middle of images at every quality through the published networks.

    In float64, so that no machine's rounding moves a range across a power of two: two exports of one checkpoint then
    are one model.

    Args:
        model: any precision.
        images: (H, W, 3) uint8 each.

    Returns:
        Ranges of the tensors of each part's program.

    Raises:
        ValueError: there is no image.
    """
    model = copy.deepcopy(model).double()
    weights = model.state_dict()
    programs = prior_programs(weights)
    watches = [_Watch() for _ in programs]
    analysis = Analysis(model)

    def network(part: int, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        results = run_float(programs[part], weights, given)
        watches[part].see(results)
        return results

    for image in images:
        latent = analysis.latent(torch.from_numpy(central_crop(image).copy())[None])
        for quality in range(model.config.qualities):
            y, z_indices = analysis.coded(latent, interpolated_row(model.q_enc, quality))
            for _ in walk_priors(network, model.z_vq.lookup(z_indices), y):
                pass
    if not watches[0].ranges:
        raise ValueError("no image to calibrate on")
    return tuple(watch.ranges for watch in watches)
