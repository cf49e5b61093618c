"""Residual blocks, up- and downsampling of the image graphs as one chain of fused convolutions, on AMX or AVX.

A network of convolutions spends half of its time between them under a general engine: GroupNorm reads an activation
for its sums, normalisation with swish reads and writes it, so does the residual. `conv_chain.c` does all of that within
the convolutions. On AMX (docs/decisions/0013) activations lie in memory as float16, channels last; what is multiplied
is float16 or bfloat16, and is summed up in float32. On AVX2 and AVX-512 (docs/decisions/0016, 0021) all is float32, and
3x3 convolutions take a quarter or a fifth of their multiplications, by Winograd's algorithm; both give the same bits.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.engines.kernel_memory import NOT_COMPILED, ActivationMemory, PackedChain, Placement, aligned, overlaid, spans
from glc.errors import EngineFailed, EngineUnavailable

try:
    from glc.engines import _conv_chain
except ImportError as error:
    raise EngineUnavailable(NOT_COMPILED) from error

_KERNELS = {"f16": ("amx f16",), "bf16": ("amx bf16",), "f32": ("avx512 f32", "avx2 f32")}
"""Of each precision, the fastest first."""
FORM = "convolutions 2"
"""Of packed weights and of the order of sums: another one when either changes. Caches and fingerprints hold it."""
_TILE = 16
"""Columns of a tile of weights; its rows are as many pairs of input channels."""
_PAIR = 32
"""Output channels that are computed together, and input channels of one tile."""
_LARGEST_CODE = 255
_MOST_BY_SIXES = 256 * 256
"""Inputs times outputs of a convolution whose tiles are of 6x6 outputs."""
_MOST_CHUNKS = 32
"""Rows are split into at most so many chunks, each with its own sums."""

_ARRAYS = ("weights", "bias", "scale", "shift", "unit")
"""What a layer has addresses of."""
_LAYER = np.dtype(
    [
        *(
            (name, np.int32)
            for name in ("kind", "source", "target", "residual", "groups", "swish", "columns", "eight_bits", "side")
        ),
        ("epsilon", np.float64),
        *((name, np.float32) for name in ("codes", "zero")),
        *((name, np.uintp) for name in _ARRAYS),
    ],
    align=True,
)
_TENSOR = np.dtype(
    [
        *((name, np.uintp) for name in ("data", "sums")),
        *((name, np.int32) for name in ("height", "width", "channels", "chunks")),
    ]
)

_WINOGRAD = {
    4: np.array(
        [
            [1 / 4, 0, 0],
            *([-1 / 6, -s / 6, -1 / 6] for s in (1, -1)),
            *([1 / 24, s / 12, 1 / 6] for s in (1, -1)),
            [0, 0, 1],
        ]
    ),
    6: np.array(
        [
            [1, 0, 0],
            *([-2 / 9, -s * 2 / 9, -2 / 9] for s in (1, -1)),
            *([1 / 90, s / 45, 2 / 45] for s in (1, -1)),
            *([32 / 45, s * 16 / 45, 8 / 45] for s in (1, -1)),
            [0, 0, 1],
        ]
    ),
}
"""G of F(4x4, 3x3), (6, 3), and of F(6x6, 3x3), (8, 3): rows of a kernel -> rows of what a tile is multiplied by."""

_WINOGRAD_2D = {side: np.kron(rows, rows).astype(np.float32) for side, rows in _WINOGRAD.items()}
"""The same for rows and columns, (36, 9) and (64, 9)."""

_PARITIES = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float64)
"""(2, 2, 3): parity of an output row behind a nearest upsampling, input row that it sees -> rows of the 3x3 kernel that
fall on it (docs/decisions/0009)."""


class Kind(enum.IntEnum):
    """Convolutions that a chain knows; `conv_chain.c` has the same numbers."""

    DENSE = 0
    """3x3, a row and a column of zeros around."""
    DOWN = 1
    """3x3 with stride 2, a row and a column of zeros below and to the right."""
    UP = 2
    """Nearest upsampling by two, then 3x3 as in `DENSE`."""
    POINT = 3
    """1x1."""
    FIRST = 4
    """3x3 as in `DENSE`, of at most three channels in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupNorm:
    """What stands before a convolution, with a swish behind it or without."""

    groups: int
    epsilon: float
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    swish: bool


