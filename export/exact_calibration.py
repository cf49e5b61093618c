"""Ranges of the prior networks' activations, over photographs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    Program,
    Shuffle,
    hyper_prior_program,
    spatial_prior_program,
)
from glc.export.graphs import Analysis, compact_part, interpolated_row
from glc.export.model import MIN_QUANT_STEP, GlcModel
from glc.runtime.spatial_walk import scatter_part

Ranges = Mapping[str, NDArray[np.float64]]
"""Tensor -> largest magnitude of each channel (C,)."""


@dataclass(slots=True)
class _Watch:
    ranges: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def see(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            largest = tensor.abs().amax((0, 2, 3)).double().numpy()
            self.ranges[name] = np.maximum(largest, self.ranges.get(name, 0.0))


def run_float(program: Program, weights: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Interpret a program as published, in the weights' precision; returns every tensor, the given ones too."""
    tensors = dict(given)
    for operation in program:
        match operation:
            case Conv(out, x, prefix, leaky, add, _):
                weight, bias = weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]
                groups = tensors[x].shape[1] // weight.shape[1]
                result = F.conv2d(tensors[x], weight, bias, padding=weight.shape[2] // 2, groups=groups)
                result = F.leaky_relu(result, 0.01) if leaky else result
                tensors[out] = result if add is None else result + tensors[add]
            case Gate(out, x):
                u, v = tensors[x].chunk(2, dim=1)
                tensors[out] = u * F.leaky_relu(v, 0.1)
            case Leaky(out, x):
                tensors[out] = F.leaky_relu(tensors[x], 0.1)
            case Shuffle(out, x):
                tensors[out] = F.pixel_shuffle(tensors[x], 2)
            case Concat(out, parts):
                tensors[out] = torch.cat([tensors[part] for part in parts], dim=1)
            case _:
                tensors[operation.out] = tensors[operation.x] + tensors[operation.add]
    return tensors


@torch.inference_mode()
def calibrate(model: GlcModel, images: Iterable[NDArray[np.uint8]]) -> tuple[Ranges, Sequence[Ranges]]:
    """Pass images at every quality through the published networks.

    Args:
        model: float32 model.
        images: (H, W, 3) uint8 each.

    Returns:
        Ranges of the hyper prior's tensors, and of those of the spatial prior for parts 1, 2 and 3.

    Raises:
        ValueError: there is no image.
    """
    weights = model.state_dict()
    hyper, spatial = hyper_prior_program(weights), [spatial_prior_program(part, weights) for part in (1, 2, 3)]
    watches = [_Watch() for _ in range(4)]
    analysis = Analysis(model)
    for image in images:
        latent = analysis.latent(torch.from_numpy(image.copy())[None])
        for quality in range(model.config.qualities):
            y, z_indices = analysis.coded(latent, interpolated_row(model.q_enc, quality))
            tensors = run_float(hyper, weights, {Z_HAT: model.z_vq.lookup(z_indices)})
            watches[0].see(tensors)
            quant_step, _, means = tensors[PARAMS].chunk(3, dim=1)
            target = y / quant_step.clamp(min=MIN_QUANT_STEP)
            y_hat = torch.zeros_like(target)
            for part in range(4):
                if part > 0:
                    given = {Y_HAT: y_hat, CONTEXT: tensors[CONTEXT]}
                    results = run_float(spatial[part - 1], weights, given)
                    watches[part].see(results)
                    _, means = results[SCALES_MEANS].chunk(2, dim=1)
                mean = compact_part(means, part)
                decoded = torch.round(compact_part(target, part) - mean) + mean
                scatter_part(y_hat[0].numpy(), part, decoded[0].numpy())
            for watch in watches[1:]:
                watch.see({Y_HAT: y_hat})
    if not watches[0].ranges:
        raise ValueError("no image to calibrate on")
    return watches[0].ranges, [watch.ranges for watch in watches[1:]]
