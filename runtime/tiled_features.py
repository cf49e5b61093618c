"""Features of an image of which only some rows are computed at a time.

A layer gives any rows that it is asked for. What is kept was computed before; what is computed asks the layer below it
for the rows that its convolution sees, and that one asks the next, down to something that is kept, or the image.
"""

from __future__ import annotations

import enum
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from glc.engines import Array
from glc.errors import EngineRejectedGraph
from glc.runtime.moments import Moments

RunGraph = Callable[[str, Mapping[str, Array]], dict[str, Array]]
"""Graph name and feeds -> results."""

Convert = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Window:
    """Rows that a graph must be given, and which of those that it makes of them are right."""

    first: int
    end: int
    skipped: int
    """Rows at the top of the result that saw zeros in place of their neighbours."""

    def chosen(self, first: int, end: int) -> Array:
        """Input `rows` of a graph: where in its result the rows `first` up to `end` are."""
        return np.array([self.skipped, self.skipped + end - first], np.int32)


class Sampling(enum.Enum):
    """A 3x3 convolution, by the sides that it gives for those that it takes."""

    SAME = (1, 1)
    HALVED = (1, 2)
    """Zeros below and at the right, then stride 2."""
    DOUBLED = (2, 1)
    """Of the nearest upsampling."""

    def size(self, side: int) -> int:
        """Side of the result."""
        times, divisor = self.value
        return side * times // divisor

    def window(self, first: int, end: int, height: int) -> Window:
        """Rows of an input of some height that the rows `first` up to `end` of the result depend on."""
        match self:
            case Sampling.SAME:
                top = max(first - 1, 0)
                return Window(top, min(end + 1, height), first - top)
            case Sampling.HALVED:
                return Window(2 * first, min(2 * end + 1, height), 0)
            case Sampling.DOUBLED:
                top = max((first - 1) // 2, 0)
                return Window(top, min(end // 2 + 1, height), first - 2 * top)

    def needed(self, before: int, height: int, below: int) -> int:
        """First row of an input of height `below` that the result, of `height`, still needs from row `before` on."""
        return below if before >= height else self.window(before, before + 1, below).first


class Layer(Protocol):
    """Features (1, C, height, width) float32."""

    height: int
    """Rows."""
    width: int
    """Columns."""

    def rows(self, first: int, end: int) -> Array:
        """Rows `first` up to `end`."""
        ...

    def forget(self, before: int) -> None:
        """Give back memory that no row from `before` on needs; rows above it cannot be asked for any more."""
        ...


class ComputedLayer(Layer, Protocol):
    """A layer that tells what GroupNorm needs of its rows."""

    def strip(self, first: int, end: int) -> tuple[Array, Moments]:
        """Rows `first` up to `end`, and their moments."""
        ...

    def rows(self, first: int, end: int) -> Array:
        """See `Layer.rows`."""
        return self.strip(first, end)[0]


class WholeLayer:
    """Features that are there in one piece."""

    def __init__(self, values: Array) -> None:
        _, _, self.height, self.width = values.shape
        self._values = values

    def rows(self, first: int, end: int) -> Array:
        """See `Layer.rows`."""
        return np.ascontiguousarray(self._values[:, :, first:end])

    def forget(self, before: int) -> None:
        """See `Layer.forget`; a part of one piece cannot be given back."""
        if before >= self.height:
            self._values = self._values[:, :, self.height :].copy()


@dataclass(frozen=True, slots=True)
class Storing:
    """How features are kept."""

    store: Convert
    """From float32."""
    restore: Convert
    """Back to float32."""


class PassedLayer:
    """A layer that is gone through once: its first rows are kept, the others computed again when they are needed."""

    def __init__(self, source: ComputedLayer, strip_rows: int, share: float, storing: Storing) -> None:
        """Prepare; rows are added by `take`.

        Args:
            source: computes the layer.
            strip_rows: height of the strips in which it is gone through.
            share: how much to keep, 0 to 1; whole strips.
            storing: how.
        """
        self.height = source.height
        self.width = source.width
        self.source = source
        self._strip_rows = strip_rows
        strips = -(-self.height // strip_rows)
        self.kept_end = min(self.height, int(share * strips) * strip_rows)
        """Rows up to here are kept."""
        self._storing = storing
        self._strips: list[Array | None] = []

    def take(self, first: int, strip: Array) -> None:
        """Keep the strip from row `first` on, if it is one of those to keep; strips come in their order."""
        if first < self.kept_end:
            self._strips.append(_apart(self._storing.store(strip)))

    def rows(self, first: int, end: int) -> Array:
        """See `Layer.rows`."""
        if first >= self.kept_end:
            return self.source.rows(first, end)
        size = self._strip_rows
        pieces = []
        for number in range(first // size, (min(end, self.kept_end) - 1) // size + 1):
            strip = self._strips[number]
            if strip is None:
                raise IndexError(f"rows {first} to {end} were forgotten")
            pieces.append(strip[:, :, max(first - number * size, 0) : end - number * size])
        kept = self._storing.restore(_joined(pieces))
        return kept if end <= self.kept_end else _joined([kept, self.source.rows(self.kept_end, end)])

    def forget(self, before: int) -> None:
        """See `Layer.forget`."""
        passed = len(self._strips) if before >= self.height else max(before, 0) // self._strip_rows
        self._strips[:passed] = [None] * min(passed, len(self._strips))
        self.source.forget(before)


class ImageLayer(ComputedLayer):
    """The first convolution, of pixels; the image is padded to the size of the layer by replication."""

    def __init__(self, run: RunGraph, graph: str, image: Array, height: int, width: int) -> None:
        self.height = height
        self.width = width
        self._run = run
        self._graph = graph
        self._image = image

    def strip(self, first: int, end: int) -> tuple[Array, Moments]:
        """See `ComputedLayer.strip`."""
        window = Sampling.SAME.window(first, end, self.height)
        _, rows, columns, _ = self._image.shape
        pixels = self._image[:, np.minimum(np.arange(window.first, window.end), rows - 1)]
        pixels = np.pad(pixels, ((0, 0), (0, 0), (0, self.width - columns), (0, 0)), mode="edge")
        results = self._run(self._graph, {"image": pixels, "rows": window.chosen(first, end)})
        return _strip(self._graph, results, end - first, self.width)

    def forget(self, before: int) -> None:
        """See `Layer.forget`; the image is the caller's."""


class GraphLayer(ComputedLayer):
    """What one graph computes of the layer below."""

    def __init__(
        self,
        run: RunGraph,
        graph: str,
        below: Layer,
        sampling: Sampling,
        statistics: Mapping[str, Array] | None = None,
    ) -> None:
        self.height = sampling.size(below.height)
        self.width = sampling.size(below.width)
        self._run = run
        self._graph = graph
        self._below = below
        self._sampling = sampling
        self._statistics = statistics or {}

    def strip(self, first: int, end: int) -> tuple[Array, Moments]:
        """See `ComputedLayer.strip`."""
        window = self._sampling.window(first, end, self._below.height)
        return self.strip_of(self._below.rows(window.first, window.end), window, first, end)

    def strip_of(self, values: Array, window: Window, first: int, end: int) -> tuple[Array, Moments]:
        """The same, of rows of the layer below that are there already."""
        feeds = {"features": values, "rows": window.chosen(first, end), **self._statistics}
        return _strip(self._graph, self._run(self._graph, feeds), end - first, self.width)

    def forget(self, before: int) -> None:
        """See `Layer.forget`."""
        self._below.forget(self._sampling.needed(before, self.height, self._below.height))


class ResidualLayer(ComputedLayer):
    """The second half of a residual block, with the identity."""

    def __init__(
        self,
        run: RunGraph,
        graph: str,
        first_half: GraphLayer,
        hidden: PassedLayer,
        below: Layer,
        statistics: Mapping[str, Array],
    ) -> None:
        """Prepare.

        Args:
            run: runs a graph.
            graph: the second half.
            first_half: computes the features within the block.
            hidden: those that were kept of it.
            below: what the block is given.
            statistics: of the features within.
        """
        self.height = below.height
        self.width = below.width
        self._run = run
        self._graph = graph
        self._first_half = first_half
        self._hidden = hidden
        self._below = below
        self._statistics = statistics

    def strip(self, first: int, end: int) -> tuple[Array, Moments]:
        """See `ComputedLayer.strip`."""
        window = Sampling.SAME.window(first, end, self.height)
        if window.end <= self._hidden.kept_end:
            hidden = self._hidden.rows(window.first, window.end)
            identity = self._below.rows(window.first, window.end)
        else:
            # Both halves see the same rows of the layer below, which may be long to compute.
            wider = Sampling.SAME.window(window.first, window.end, self.height)
            below = self._below.rows(wider.first, wider.end)
            hidden, _ = self._first_half.strip_of(below, wider, window.first, window.end)
            identity = below[:, :, window.first - wider.first : window.end - wider.first]
        feeds = {"features": hidden, "residual": identity, "rows": window.chosen(first, end), **self._statistics}
        return _strip(self._graph, self._run(self._graph, feeds), end - first, self.width)

    def forget(self, before: int) -> None:
        """See `Layer.forget`."""
        seen = Sampling.SAME.needed(before, self.height, self.height)
        self._hidden.forget(seen)
        self._below.forget(Sampling.SAME.needed(seen, self.height, self.height))


def _apart(values: Array) -> Array:
    """A copy in memory of its own, which goes back to the system when it is freed; in the heap it would leave holes."""
    copy: Array = np.frombuffer(mmap.mmap(-1, values.nbytes), values.dtype).reshape(values.shape)
    np.copyto(copy, values)
    return copy


def _joined(pieces: Sequence[Array]) -> Array:
    """Strips one below the other, as one array."""
    return np.concatenate(pieces, axis=2) if len(pieces) > 1 else np.ascontiguousarray(pieces[0])


def _strip(graph: str, results: Mapping[str, Array], rows: int, columns: int) -> tuple[Array, Moments]:
    values = results["result"]
    if values.shape[2:] != (rows, columns):
        raise EngineRejectedGraph(
            f"graph {graph} gives {list(values.shape[2:])} positions; expected {[rows, columns]}: it is not the graph "
            "that the manifest describes"
        )
    mean, variance = (results[name].reshape(-1).astype(np.float64) for name in ("result_mean", "result_variance"))
    return values, Moments(values.shape[2] * values.shape[3], mean, variance)
