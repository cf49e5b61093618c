"""Exact priors as torch modules, whose graphs compute in integers that float32 holds (docs/exact-arithmetic.md).

Each convolution's weights carry the power of two that its sums are divided by, so that rounding and clamping follow
at once and fuse with it. Clamping stands before rounding where that is the same: engines fuse it more often.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from glc.export.exact_priors import ExactPrior, ExactPriors
from glc.export.exact_program import CONTEXT, PARAMS, SCALES_MEANS, Y_HAT, Z_HAT, Concat, Conv, Gate, Leaky, Shuffle
from glc.export.exact_weights import ExactConv, ExactProgram, Integers
from glc.export.graphs import GraphSource, bundle_graphs, compact_part
from glc.export.model import MIN_QUANT_STEP, GlcModel

SMALL_SLOPE = 2.0**-7
LARGE_SLOPE = 3 / 32


def exact_graphs(model: GlcModel, priors: ExactPriors) -> tuple[GraphSource, ...]:
    """All graphs of a bundle in exact arithmetic, in the order in which an image passes them."""
    spatial = [ExactSpatialPrior(prior, part) for part, prior in enumerate(priors.spatial, start=1)]
    return bundle_graphs(model, ExactHyperPrior(priors), spatial)


class ExactHyperPrior(nn.Module):
    """Codebook lookup, hyper synthesis, prior fusion and reduction, in exact arithmetic."""

    def __init__(self, priors: ExactPriors) -> None:
        super().__init__()
        self.codebook = nn.Parameter(_float(priors.codebook), requires_grad=False)
        self.network = _Network(priors.hyper.program)
        self.outputs = _Outputs(priors.hyper, first_scale=1)

    def forward(self, z_indices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `FloatHyperPrior.forward`; context is in integers."""
        z_hat = F.embedding(z_indices, self.codebook).permute(0, 3, 1, 2).contiguous()
        tensors = self.network({Z_HAT: z_hat})
        quant_step, scale_indices, means = self.outputs(tensors[PARAMS], 0)
        return scale_indices, means, quant_step.clamp(min=MIN_QUANT_STEP), tensors[CONTEXT]


