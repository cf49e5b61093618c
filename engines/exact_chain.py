"""Networks of exact arithmetic as rows of layers in integers (docs/exact-arithmetic.md).

Where nothing multiplies float16, a general engine computes these networks in float32. `exact_chain.c` multiplies the
same integers, on AVX2 and AVX-512 in 16 bits (docs/decisions/0018), on AMX by their upper and lower parts in 8 (0017),
and gets the same results.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.engines.kernel_memory import NOT_COMPILED, ActivationMemory, PackedChain, Placement, aligned, overlaid, spans
from glc.engines.processor import has_avx512
from glc.errors import EngineFailed, EngineUnavailable

try:
    from glc.engines import _exact_chain
except ImportError as error:
    raise EngineUnavailable(NOT_COMPILED) from error

COLUMNS = 16
"""Channels of every tensor are a multiple of it."""
LARGEST_ACTIVATION = 1023
"""Integers up to it have an upper and a lower part in 8 bits, as have weights; and they are `int16`."""
LARGEST_WEIGHT = 2047

_BASE_BITS = 5
_DEPTH = 64
"""Input channels of one tile of weights."""
_BESIDE = 4
"""Of them, those that lie in one row of it for each output."""
_ARRAYS = ("weights", "scale", "bias", "factor")

_LAYER = np.dtype(
    [
        *((name, np.int32) for name in ("kind", "source", "gate", "add", "target")),
        *((name, np.float32) for name in ("low", "high", "slope")),
        *((name, np.uintp) for name in _ARRAYS),
    ]
)
_TENSOR = np.dtype([("data", np.uintp), ("channels", np.int32), ("unused", np.int32)])


class Kind(enum.IntEnum):
    """Layers that a chain knows; `exact_chain.c` has the same numbers."""

    POINT = 0
    """1x1 convolution."""
    DEPTHWISE = 1
    """3x3, each channel by itself, zeros around."""
    GATE = 2
    """A product of two tensors."""


@dataclass(frozen=True, slots=True, eq=False)
class ExactLayer:
    """One layer: integers of tensors, by number, to integers of another. Tensor 0 is what the chain is given.

    With t = `scale` times the sum of products, plus `bias`, plus `factor` times what is added, of a gate `factor` times
    the product: round(clamp(t)), t before times `slope` where it is negative. A gate applies the slope to its second
    operand.
    """

    kind: Kind
    source: int
    target: int
    channels: int
    """Of the target."""
    limits: tuple[float, float]
    slope: float = 1.0
    weights: NDArray[np.float32] | None = None
    """Integers: (O, I) of `POINT`; of `DEPTHWISE` (C, 3, 3), times the scale already."""
    scale: NDArray[np.float32] | None = None
    """(O,) of `POINT`."""
    bias: NDArray[np.float32] | None = None
    add: int | None = None
    factor: NDArray[np.float32] | None = None
    """(C,); None for 1."""
    gate: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ExactRow:
    """Layers in the order of computation."""

    channels: int
    """Of what is given."""
    layers: tuple[ExactLayer, ...]
    results: tuple[int, ...]
    """Tensors that are wanted, in the order of their channels."""


def best_kernel() -> str | None:
    """The kernel that is faster here than float32 in a general engine: `amx`, `vnni` or `avx2`.

    None where there is none: AVX-512 without VNNI multiplies as many float32s an instruction as AVX2 integers.
    """
    known = [name for name in ("amx", "vnni", "avx2") if name in _exact_chain.kernels()]
    return None if known[:1] == ["avx2"] and has_avx512() else next(iter(known), None)


def pack(row: ExactRow, kernel: str) -> PackedChain:
    """Order weights as a kernel takes them: one of `best_kernel`, or `plain`, which is far slower, for tests."""
    layers = np.zeros(len(row.layers), _LAYER)
    channels = np.zeros(1 + max(layer.target for layer in row.layers), np.int32)
    channels[0] = row.channels
    placement = Placement()
    for layer, exact in zip(layers, row.layers, strict=True):
        layer["kind"], layer["source"], layer["target"] = exact.kind, exact.source, exact.target
        layer["gate"], layer["add"] = (-1 if each is None else each for each in (exact.gate, exact.add))
        (layer["low"], layer["high"]), layer["slope"] = exact.limits, exact.slope
        channels[exact.target] = exact.channels
        for name, values in (("scale", exact.scale), ("bias", exact.bias)):
            if values is not None:
                layer[name] = placement.add(values.astype(np.float32))
        if exact.gate is not None or exact.add is not None:
            factor = np.ones(exact.channels) if exact.factor is None else exact.factor
            layer["factor"] = placement.add(factor.astype(np.float32))
        if exact.weights is not None:
            order = _by_tap if exact.kind == Kind.DEPTHWISE else _tiles if kernel == "amx" else _pairs
            layer["weights"] = placement.add(order(exact.weights))
    return PackedChain(layers, channels, np.array(row.results, np.int32), placement.content())


class ExactChain:
    """Layers with packed weights; `run` may be called from several threads at once."""

    def __init__(self, packed: PackedChain, kernel: str, threads: int, memory: ActivationMemory | None = None) -> None:
        """Take weights.

        Args:
            packed: from `pack`, for the same kernel.
            kernel: that computes.
            threads: of one run.
            memory: of activations, which other chains may share; None frees it after each run.
        """
        self._kernel = kernel
        self._threads, self._memory, self._packed = threads, memory, packed
        self._layers = packed.layers.copy()
        self._spans = spans(self._layers, ("source", "gate", "add", "target"))
        self._spans.pop(-1, None)  # none
        for number in packed.results.tolist():  # until they are copied
            self._spans[number] = self._spans[number][0], len(self._layers)
        for name in _ARRAYS:
            self._layers[name] += np.uintp(packed.values.ctypes.data)

    def run(self, given: NDArray[np.floating]) -> NDArray[np.floating]:
        """Compute the chain.

        Args:
            given: (H, W, C) float32, integers up to `LARGEST_ACTIVATION` in magnitude.

        Returns:
            (H, W, O) float32, integers of all results; belongs to the caller.

        Raises:
            EngineFailed: it has other channels.
        """
        height, width, found_channels = given.shape
        channels = self._packed.channels
        if found_channels != channels[0]:
            raise EngineFailed(f"a chain of {channels[0]} channels was given {found_channels}")
        shapes = {number: (height, width, int(channels[number])) for number in self._spans}
        places, size = overlaid({number: 2 * int(np.prod(shape)) for number, shape in shapes.items()}, self._spans)
        memory = self._memory.take(size) if self._memory else aligned((size,), np.uint8)
        table = np.zeros(len(channels), _TENSOR)
        table["channels"] = channels
        for number, place in places.items():
            table["data"][number] = memory.ctypes.data + place
        tensors = {
            number: memory[place : place + 2 * int(np.prod(shapes[number]))].view(np.int16).reshape(shapes[number])
            for number, place in places.items()
        }
        with np.errstate(invalid="ignore"):  # what is no number becomes some integer
            tensors[0][:] = given
        _exact_chain.run(self._layers, table, height, width, self._threads, self._kernel)
        found = np.concatenate([tensors[number] for number in self._packed.results], axis=2, dtype=np.float32)
        if self._memory:
            self._memory.leave(memory)
        return found


def _by_tap(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    return weights.reshape(len(weights), -1).T.astype(np.float32)


def _pairs(weights: NDArray[np.float32]) -> NDArray[np.int16]:
    """(O, I) -> for each 16 outputs and 2 inputs, (16, 2)."""
    outputs, inputs = weights.shape
    split = weights.astype(np.int16).reshape(outputs // COLUMNS, COLUMNS, inputs // 2, 2)
    return split.transpose(0, 2, 1, 3)


def _tiles(weights: NDArray[np.float32]) -> NDArray[np.int8]:
    """(O, I) -> for each 16 outputs and 64 inputs a tile of upper parts, then one of lower parts."""
    outputs, inputs = weights.shape
    whole = np.pad(weights.astype(np.int32), ((0, 0), (0, -inputs % _DEPTH)))
    upper = (whole + (1 << _BASE_BITS - 1)) >> _BASE_BITS
    parts = np.stack([upper, whole - (upper << _BASE_BITS)])
    split = parts.reshape(2, outputs // COLUMNS, COLUMNS, -1, _DEPTH // _BESIDE, _BESIDE)
    return split.transpose(1, 3, 0, 4, 2, 5).astype(np.int8)
