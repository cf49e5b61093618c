"""Memory that our own kernels read and write: packed weights, and activations between layers."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE = 64
"""Bytes of a cache line."""
_MOST_SPARE = 4
"""Memory that waits is used for runs that take at least this part of it."""


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
        start, self._end = self._end, self._end + -(-values.nbytes // LINE) * LINE
        self._parts.append((start, values))
        return start

    def content(self) -> NDArray[np.uint8]:
        """All of them."""
        values = aligned((self._end,), np.uint8)
        for start, part in self._parts:
            values[start : start + part.nbytes] = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        return values


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
        return aligned((size,), np.uint8)

    def leave(self, memory: NDArray[np.uint8]) -> None:
        """Give back what `take` gave: the larger of it and what waits already."""
        with self._lock:
            if self._idle is None or self._idle.size <= memory.size:
                self._idle = memory


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """New memory that begins with a cache line: else each pixel's columns would lie in two."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + LINE, np.uint8)
    first = -memory.ctypes.data % LINE
    return memory[first : first + size].view(dtype).reshape(shape)