@dataclass(frozen=True, slots=True, eq=False)
class EightBits:
    """The integers that a convolution multiplies in place of floats."""

    least: float
    """Of the values that it takes: 0 or less."""
    largest: float
    weight_steps: NDArray[np.float32]
    """(O,): weights are whole multiples of it, from -128 to 127."""


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """One link of a chain: `target` = convolution of the normalised `source`, plus `residual`.

    Tensors have numbers; 0 is what the chain is given. A target may be the residual itself.
    """

    kind: Kind
    source: int
    target: int
    weights: NDArray[np.float32]
    """(O, I, k, k)."""
    bias: NDArray[np.float32]
    norm: GroupNorm | None = None
    residual: int | None = None
    eight_bits: EightBits | None = None
    """None for floats of the chain's precision."""


def pack(convolutions: Sequence[Convolution], precision: str) -> PackedChain:
    """Order weights as tiles.

    Args:
        convolutions: in the order of computation; the target of the last one is the result.
        precision: `f16`, `bf16` or `f32`, what is multiplied but in layers of eight bits, which `f32` has none of.
    """
    layers = np.zeros(len(convolutions), _LAYER)
    channels = np.zeros(1 + max(convolution.target for convolution in convolutions), np.int32)
    channels[0] = convolutions[0].weights.shape[1]
    placement = Placement()
    for layer, convolution in zip(layers, convolutions, strict=True):
        norm, outputs = convolution.norm, len(convolution.bias)
        columns = -(-outputs // _TILE) * _TILE
        channels[convolution.target] = outputs
        layer["kind"], layer["source"], layer["target"] = convolution.kind, convolution.source, convolution.target
        layer["residual"] = -1 if convolution.residual is None else convolution.residual
        layer["columns"] = columns
        bias: NDArray[np.floating] = convolution.bias
        if convolution.eight_bits is not None:
            codes = _coded(convolution, convolution.eight_bits)
            layer["eight_bits"], layer["codes"], layer["zero"] = 1, 1 / codes.step, codes.zero
            layer["weights"] = placement.add(_packed(_by_phase_and_tap(codes.weights, convolution.kind), "int8"))
            layer["unit"] = placement.add(np.pad(codes.unit, (0, columns - outputs)))
            bias = codes.bias
        elif precision == "f32":
            layer["side"] = _side(convolution)
            layer["weights"] = placement.add(_by_matrix(convolution.weights, int(layer["side"])))
        else:
            layer["weights"] = placement.add(
                _packed(_by_phase_and_tap(convolution.weights, convolution.kind), precision)
            )
        layer["bias"] = placement.add(np.pad(bias, (0, columns - outputs)).astype(np.float32))
        if norm is not None:
            layer["groups"], layer["swish"], layer["epsilon"] = norm.groups, norm.swish, norm.epsilon
            layer["scale"], layer["shift"] = (
                placement.add(each.astype(np.float32)) for each in (norm.scale, norm.shift)
            )
    return PackedChain(layers, channels, np.array([convolutions[-1].target], np.int32), placement.content())


class ConvChain:
    """Convolutions with packed weights; `run` may be called from several threads at once."""

    def __init__(
        self,
        packed: PackedChain,
        precision: str,
        threads: int,
        memory: ActivationMemory | None = None,
        *,
        family: str | None = None,
    ) -> None:
        """Take weights.

        Args:
            packed: from `pack`, for the same precision.
            precision: `f16`, `bf16` or `f32`.
            threads: of one run.
            memory: of activations, which other chains may share; None frees it after each run.
            family: of kernels, for tests: `plain`, which computes `f16` and `bf16` on any processor a hundred times
                slower, `amx`, `avx2` or `avx512`; None for the fastest one.

        Raises:
            EngineUnavailable: this processor has no kernels for the precision.
        """
        self._kernel = f"{family} {precision}" if family else require_kernels(precision)
        self._dtype = activations(precision)
        self._threads, self._memory = threads, memory
        self._channels, self._result = packed.channels, int(packed.results[0])
        self._values = packed.values
        self._layers = packed.layers.copy()
        self._spans = spans(self._layers, ("source", "target", "residual"))
        for name in _ARRAYS:
            self._layers[name] += np.uintp(self._values.ctypes.data)

    def run(self, given: NDArray[np.floating]) -> NDArray[np.floating]:
        """Compute the chain.

        Args:
            given: (H, W, C) float32 or float16; H and W are even as often as they are halved.

        Returns:
            (h, w, O) float16, or float32 in `f32` and where O is less than 16; belongs to the caller.

        Raises:
            EngineFailed: a value left the range of the activations' type, or the chain does not take this shape.
        """
        shapes = self._shapes(given.shape[0], given.shape[1])
        if given.shape != shapes[0] or not all(map(all, shapes.values())):
            raise EngineFailed(f"a chain that takes {self._channels[0]} channels is given {list(given.shape)}")
        last = self._result
        result = aligned(shapes[last], self._dtype if shapes[last][2] >= _TILE else np.float32)
        is_image = self._layers[0]["kind"] == Kind.FIRST
        with np.errstate(over="ignore"):  # told below, as any other activation
            given = np.ascontiguousarray(given, np.float32 if is_image else self._dtype)
        table, sums = self._table(shapes)
        table["data"][[0, last]] = given.ctypes.data, result.ctypes.data
        item = np.dtype(self._dtype).itemsize
        sizes = {n: item * int(np.prod(shape)) for n, shape in shapes.items() if n not in (0, last)}
        places, size = overlaid(sizes, self._spans)
        memory = self._memory.take(size) if self._memory else aligned((size,), np.uint8)
        for number, place in places.items():
            table["data"][number] = memory.ctypes.data + place
        try:
            _conv_chain.run(self._layers, table, self._threads, self._kernel)
        except OverflowError as error:
            raise EngineFailed(f"{error}: choose engine openvino in f32") from error
        finally:
            del sums  # held until here, since the table has its address alone
            if self._memory:
                self._memory.leave(memory)
        return result

    def _shapes(self, height: int, width: int) -> dict[int, tuple[int, int, int]]:
        """Shape of each tensor, by number."""
        shapes = {0: (height, width, int(self._channels[0]))}
        for layer in self._layers:
            rows, columns, _ = shapes[int(layer["source"])]
            if layer["kind"] == Kind.DOWN:
                rows, columns = rows // 2, columns // 2
            elif layer["kind"] == Kind.UP:
                rows, columns = 2 * rows, 2 * columns
            target = int(layer["target"])
            shapes.setdefault(target, (rows, columns, int(self._channels[target])))
        return shapes

    def _table(self, shapes: dict[int, tuple[int, int, int]]) -> tuple[NDArray[np.void], NDArray[np.float64]]:
        """Tensors as the kernels take them, without their memory, and the sums of those that are normalised."""
        table = np.zeros(max(shapes) + 1, _TENSOR)
        for number, shape in shapes.items():
            table[number]["height"], table[number]["width"], table[number]["channels"] = shape
        summed = sorted({int(layer["source"]) for layer in self._layers if layer["groups"]})
        sizes = [_MOST_CHUNKS * shapes[number][2] * 2 for number in summed]
        sums = np.zeros(sum(sizes))
        for number, start in zip(summed, itertools.accumulate(sizes, initial=0), strict=False):
            table[number]["sums"] = sums.ctypes.data + start * sums.itemsize
        return table, sums


def activations(precision: str) -> type[np.floating]:
    """What chains of a precision are given, and give, in memory."""
    return np.float32 if precision == "f32" else np.float16


def available_precisions() -> list[str]:
    """Those that this processor has kernels for, among f16, bf16 and f32."""
    return [precision for precision in _KERNELS if _kernel(precision)]


def default_precision(known: Sequence[str]) -> str:
    """The first one that this processor has kernels for; the first where it has none."""
    return next((precision for precision in known if precision in available_precisions()), known[0])


def require_kernels(precision: str) -> str:
    """The fastest ones of a precision that this processor computes.

    Raises:
        EngineUnavailable: there are none.
    """
    found = _kernel(precision)
    if found is not None:
        return found
    if precision == "f32":
        raise EngineUnavailable("this processor has no AVX2: choose engine openvino, or onnxruntime")
    choice = " or ".join(other for other in available_precisions() if other != "f32") or "engine openvino"
    raise EngineUnavailable(f"this processor has no matrix unit (AMX) that multiplies {precision}: choose {choice}")


def _kernel(precision: str) -> str | None:
    here = _conv_chain.kernels()
    return next((kernel for kernel in _KERNELS[precision] if kernel in here), None)


def _by_phase_and_tap(weights: NDArray[np.float32], kind: Kind) -> NDArray[np.float64]:
    """(O, I, k, k) -> (phases, taps, I, O)."""
    outputs, inputs = weights.shape[:2]
    wide = weights.astype(np.float64)
    if kind == Kind.UP:
        phases: NDArray[np.float64] = np.einsum("apr,oirc,bqc->abpqio", _PARITIES, wide, _PARITIES)
        return phases.reshape(4, 4, inputs, outputs)
    taps = wide.transpose(2, 3, 1, 0)
    if kind == Kind.FIRST:  # a pixel and its neighbours are the input channels
        rows = taps.reshape(-1, outputs)
        return np.pad(rows, ((0, _PAIR - len(rows)), (0, 0)))[None, None]
    return taps.reshape(1, -1, inputs, outputs)


@dataclass(frozen=True, slots=True, eq=False)
class _Codes:
    """A convolution in integers: its sums, times `unit`, plus `bias`."""

    step: float
    zero: int
    weights: NDArray[np.float32]
    unit: NDArray[np.float32]
    bias: NDArray[np.float64]


def _coded(convolution: Convolution, eight_bits: EightBits) -> _Codes:
    """Values as codes from 0 to 255, one of which is zero; what its products add up to is taken from the bias."""
    step = (eight_bits.largest - eight_bits.least) / _LARGEST_CODE
    zero = round(-eight_bits.least / step)
    weights = np.rint(convolution.weights / eight_bits.weight_steps[:, None, None, None])
    unit = step * eight_bits.weight_steps.astype(np.float64)
    bias = convolution.bias - unit * zero * weights.sum((1, 2, 3), dtype=np.float64)
    return _Codes(step, zero, weights, unit.astype(np.float32), bias)


def _packed(weights: NDArray[np.float64], precision: str) -> NDArray[np.uint16] | NDArray[np.int8]:
    """(phases, taps, I, O) -> tiles of inputs x 16 outputs, in the order in which they are multiplied.

    A row of a tile has as many inputs of each output as four bytes hold.
    """
    phases, taps, inputs, outputs = weights.shape
    beside = 4 if precision == "int8" else 2
    depth = _TILE * beside
    padded = np.pad(weights, ((0, 0), (0, 0), (0, -inputs % depth), (0, -outputs % _TILE)))
    parts = []
    for first in range(0, padded.shape[3], _PAIR):
        part = padded[..., first : first + _PAIR]
        tiles = part.reshape(phases, taps, -1, _TILE, beside, part.shape[3] // _TILE, _TILE)
        parts.append(tiles.transpose(0, 1, 2, 5, 3, 6, 4).reshape(phases, -1))
    values = np.concatenate(parts, axis=1)
    return values.astype(np.int8) if precision == "int8" else _narrowed(values, is_half=precision == "f16")


def _side(convolution: Convolution) -> int:
    """Outputs of a tile along each axis, for Winograd's algorithm; 0 where it does not apply.

    Tiles of 6 save a fifth of the multiplications of those of 4, and want 1.8 times as many weights.
    """
    if convolution.kind not in (Kind.DENSE, Kind.UP):
        return 0
    outputs, inputs = convolution.weights.shape[:2]
    return 6 if outputs * inputs <= _MOST_BY_SIXES else 4


def _by_matrix(weights: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """(O, I, k, k) -> matrices of inputs x 16 outputs.

    In the order in which they are multiplied: for the places of a tile, then for outputs; or for outputs, then taps.
    """
    padded = np.pad(weights, ((0, -len(weights) % _TILE), (0, 0), (0, 0), (0, 0)))
    split = padded.reshape(-1, _TILE, *weights.shape[1:])
    if side:
        # As one product of matrices: graphs have a hundred million of these weights, and someone waits.
        taps = np.ascontiguousarray(split.transpose(3, 4, 0, 2, 1), np.float32)
        form = _WINOGRAD_2D[side]
        return form @ taps.reshape(form.shape[1], -1)
    return np.ascontiguousarray(split.transpose(0, 3, 4, 2, 1), np.float32)


def _narrowed(values: NDArray[np.float64], *, is_half: bool) -> NDArray[np.uint16]:
    """Bits of the nearest float16 or bfloat16, ties to even."""
    if is_half:
        return np.ascontiguousarray(values, np.float16).view(np.uint16)
    wide = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16)