class ExactSpatialPrior(nn.Module):
    """Adaptor of one part and the spatial prior, in exact arithmetic."""

    def __init__(self, prior: ExactPrior, part: int) -> None:
        super().__init__()
        self.network = _Network(prior.program)
        self.outputs = _Outputs(prior, first_scale=0)
        self.part = part

    def forward(self, y_hat: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """As `FloatSpatialPrior.forward`; context is in integers."""
        tensors = self.network({Y_HAT: y_hat, CONTEXT: context})
        _, scale_indices, means = self.outputs(tensors[SCALES_MEANS], self.part)
        return scale_indices, means


class _Network(nn.Module):
    """Interprets a program; every tensor is of integers within its limit."""

    def __init__(self, program: ExactProgram) -> None:
        super().__init__()
        self.program = program
        # A gate's factors come from a convolution each: splitting the result of one is a copy on ONNX Runtime.
        self.gated = tuple(op.x for op in program.operations if isinstance(op, Gate))
        convs = dict(program.convs)
        for name in self.gated:
            convs |= zip(_halves(name), convs.pop(name).halves(), strict=True)
        self.convs = nn.ModuleDict({_key(out): _Convolution(conv) for out, conv in convs.items()})
        factors: dict[str, Tensor] = {}
        for op in program.operations:
            match op:
                case Gate(out, _):
                    factors[out] = powers(-program.gate_shift(op))
                case Concat(out, parts):
                    shifts = program.concat_shifts(op)
                    for part, shift in zip(parts, shifts, strict=True):
                        # y_hat arrives in units of quant_step, everything else in integers.
                        whole = shift + program.exponents[part] if part == Y_HAT else shift
                        factors[_part(out, part)] = powers(whole)
        self.factors = nn.ParameterDict({_key(k): nn.Parameter(v, requires_grad=False) for k, v in factors.items()})

    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors (1, C, h, w) float32 that the program takes -> all tensors, those before gates in halves."""
        tensors = dict(given)
        for op in self.program.operations:
            limit = float(self.program.limits[op.out])
            match op:
                case Conv(out, x) if out in self.gated:
                    for half in _halves(out):
                        tensors[half] = self.convs[_key(half)](tensors[x], None).clamp(-limit, limit).round()
                    continue
                case Conv(out, x, _, leaky, add, _):
                    sums = self.convs[_key(out)](tensors[x], None if add is None else tensors[add])
                    sums = F.leaky_relu(sums, SMALL_SLOPE) if leaky else sums
                    result = sums.clamp(-limit, limit).round()
                case Gate(out, x):
                    u, v = (tensors[half] for half in _halves(x))
                    product = u * F.leaky_relu(v, LARGE_SLOPE)
                    result = (product * self.factors[_key(out)]).clamp(-limit, limit).round()
                case Leaky(out, x):
                    result = F.leaky_relu(tensors[x], LARGE_SLOPE).round()
                case Shuffle(out, x):
                    result = F.pixel_shuffle(tensors[x], 2)
                case Concat(out, parts):
                    # Each by itself: y_hat must be an integer before a tensor of few bits holds it.
                    scaled = [tensors[part] * self.factors[_key(_part(out, part))] for part in parts]
                    result = torch.cat([one.clamp(-limit, limit).round() for one in scaled], dim=1)
                case _:
                    result = (tensors[op.x] + tensors[op.add]).clamp(-limit, limit)
            tensors[op.out] = result
        return tensors


class _Convolution(nn.Module):
    """(weight * x + bias) / 2^shift + add * 2^add_shift, not yet rounded."""

    def __init__(self, conv: ExactConv) -> None:
        super().__init__()
        # A product of an integer below 2^11 and a power of two: float16 holds it too.
        self.weight = nn.Parameter(
            _float(np.ldexp(conv.weight.astype(np.float64), -conv.shift[:, None, None, None])), requires_grad=False
        )
        self.bias = nn.Parameter(_float(np.ldexp(conv.bias.astype(np.float64), -conv.shift)), requires_grad=False)
        rescales = bool(conv.add_shift.any())
        self.factor = nn.Parameter(powers(conv.add_shift), requires_grad=False) if rescales else None

    def forward(self, x: Tensor, add: Tensor | None) -> Tensor:
        groups = x.shape[1] // self.weight.shape[1]
        sums = F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[2] // 2, groups=groups)
        if add is None:
            return sums
        return sums + (add if self.factor is None else add * self.factor)


class _Outputs(nn.Module):
    """Integers -> quant_step, scale indices and means."""

    def __init__(self, prior: ExactPrior, first_scale: int) -> None:
        super().__init__()
        n = len(prior.index_rows)
        columns = prior.index_table.shape[1]
        self.table = nn.Parameter(_float(prior.index_table.reshape(-1, 1)), requires_grad=False)
        self.rows = nn.Parameter(
            torch.from_numpy(prior.index_rows * columns).to(torch.int32).view(1, -1, 1, 1), requires_grad=False
        )
        self.largest = float(columns - 1)
        self.quant_unit = nn.Parameter(powers(-prior.exponents[:n]), requires_grad=False)
        self.mean_unit = nn.Parameter(powers(-prior.exponents[-n:]), requires_grad=False)
        self.first_scale = first_scale

    def forward(self, result: Tensor, part: int) -> tuple[Tensor, Tensor, Tensor]:
        """(1, 2N or 3N, h, w) -> quant_step (1, N, h, w); scale indices and means (1, N, h/2, w/2)."""
        thirds = result.chunk(2 + self.first_scale, dim=1)
        scales, means = compact_part(thirds[self.first_scale], part), compact_part(thirds[-1], part)
        # The row is added behind the cast: in half precision the sum would be rounded.
        position = scales.clamp(0.0, self.largest).to(torch.int32) + self.rows
        indices = F.embedding(position, self.table).squeeze(-1).to(torch.uint8)
        return thirds[0] * self.quant_unit, indices, means * self.mean_unit


def _halves(tensor: str) -> tuple[str, str]:
    """Names of the two halves of the channels of a tensor."""
    return f"{tensor}.u", f"{tensor}.v"


def _part(concatenation: str, part: str) -> str:
    """Name of a part in a concatenation."""
    return f"{concatenation}.{part}"


def _key(tensor: str) -> str:
    return tensor.replace(".", "/")


def _float(values: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def powers(exponents: Integers) -> Tensor:
    """2^exponents as (1, C, 1, 1)."""
    return _float(np.exp2(exponents.astype(np.float64))).view(1, -1, 1, 1)
