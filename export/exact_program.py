"""The prior networks as straight-line programs, which calibration, graphs and the integer reference all interpret.

A program is a tuple of operations on named tensors (B, C, h, w); every operation makes one tensor
(docs/exact-arithmetic.md, "Programs").
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Conv:
    """Convolution with bias; then `add` is added, or LeakyReLU of slope 2^-7 (published: 0.01) applied."""

    out: str
    x: str
    weights: str
    """Prefix of its weight and bias in the state dict."""
    leaky: bool = False
    add: str | None = None
    rescale: bool = False
    """Whether `add` may have other exponents than the result; sharing them saves a multiplication."""


@dataclass(frozen=True, slots=True)
class Gate:
    """First half of the channels times LeakyReLU of slope 3/32 (published: 0.1) of the second half."""

    out: str
    x: str


@dataclass(frozen=True, slots=True)
class Leaky:
    """LeakyReLU of slope 3/32 (published: 0.1)."""

    out: str
    x: str


@dataclass(frozen=True, slots=True)
class Shuffle:
    """Pixel shuffle by 2: channels 4c to 4c + 3 become the 2x2 cell of channel c."""

    out: str
    x: str


@dataclass(frozen=True, slots=True)
class Sum:
    """Element by element."""

    out: str
    x: str
    add: str


@dataclass(frozen=True, slots=True)
class Concat:
    """Along channels, rounded to the exponents of the result."""

    out: str
    x: tuple[str, ...]


Operation = Conv | Gate | Leaky | Shuffle | Sum | Concat

Program = tuple[Operation, ...]

Z_HAT, PARAMS, CONTEXT, Y_HAT, SCALES_MEANS = "z_hat", "params", "context", "y_hat", "scales_means"
"""Tensors that programs take from and give to their surroundings."""


def prior_programs(names: Container[str]) -> tuple[Program, ...]:
    """Programs of parts 0 to 3: hyper prior, and spatial prior of each further part.

    Args:
        names: of the state dict; they tell where a block has an adaptor.
    """
    return _hyper_prior(names), *(_spatial_prior(part, names) for part in (1, 2, 3))


def _hyper_prior(names: Container[str]) -> Program:
    """Hyper decoder, prior fusion and reduction: z_hat -> params, context."""
    operations: list[Operation] = []
    x = Z_HAT
    for prefix in ("hyper_dec.0", "hyper_dec.1"):
        operations += [
            _conv(f"{prefix}.subpel_conv.0", x, leaky=True),
            Shuffle(f"{prefix}.subpel_conv", f"{prefix}.subpel_conv.0"),
            _conv(f"{prefix}.conv", f"{prefix}.subpel_conv"),
            Leaky(f"{prefix}.main", f"{prefix}.conv"),
            _conv(f"{prefix}.upsample.0", x),
            Shuffle(f"{prefix}.upsample", f"{prefix}.upsample.0"),
            Sum(prefix, f"{prefix}.main", f"{prefix}.upsample"),
        ]
        x = prefix
    for prefix, out in (("hyper_dec.2",) * 2, ("y_prior_fusion.0",) * 2, ("y_prior_fusion.1", PARAMS)):
        operations += _block(prefix, x, out, names)
        x = out
    operations.append(Conv(CONTEXT, x, "y_spatial_prior_reduction"))
    return tuple(operations)


def _spatial_prior(part: int, names: Container[str]) -> Program:
    """Adaptor of part 1, 2 or 3 and the spatial prior: y_hat, context -> scales_means."""
    operations: list[Operation] = [Concat("known", (Y_HAT, CONTEXT))]
    adaptor = f"y_spatial_prior_adaptor_{part}"
    operations += _block(adaptor, "known", adaptor, names, rescale_first=True)
    x = adaptor
    for prefix, out in (
        ("y_spatial_prior.0",) * 2,
        ("y_spatial_prior.1",) * 2,
        ("y_spatial_prior.2", SCALES_MEANS),
    ):
        operations += _block(prefix, x, out, names)
        x = out
    return tuple(operations)


def _conv(weights: str, x: str, *, leaky: bool = False, add: str | None = None, rescale: bool = False) -> Conv:
    return Conv(weights, x, weights, leaky, add, rescale)


def _block(prefix: str, x: str, out: str, names: Container[str], *, rescale_first: bool = False) -> list[Operation]:
    """DepthConv and ConvFFN, with or without an adaptor.

    What a program gives out has exponents of its own, and what y_hat is added to may: scales and y_hat, which meet in
    one channel, have very different ranges.
    """
    depth, ffn = f"{prefix}.block.0", f"{prefix}.block.1"
    operations: list[Operation] = []
    identity = x
    if f"{depth}.adaptor.weight" in names:
        identity = f"{depth}.adaptor"
        operations.append(_conv(identity, x))
    return [
        *operations,
        _conv(f"{depth}.conv1.0", x, leaky=True),
        _conv(f"{depth}.depth_conv", f"{depth}.conv1.0"),
        _conv(f"{depth}.conv2", f"{depth}.depth_conv", add=identity, rescale=rescale_first),
        _conv(f"{ffn}.conv", f"{depth}.conv2"),
        Gate(f"{ffn}.gate", f"{ffn}.conv"),
        Conv(out, f"{ffn}.gate", f"{ffn}.conv_out", add=f"{depth}.conv2", rescale=out in (PARAMS, SCALES_MEANS)),
    ]
