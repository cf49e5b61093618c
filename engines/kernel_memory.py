"""Memory that our own kernels read and write: packed weights, and activations between layers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LINE = 64
"""Bytes of a cache line."""
LONG = 8
"""Layers of a row through all sizes of an image; those between attentions have fewer."""
_MOST_SPARE = 4
"""Memory that waits is used for runs that take at least this part of it."""

NOT_COMPILED = (
    "the kernels of this package for AMX and AVX were not compiled; install its wheel, or a C compiler (gcc 12, "
    "clang 15) and then the package again"
)
"""What an import that fails says."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedChain:
    """Layers as the kernels take them; arrays alone, which may be kept in a file."""

    layers: NDArray[np.void]
    """One entry for each, with places in `values` where the kernels want addresses."""
    channels: NDArray[np.int32]
    """Of each tensor, by number; 0 is what a chain is given."""
    results: NDArray[np.int32]
    """Tensors that are wanted."""
    values: NDArray[np.uint8]
    """Weights, biases, scales and shifts, each from a cache line on, as is the whole."""


class Placement:
    """Arrays on their way into one piece of memory, each from a cache line on."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, NDArray[Any]]] = []
        self._end = 0

    def add(self, values: NDArray[Any]) -> int:
        """Where an array will lie, in bytes."""
        start, self._end = self._end, self._end + _whole_lines(values.nbytes)
        self._parts.append((start, values))
        return start

    def content(self) -> NDArray[np.uint8]:
        """All of them, each freed once it lies there: the whole is hundreds of megabytes. To be called once."""
        values = aligned((self._end,), np.uint8)
        while self._parts:
            start, part = self._parts.pop()
            values[start : start + part.nbytes] = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        return values


def overlaid(sizes: Mapping[int, int], spans: Mapping[int, tuple[int, int]]) -> tuple[dict[int, int], int]:
    """Places for arrays in one piece of memory, where those that are never needed at once may lie over each other.

    Args:
        sizes: of each array, in bytes.
        spans: the first and the last layer that needs it.

    Returns:
        Where each begins, with a cache line; and the size of all.
    """
    places: dict[int, int] = {}
    for number in sorted(sizes, key=lambda number: -sizes[number]):
        first, last = spans[number]
        place = 0
        for other in sorted(places, key=lambda other: places[other]):
            if spans[other][0] <= last and first <= spans[other][1] and place + sizes[number] > places[other]:
                place = max(place, _whole_lines(places[other] + sizes[other]))
        places[number] = place
    return places, max((places[number] + sizes[number] for number in sizes), default=0)


def spans(layers: NDArray[np.void], fields: Sequence[str]) -> dict[int, tuple[int, int]]:
    """The first and the last layer that needs each tensor, from those fields that hold numbers of tensors."""
    found: dict[int, tuple[int, int]] = {}
    for index, layer in enumerate(layers):
        for number in (int(layer[field]) for field in fields):
            found[number] = found.get(number, (index, index))[0], index
    return found


class ActivationMemory:
    """Memory of activations that waits for the next run, of whichever chain; new memory costs as much as a layer."""

    def __init__(self) -> None:
        self._idle: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()

    def take(self, size: int) -> NDArray[np.uint8]:
        """Bytes, with whatever they hold."""
        with self._lock:
            idle, self._idle = self._idle, None
        # What is far too large belonged to another size of image, and goes.
        if idle is not None and size <= idle.size <= _MOST_SPARE * size:
            return idle
        del idle  # before there is new memory beside it
        return aligned((size,), np.uint8)

    def leave(self, memory: NDArray[np.uint8]) -> None:
        """Give back what `take` gave: the larger of it and what waits already."""
        with self._lock:
            if self._idle is None or self._idle.size <= memory.size:
                self._idle = memory


class EngineMemory:
    """Activation memory of an engine's chains: apart by kind, as what is far too large for a run is not kept."""

    def __init__(self) -> None:
        self.exact = ActivationMemory()
        self._long, self._short = ActivationMemory(), ActivationMemory()

    def of_convolutions(self, chain: PackedChain) -> ActivationMemory:
        """For a row through all sizes of an image, or for one of the few between attentions."""
        return self._long if len(chain.layers) >= LONG else self._short


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """New memory that begins with a cache line: else each pixel's columns would lie in two."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + size].view(dtype).reshape(shape)


def _whole_lines(size: int) -> int:
    return -(-size // _LINE) * _LINE
