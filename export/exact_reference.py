"""Exact programs in int64 NumPy: what every engine must reproduce to the last bit. Knows neither torch nor ONNX."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from glc.export.exact_priors import MEAN_EXPONENT, ExactPrior, ExactPriors
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
    Shuffle,
)
from glc.export.exact_weights import ExactConv, ExactProgram, Integers
from glc.runtime.spatial_walk import gather_part


def run_integers(program: ExactProgram, given: Mapping[str, Integers]) -> dict[str, Integers]:
    """Interpret a program.

    Args:
        program: of integers.
        given: inputs (C, h, w), int64.

    Returns:
        Every tensor, (C, h, w) int64, the given ones too.

    Raises:
        OverflowError: an accumulator left the bound, which `convert` rules out.
    """
    tensors = dict(given)
    for op in program.operations:
        limit = program.limits[op.out]
        match op:
            case Conv(out, x, _, leaky, add, _):
                conv = program.convs[out]
                sums = _convolve(tensors[x], conv)
                shift = conv.shift[:, None, None]
                if add is not None:
                    add_shift = conv.add_shift[:, None, None]
                    unit = np.maximum(np.maximum(shift, -add_shift), 0)
                    sums = (sums << (unit - shift)) + (tensors[add] << (unit + add_shift))
                    _require_bound(out, sums)
                    shift = unit
                elif leaky:
                    # max(t, t / 128), in units of 1/128.
                    sums, shift = np.maximum(sums << 7, sums), shift + 7
                result = _divide(sums, shift)
            case Gate(out, x):
                u, v = np.split(tensors[x], 2)
                # In units of 1/32.
                product = u * np.where(v < 0, 3 * v, 32 * v)
                result = _divide(product, program.gate_shift(op)[:, None, None] + 5)
            case Leaky(out, x):
                result = _leaky(tensors[x])
            case Shuffle(out, x):
                channels, height, width = tensors[x].shape
                cells = tensors[x].reshape(channels // 4, 2, 2, height, width)
                result = cells.transpose(0, 3, 1, 4, 2).reshape(channels // 4, 2 * height, 2 * width)
            case Concat(out, parts):
                shifts = program.concat_shifts(op)
                result = np.concatenate(
                    [_divide(tensors[p], -shift[:, None, None]) for p, shift in zip(parts, shifts, strict=True)]
                )
            case _:
                result = tensors[op.x] + tensors[op.add]
        tensors[op.out] = np.clip(result, -limit, limit)
    return tensors


def _convolve(x: Integers, conv: ExactConv) -> Integers:
    """Zero-padded "same" convolution (O, h, w) with bias."""
    outputs, per_group, size, _ = conv.weight.shape
    channels, height, width = x.shape
    groups = channels // per_group
    margin = size // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin))).reshape(groups, per_group, height + 2 * margin, -1)
    weight = conv.weight.reshape(groups, outputs // groups, per_group, size, size)
    sums = np.zeros((groups, outputs // groups, height * width), np.int64)
    for row in range(size):
        for column in range(size):
            window = padded[:, :, row : row + height, column : column + width].reshape(groups, per_group, -1)
            sums += weight[..., row, column] @ window
    result: Integers = sums.reshape(outputs, height, width) + conv.bias[:, None, None]
    _require_bound("a convolution", result)
    return result


def _leaky(x: Integers) -> Integers:
    return np.where(x < 0, _divide(3 * x, np.int64(5)), x)


def _divide(x: Integers, shift: Integers | np.int64) -> Integers:
    """Divide by 2^shift, to nearest, ties to even; a negative shift multiplies."""
    up, down = np.maximum(-shift, 0), np.maximum(shift, 0)
    x = x << up
    floor = x >> down
    twice = (x - (floor << down)) * 2
    half = np.int64(1) << down
    result: Integers = floor + ((twice > half) | ((twice == half) & (floor & 1 == 1)))
    return result


def _require_bound(name: str, sums: Integers) -> None:
    if np.abs(sums).max(initial=0) >= 1 << 24:
        raise OverflowError(f"{name}: an accumulator reached 2^24")


def hyper_prior_results(priors: ExactPriors, z_indices: NDArray[np.int32]) -> dict[str, NDArray[np.generic]]:
    """Outputs of graph `hyper_prior` for z indices (1, h/4, w/4)."""
    z_hat = priors.codebook[z_indices[0]].transpose(2, 0, 1)
    tensors = run_integers(priors.hyper.program, {Z_HAT: z_hat})
    params = tensors[PARAMS]
    n = priors.codebook.shape[1]
    quant_step = _real(params[:n], priors.hyper.exponents[:n])
    return {
        **_part_results(priors.hyper, params[n:], 0),
        "quant_step": np.maximum(quant_step, np.float32(0.5))[None],
        "context": tensors[CONTEXT].astype(np.float32)[None],
    }


def spatial_prior_results(
    priors: ExactPriors, part: int, y_hat: NDArray[np.float32], context: NDArray[np.float32]
) -> dict[str, NDArray[np.generic]]:
    """Outputs of graph `spatial_prior_<part>` for y_hat and context (1, N, h, w)."""
    prior = priors.spatial[part - 1]
    given = {
        Y_HAT: np.rint(np.ldexp(y_hat[0].astype(np.float64), MEAN_EXPONENT)).astype(np.int64),
        CONTEXT: context[0].astype(np.int64),
    }
    return _part_results(prior, run_integers(prior.program, given)[SCALES_MEANS], part)


def _part_results(prior: ExactPrior, scales_means: Integers, part: int) -> dict[str, NDArray[np.generic]]:
    n = len(prior.index_rows)
    scales, means = gather_part(scales_means[:n], part), gather_part(scales_means[n:], part)
    rows = prior.index_rows[:, None, None]
    indices = prior.index_table[rows, np.clip(scales, 0, prior.index_table.shape[1] - 1)]
    return {"scale_indices": indices[None], "means": _real(means, prior.exponents[-n:])[None]}


def _real(integers: Integers, exponents: Integers) -> NDArray[np.float32]:
    return np.ldexp(integers.astype(np.float64), -exponents[:, None, None]).astype(np.float32)
