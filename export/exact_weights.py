"""Float weights and calibrated ranges -> integer weights, with the bound on every sum (docs/exact-arithmetic.md).

A tensor holds integers; channel c stands for integer * 2^-exponent[c]. No integer is larger than the tensor's limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.errors import ExportError
from glc.export.exact_calibration import Ranges
from glc.export.exact_program import Concat, Conv, Gate, Leaky, Operation, Program, Shuffle, Sum

Integers = NDArray[np.int64]

ACCUMULATOR = 1 << 24
"""Sums stay below: float32 holds every integer up to here, whatever the order of a sum."""
LARGEST_ACTIVATION = 1023
LARGEST_WEIGHT = 2047
LARGEST_SHIFT = 14
"""Weights are divided by 2^shift in the graphs; float16 holds all multiples of 2^-14 that have 11 bits."""
LARGEST_GATED = 682
"""Three times as much still is an integer of 11 bits, so that LeakyReLU of slope 3/32 needs no rounding."""
_BALANCE = 1.6e8
"""Square of the limit times the number of terms at which activations and weights are rounded equally coarsely."""
_MARGIN = 1.25
"""Ranges are widened by this before they are rounded up to a power of two."""
FINEST = 12
"""Largest exponent: channels that calibration never saw move must not take all digits."""
_SIGNIFICANT_BITS = 11
"""Of float16."""
_SHIFTS = range(26, -13, -1)


@dataclass(frozen=True, slots=True, eq=False)
class ExactConv:
    """out = clamp(round(add * 2^add_shift + (weight * x + bias) / 2^shift)), or LeakyReLU before rounding."""

    weight: Integers
    """(O, I/groups, k, k)."""
    bias: Integers
    """(O,)."""
    shift: Integers
    """(O,): may be negative."""
    add_shift: Integers
    """(O,): exponents of the result over those of what is added; zero where nothing is."""

    def halves(self) -> tuple[ExactConv, ExactConv]:
        """A convolution for each half of the output channels."""
        fields = (np.split(array, 2) for array in (self.weight, self.bias, self.shift, self.add_shift))
        first, second = (ExactConv(*arrays) for arrays in zip(*fields, strict=True))
        return first, second


@dataclass(frozen=True, slots=True, eq=False)
class ExactProgram:
    """A program with all that its integer form needs."""

    operations: Program
    convs: Mapping[str, ExactConv]
    """Of each `Conv`, by the tensor that it makes."""
    exponents: Mapping[str, Integers]
    """(C,) of each tensor."""
    limits: Mapping[str, int]
    """Largest magnitude in each tensor."""

    def gate_shift(self, gate: Gate) -> Integers:
        """(C,): powers of two that the product of a gate is divided by."""
        u, v = np.split(self.exponents[gate.x], 2)
        return u + v - self.exponents[gate.out]

    def concat_shifts(self, concat: Concat) -> tuple[Integers, ...]:
        """(C,) of each part: powers of two that it is multiplied by."""
        shifts, first = [], 0
        for part in concat.x:
            exponents = self.exponents[part]
            shifts.append(self.exponents[concat.out][first : first + len(exponents)] - exponents)
            first += len(exponents)
        return tuple(shifts)


def convert(
    operations: Program,
    weights: Mapping[str, NDArray[np.floating]],
    ranges: Ranges,
    given: Mapping[str, tuple[Integers, int]],
) -> ExactProgram:
    """Choose exponents and limits, round the weights and prove the bound.

    Args:
        operations: of a prior network.
        weights: the state dict.
        ranges: from `calibrate`.
        given: inputs that are integers already: tensor -> exponents (C,) and limit.

    Raises:
        ExportError: weights that are not finite, or too large for the bound.
    """
    limits = _limits(operations, weights) | {name: limit for name, (_, limit) in given.items()}
    exponents = _exponents(operations, ranges, limits, {name: e for name, (e, _) in given.items()})
    convs = {
        op.out: _convert(op, weights[f"{op.weights}.weight"], weights[f"{op.weights}.bias"], exponents, limits)
        for op in operations
        if isinstance(op, Conv)
    }
    return ExactProgram(operations, convs, exponents, limits)


def limit_for(terms: int) -> int:
    """Limit of a tensor that is summed in so many terms."""
    return min(LARGEST_ACTIVATION, math.isqrt(int(_BALANCE) // terms))


def exponents_for(ranges: NDArray[np.float64], limit: int, *, margin: float = _MARGIN) -> Integers:
    """Exponents (C,) at which integers up to a limit hold the ranges (C,), widened by a factor."""
    with np.errstate(divide="ignore"):
        return np.minimum(np.floor(np.log2(limit / (margin * ranges))), FINEST).astype(np.int64)


def met_exponents(exponents: Integers, shape: tuple[int, ...]) -> Integers:
    """Exponents of the input channels that weights (O, I/groups, k, k) of a convolution meet: (O, I/groups, 1, 1)."""
    outputs, per_group = shape[:2]
    groups = len(exponents) // per_group
    of_group = exponents.reshape(groups, 1, per_group).repeat(outputs // groups, axis=1)
    return of_group.reshape(outputs, per_group, 1, 1)


def _limits(operations: Program, weights: Mapping[str, NDArray[np.floating]]) -> dict[str, int]:
    """The more terms a tensor is summed in, the fewer of the 24 bits of a sum it may take."""
    limits: dict[str, int] = {}

    def lower(name: str, limit: int) -> None:
        limits[name] = min(limits.get(name, LARGEST_ACTIVATION), limit)

    for op in reversed(operations):
        limit = limits.setdefault(op.out, LARGEST_ACTIVATION)
        match op:
            case Conv(_, x, prefix, _, add, _):
                terms = math.prod(weights[f"{prefix}.weight"].shape[1:])
                lower(x, limit_for(terms))
                if add is not None:
                    lower(add, limit)
            case Gate(_, x):
                lower(x, LARGEST_GATED)
            case Concat():
                pass  # rounded anew, whatever the limits of its parts
            case Sum(_, x, add):
                lower(x, limit)
                lower(add, limit)
            case Leaky(_, x) | Shuffle(_, x):
                lower(x, limit)
    return limits


def _exponents(
    operations: Program, ranges: Ranges, limits: Mapping[str, int], given: Mapping[str, Integers]
) -> dict[str, Integers]:
    """Tensors that are added, or are one another's channels, share their exponents."""
    tied: dict[str, str] = {}

    def root(name: str) -> str:
        while name in tied:
            name = tied[name]
        return name

    for op in operations:
        for other in _added(op):
            if root(other) != root(op.out):
                tied[root(other)] = root(op.out)
    names = {op.out for op in operations}
    exponents: dict[str, Integers] = dict(given)
    for name in sorted(names):
        members = [other for other in names if root(other) == root(name)]
        limit = min(limits[member] for member in members)
        exponents[name] = exponents_for(np.max([ranges[member] for member in members], axis=0), limit)
    for op in operations:
        if isinstance(op, Shuffle):
            exponents[op.x] = exponents[op.out].repeat(4)
    return exponents


