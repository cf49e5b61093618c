"""Residual blocks, up- and downsampling of the image graphs as one chain of fused convolutions, on AMX.

A network of convolutions spends half of its time between them under a general engine: GroupNorm reads an activation
for its sums, normalisation with swish reads and writes it, so does the residual. `conv_chain.c` does all of that within
the convolutions, while tiles are multiplied (docs/decisions/0013). Activations lie in memory as float16, channels last;
what is multiplied is float16 or bfloat16, and is summed up in float32.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.errors import EngineFailed, EngineUnavailable

try:
    from glc.engines import _conv_chain
except ImportError as error:
    raise EngineUnavailable(
        "the AMX kernels of this package were not compiled; install its wheel, or a C compiler (gcc 12, clang 15) and "
        "then the package again"
    ) from error

_PRECISIONS = ("f16", "bf16")
_TILE = 16
"""Columns of a tile of weights; its rows are as many pairs of input channels."""
_PAIR = 32
"""Output channels that are computed together, and input channels of one tile."""
_LINE = 64
"""Bytes of a cache line."""
_MOST_CHUNKS = 32
"""Rows are split into at most so many chunks, each with its own sums."""
_MOST_IDLE = 2
"""Sets of activations that wait to be used again."""

_LAYER = np.dtype(
    [
        *(
            (name, np.int32)
            for name in ("kind", "source", "target", "residual", "groups", "swish", "columns", "unused")
        ),
        ("epsilon", np.float64),
        *((name, np.uintp) for name in ("weights", "bias", "scale", "shift")),
    ]
)
_TENSOR = np.dtype(
    [
        *((name, np.uintp) for name in ("data", "sums")),
        *((name, np.int32) for name in ("height", "width", "channels", "chunks")),
    ]
)

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


class ConvChain:
    """Convolutions with packed weights; `run` may be called from several threads at once."""

    def __init__(
        self, convolutions: Sequence[Convolution], precision: str, threads: int, *, plain: bool = False
    ) -> None:
        """Pack weights.

        Args:
            convolutions: in the order of computation; the target of the last one is the result.
            precision: `f16` or `bf16`, what is multiplied.
            threads: of one run.
            plain: compute without AMX, a hundred times slower; for tests on any processor.

        Raises:
            EngineUnavailable: this processor has no AMX for the precision.
        """
        if not plain:
            require_kernels(precision)
        self._kernel = f"{'plain' if plain else 'amx'} {precision}"
        self._threads = threads
        self._result = convolutions[-1].target
        self._kinds: dict[int, tuple[Kind, int]] = {}
        for convolution in convolutions:  # a tensor that is written again keeps its size
            self._kinds.setdefault(convolution.target, (convolution.kind, convolution.source))
        self._channels = {0: convolutions[0].weights.shape[1]}
        self._channels |= {convolution.target: len(convolution.weights) for convolution in convolutions}
        self._summed = {convolution.source for convolution in convolutions if convolution.norm is not None}
        self._layers = np.zeros(len(convolutions), _LAYER)
        self._held: list[NDArray[np.generic]] = []
        for layer, convolution in zip(self._layers, convolutions, strict=True):
            self._fill(layer, convolution, is_half=precision == "f16")
        self._idle: list[_Activations] = []
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Of the weights."""
        return sum(values.nbytes for values in self._held)

    def _fill(self, layer: np.void, convolution: Convolution, *, is_half: bool) -> None:
        norm = convolution.norm
        weights = _packed(_by_phase_and_tap(convolution.weights, convolution.kind), is_half=is_half)
        columns = -(-len(convolution.bias) // _TILE) * _TILE
        bias = np.zeros(columns, np.float32)
        bias[: len(convolution.bias)] = convolution.bias
        layer["kind"], layer["source"], layer["target"] = convolution.kind, convolution.source, convolution.target
        layer["residual"] = -1 if convolution.residual is None else convolution.residual
        layer["columns"] = columns
        layer["weights"], layer["bias"] = weights.ctypes.data, bias.ctypes.data
        self._held += [weights, bias]
        if norm is not None:
            scale, shift = (np.ascontiguousarray(values, np.float32) for values in (norm.scale, norm.shift))
            layer["groups"], layer["swish"], layer["epsilon"] = norm.groups, norm.swish, norm.epsilon
            layer["scale"], layer["shift"] = scale.ctypes.data, shift.ctypes.data
            self._held += [scale, shift]

    def run(self, given: NDArray[np.floating], *, keep: bool = True) -> NDArray[np.floating]:
        """Compute the chain.

        Args:
            given: (H, W, C) float16, or float32 where the first convolution is `Kind.FIRST`; H and W are even as often
                as they are halved.
            keep: whether the memory of activations waits for the next run of this size.

        Returns:
            (h, w, O) float16, or float32 where O is less than 16; belongs to the caller.

        Raises:
            EngineFailed: a value left the range of float16.
        """
        activations = self._activations(given.shape[0], given.shape[1])
        try:
            result = activations.run(given, self._layers, self._threads, self._kernel)
        except OverflowError as error:
            raise EngineFailed(f"openvino-amx: {error}: choose f32") from error
        if keep:
            with self._lock:
                self._idle = [*(idle for idle in self._idle if idle.size == activations.size), activations][:_MOST_IDLE]
        return result

    def close(self) -> None:
        """Free activations."""
        self._idle = []

    def _activations(self, height: int, width: int) -> _Activations:
        with self._lock:
            for idle in self._idle:
                if idle.size == (height, width):
                    self._idle.remove(idle)
                    return idle
        sizes = {0: (height, width)}
        for target, (kind, source) in self._kinds.items():
            rows, columns = sizes[source]
            if kind == Kind.DOWN:
                sizes[target] = (rows // 2, columns // 2)
            else:
                sizes[target] = (2 * rows, 2 * columns) if kind == Kind.UP else (rows, columns)
        shapes = {number: (*size, self._channels[number]) for number, size in sizes.items()}
        return _Activations(shapes, self._summed, self._result)


class _Activations:
    """Memory of the tensors of one run; those that live at different times share it."""

    def __init__(self, shapes: dict[int, tuple[int, int, int]], summed: set[int], result: int) -> None:
        self.size = shapes[0][:2]
        self._result = result
        self._table = np.zeros(max(shapes) + 1, _TENSOR)
        self._arrays: dict[int, NDArray[np.floating]] = {}
        self._sums: list[NDArray[np.float64]] = []
        for number, shape in shapes.items():
            entry = self._table[number]
            entry["height"], entry["width"], entry["channels"] = shape
            if number in summed:
                sums = np.zeros((_MOST_CHUNKS, shape[2], 2))
                entry["sums"] = sums.ctypes.data
                self._sums.append(sums)
            if number not in (0, result):
                self._arrays[number] = _aligned(shape, np.float16)
                entry["data"] = self._arrays[number].ctypes.data

    def run(
        self, given: NDArray[np.floating], layers: NDArray[np.void], threads: int, kernel: str
    ) -> NDArray[np.floating]:
        entry = self._table[self._result]
        shape = tuple(int(entry[name]) for name in ("height", "width", "channels"))
        result = _aligned(shape, np.float16 if shape[2] >= _TILE else np.float32)
        given = np.ascontiguousarray(given)
        self._table[0]["chunks"] = 0  # its sums are those of the image before
        self._table[0]["data"], entry["data"] = given.ctypes.data, result.ctypes.data
        _conv_chain.run(layers, self._table, threads, kernel)
        return result


def _aligned(shape: tuple[int, ...], dtype: type[np.floating]) -> NDArray[np.floating]:
    """New memory that begins with a cache line: else each pixel's columns would lie in two."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + size].view(dtype).reshape(shape)


def default_precision() -> str:
    """The more exact one of those that this processor multiplies; `f16` where there is none."""
    return "bf16" if _here() == ["bf16"] else "f16"


def require_kernels(precision: str) -> None:
    """Raise EngineUnavailable where this processor has no AMX for a precision."""
    if precision not in _PRECISIONS:
        raise EngineUnavailable(f"engine openvino-amx computes in f16 or bf16, not in {precision}: choose openvino")
    if precision not in _here():
        choice = " or ".join(_here()) or "engine openvino"
        raise EngineUnavailable(f"this processor has no matrix unit (AMX) that multiplies {precision}: choose {choice}")


def _here() -> list[str]:
    kernels = _conv_chain.kernels()
    return [precision for precision in _PRECISIONS if f"amx {precision}" in kernels]


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


def _packed(weights: NDArray[np.float64], *, is_half: bool) -> NDArray[np.uint16]:
    """(phases, taps, I, O) -> tiles of 16 pairs of inputs x 16 outputs, in the order in which they are multiplied."""
    phases, taps, inputs, outputs = weights.shape
    padded = np.pad(weights, ((0, 0), (0, 0), (0, 0), (0, -outputs % _TILE)))
    parts = []
    for first in range(0, padded.shape[3], _PAIR):
        part = padded[..., first : first + _PAIR]
        tiles = part.reshape(phases, taps, inputs // _PAIR, _TILE, 2, -1, _TILE).transpose(0, 1, 2, 5, 3, 6, 4)
        parts.append(tiles.reshape(phases, -1))
    return _narrowed(np.concatenate(parts, axis=1), is_half=is_half)


def _narrowed(values: NDArray[np.float64], *, is_half: bool) -> NDArray[np.uint16]:
    """Bits of the nearest float16 or bfloat16, ties to even."""
    if is_half:
        return np.ascontiguousarray(values, np.float16).view(np.uint16)
    wide = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16)
