"""The four-part walk with gradients, as the model and the runtime do it (`glc.runtime.spatial_walk`).

params -> quant_step, scales, means -> part 0 -> y_hat so far -> spatial prior -> part 1 -> ... -> y_hat, bits

Distortion sees rounded symbols with straight-through gradients; rate sees the residual under uniform noise, which is
what makes it differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glc.export.model import MIN_QUANT_STEP, GlcModel
from glc.runtime.spatial_walk import PART_OFFSETS, PARTS

SMALLEST_SCALE = 0.11
"""The smallest scale of the bundle's table: below it nothing is saved."""


@dataclass(frozen=True, slots=True, eq=False)
class Walked:
    """The latent as the decoder will see it, and what it costs."""

    y_hat: Tensor
    """(B, N, h, w), multiplied by quant_step."""
    bits: Tensor
    """(B,): estimated rate of the symbols."""
    hyper_bits: Tensor
    """(B,): what the rate would be if all of y were coded as part 0, from the hyper latent alone; y has no gradient."""


class _LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient also passes below the bound where it raises x."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound  # type: ignore[attr-defined]
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        (gradient,) = gradients
        passes = (x >= ctx.bound) | (gradient < 0)  # type: ignore[attr-defined]
        return gradient * passes, None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """Return max(x, bound), with a gradient that leads back over the bound."""
    result: Tensor = _LowerBound.apply(x, bound)  # type: ignore[no-untyped-call]
    return result


def straight_through_round(x: Tensor) -> Tensor:
    """Round to nearest, ties to even; the gradient is the identity's."""
    return x + (x.round() - x).detach()


def part_masks(channels: int, height: int, width: int) -> tuple[Tensor, ...]:
    """The four masks (1, N, h, w) float32; each element is 1 in one of them."""
    masks = []
    for offsets in PART_OFFSETS:
        mask = torch.zeros(1, channels, height, width)
        for quarter, (row, column) in zip(mask.chunk(4, dim=1), offsets, strict=True):
            quarter[:, :, row::2, column::2] = 1
        masks.append(mask)
    return tuple(masks)


def walk(model: GlcModel, params: Tensor, y: Tensor, masks: Sequence[Tensor]) -> Walked:
    """Code y (B, N, h, w) under the prior params (B, 3N, h, w), both float32."""
    quant_step, scales, means = params.chunk(3, dim=1)
    quant_step = lower_bound(quant_step, MIN_QUANT_STEP)
    common = model.y_spatial_prior_reduction(params)
    target = y / quant_step
    hyper_bits = noisy_bits(target.detach() - means, scales).sum((1, 2, 3))
    y_hat = torch.zeros_like(y)
    residuals, all_scales = torch.zeros_like(y), torch.zeros_like(y)
    for part in range(PARTS):
        if part > 0:
            adapted = model.spatial_adaptors[part - 1](torch.cat((y_hat, common), dim=1))
            scales, means = model.y_spatial_prior(adapted).chunk(2, dim=1)
        mask = masks[part]
        residual = (target - means) * mask
        y_hat = y_hat + (straight_through_round(residual) + means) * mask
        residuals = residuals + residual
        all_scales = all_scales + scales * mask
    return Walked(y_hat * quant_step, noisy_bits(residuals, all_scales).sum((1, 2, 3)), hyper_bits)


def noisy_bits(residuals: Tensor, scales: Tensor) -> Tensor:
    """Bits of each element under a normal distribution, uniform noise standing in for rounding."""
    noisy = (residuals + torch.rand_like(residuals) - 0.5).abs()
    s = lower_bound(scales, SMALLEST_SCALE)
    # In logarithms of the symmetric tail: a residual far out of its scale still has a gradient that leads back.
    inner, outer = (torch.special.log_ndtr((edge - noisy) / s) for edge in (0.5, -0.5))
    bits: Tensor = -(inner + torch.log1p(-torch.exp(outer - inner))) / math.log(2)
    return bits