def _added(op: Operation) -> tuple[str, ...]:
    match op:
        case Conv(add=str(add), rescale=False):
            return (add,)
        case Sum(_, x, add):
            return x, add
        case Leaky(_, x):
            return (x,)
        case _:
            return ()


def _convert(
    op: Conv,
    weight: NDArray[np.floating],
    bias: NDArray[np.floating],
    exponents: Mapping[str, Integers],
    limits: Mapping[str, int],
) -> ExactConv:
    """The finest weights with which no accumulator reaches 2^24 and no weight 2^11."""
    real, offset = weight.astype(np.float64), bias.astype(np.float64)
    if not (np.isfinite(real).all() and np.isfinite(offset).all()):
        raise ExportError(f"{op.weights} is not finite")
    outputs = len(real)
    real = real * np.exp2(-met_exponents(exponents[op.x], real.shape))
    if op.add is None:
        added, add_shift = 0, np.zeros(outputs, np.int64)
    else:
        added, add_shift = limits[op.add], exponents[op.out] - exponents[op.add]
    chosen = np.full(outputs, np.iinfo(np.int64).min)
    for scale in _SHIFTS:
        integers, shift = np.rint(np.ldexp(real, scale)), scale - exponents[op.out]
        largest = np.abs(integers).max((1, 2, 3))
        sums = limits[op.x] * np.abs(integers).sum((1, 2, 3)) + np.abs(_of_eleven_bits(np.ldexp(offset, scale)))
        # All in the smallest of the units that meet before rounding.
        unit = np.maximum(np.maximum(shift, -add_shift), 0)
        whole = np.ldexp(sums, unit - shift) + np.ldexp(float(added), unit + add_shift)
        fits = (whole < ACCUMULATOR) & (largest <= LARGEST_WEIGHT) & (shift <= LARGEST_SHIFT)
        chosen = np.where(fits & (chosen == np.iinfo(np.int64).min), scale, chosen)
    if (chosen == np.iinfo(np.int64).min).any():
        raise ExportError(f"{op.weights}: no integer weights keep its sums below 2^24")
    return ExactConv(
        np.rint(np.ldexp(real, chosen[:, None, None, None])).astype(np.int64),
        _of_eleven_bits(np.ldexp(offset, chosen)).astype(np.int64),
        chosen - exponents[op.out],
        add_shift,
    )


def _of_eleven_bits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest integers that float16 holds at some scale: of 11 bits, behind which zeros may follow."""
    excess = np.maximum(np.frexp(values)[1] - _SIGNIFICANT_BITS, 0)
    result: NDArray[np.float64] = np.ldexp(np.rint(np.ldexp(values, -excess)), excess)
    return result
