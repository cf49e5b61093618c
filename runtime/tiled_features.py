"""Features of an image of which only some rows are computed at a time.

A layer gives any rows that it is asked for. What is kept was computed before; what is computed asks the layer below it
for the rows that its convolution sees, and that one asks the next, down to something that is kept, or the image.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from glc.engines import Array
from glc.errors import EngineRejectedGraph
from glc.runtime.moments import RowMoments
from glc.runtime.row_store import RowMemory, RowStore

RunGraph = Callable[[str, Mapping[str, Array]], dict[str, Array]]
"""Graph name and feeds -> results."""

Convert = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Window:
    """Rows that a graph must be given; some may lie beyond the image."""

    first: int
    end: int

    def within(self, height: int) -> tuple[int, int]:
        """First and end of those that an image of some height has."""
        return max(self.first, 0), min(self.end, height)

    def filled(self, values: Array, height: int) -> Array:
        """Rows `within` the image, with rows of zeros for those beyond it."""
        above, below = max(-self.first, 0), max(self.end - height, 0)
        return np.pad(values, ((0, 0), (above, below), (0, 0), (0, 0))) if above or below else values

    def inside(self, height: int) -> Array:
        """Input `inside` of a graph: one for each row of the image, zero for each beyond it."""
        rows = np.arange(self.first, self.end)
        return ((rows >= 0) & (rows < height)).astype(np.float32)

    def normalised(self, values: Array, height: int, statistics: Mapping[str, Array]) -> dict[str, Array]:
        """Feeds of a graph that starts with a GroupNorm: rows `within` the image, and its statistics."""
        return {"features": self.filled(values, height), "inside": self.inside(height), **statistics}


class Sampling(enum.Enum):
    """A 3x3 convolution, by the sides that it gives for those that it takes."""

    SAME = (1, 1)
    HALVED = (1, 2)
    """Zeros below and at the right, then stride 2."""
    DOUBLED = (2, 1)
    """Of the nearest upsampling; gives two rows, or a multiple."""

    def size(self, side: int) -> int:
        """Side of the result."""
        times, divisor = self.value
        return side * times // divisor

    def made(self, first: int, end: int) -> tuple[int, int]:
        """First and end of the rows that are computed where `first` up to `end` are wanted."""
        times, _ = self.value
        return first // times * times, -(-end // times) * times

    def window(self, first: int, end: int) -> Window:
        """Rows of the input that the rows `first` up to `end`, which are `made`, depend on."""
        match self:
            case Sampling.SAME:
                return Window(first - 1, end + 1)
            case Sampling.HALVED:
                return Window(2 * first, 2 * end + 1)
            case Sampling.DOUBLED:
                return Window(first // 2 - 1, end // 2 + 1)

    def needed(self, before: int, height: int, below: int) -> int:
        """First row of an input of height `below` that the result, of `height`, still needs from row `before` on."""
        return below if before >= height else max(self.window(*self.made(before, before + 1)).first, 0)


class Layer(ABC):
    """Features (1, height, width, C): float32, or as they are kept where graphs take that."""

    height: int
    """Rows."""
    width: int
    """Columns."""
    _forgotten = 0

    @abstractmethod
    def rows(self, first: int, end: int) -> Array:
        """Rows `first` up to `end`, valid until they are forgotten."""

    def forget(self, before: int) -> None:
        """Give back memory that no row from `before` on needs; rows above it cannot be asked for any more."""
        # A layer is below several others: without this each would tell it again, and it those below it.
        if before > self._forgotten:
            self._forgotten = before
            self._forget(before)

    @abstractmethod
    def _forget(self, before: int) -> None:
        """Do so, for a row that is further down than all before."""


class ComputedLayer(Layer):
    """A layer that tells what GroupNorm needs of its rows."""

    @abstractmethod
    def strip(self, first: int, end: int) -> tuple[Array, RowMoments]:
        """Rows `first` up to `end`, and their moments."""

    def rows(self, first: int, end: int) -> Array:
        """See `Layer.rows`."""
        return self.strip(first, end)[0]


class WholeLayer(Layer):
    """Features that are there in one piece."""

    def __init__(self, values: Array) -> None:
        _, self.height, self.width, _ = values.shape
        self._values = values

    def rows(self, first: int, end: int) -> Array:
        """See `Layer.rows`."""
        return self._values[:, first:end]

    def _forget(self, before: int) -> None:
        """A part of one piece cannot be given back."""
        if before >= self.height:
            self._values = self._values[:, self.height :].copy()


@dataclass(frozen=True, slots=True)
class Storing:
    """How features are kept."""

    store: Convert
    """From float32."""
    restore: Convert
    """To what graphs take."""


class PassedLayer(Layer):
    """A layer that is gone through once: its first rows are kept, the others computed again when they are needed."""

    def __init__(
        self, source: ComputedLayer, strip_rows: int, share: float, storing: Storing, memory: RowMemory
    ) -> None:
        """Prepare; rows are added by `take`.

        Args:
            source: computes the layer.
            strip_rows: height of the strips in which it is gone through.
            share: how much to keep, 0 to 1; whole strips.
            storing: how.
            memory: where.
        """
        self.height = source.height
        self.width = source.width
        self._source = source
        strips = -(-self.height // strip_rows)
        self.kept_end = min(self.height, int(share * strips) * strip_rows)
        """Rows up to here are kept."""
        self._storing = storing
        self._kept = RowStore(self.kept_end, memory)

    def take(self, first: int, strip: Array) -> None:
        """Keep the strip from row `first` on, if it is one of those to keep; strips come in their order."""
        if first < self.kept_end:
            self._kept.put(first, self._storing.store(strip))

    def rows(self, first: int, end: int) -> Array:
        """See `Layer.rows`."""
        if first >= self.kept_end:
            return self._source.rows(first, end)
        kept = self._storing.restore(self._kept.rows(first, min(end, self.kept_end)))
        if end <= self.kept_end:
            return kept
        computed = self._source.rows(self.kept_end, end)
        return np.concatenate([kept.astype(computed.dtype, copy=False), computed], axis=1)

    def _forget(self, before: int) -> None:
        self._kept.forget(before)
        self._source.forget(before)


class ImageLayer(ComputedLayer):
    """The first convolution, of pixels; the image is padded to the size of the layer by replication."""

    def __init__(self, run: RunGraph, graph: str, image: Array, height: int, width: int) -> None:
        self.height = height
        self.width = width
        self._run = run
        self._graph = graph
        self._image = image

    def strip(self, first: int, end: int) -> tuple[Array, RowMoments]:
        """See `ComputedLayer.strip`."""
        window = Sampling.SAME.window(first, end)
        _, rows, columns, _ = self._image.shape
        pixels = self._image[:, np.minimum(np.arange(*window.within(self.height)), rows - 1)]
        pixels = np.pad(pixels, ((0, 0), (0, 0), (0, self.width - columns), (0, 0)), mode="edge")
        feeds = {"image": window.filled(pixels, self.height), "inside": window.inside(self.height)}
        return _strip(self._graph, self._run(self._graph, feeds), end - first, self.width)

    def _forget(self, before: int) -> None:
        """The image is the caller's."""


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
        self._statistics = statistics

    def strip(self, first: int, end: int) -> tuple[Array, RowMoments]:
        """See `ComputedLayer.strip`."""
        made, made_end = self._sampling.made(first, end)
        window = self._sampling.window(made, made_end)
        strip, moments = self.strip_of(self._below.rows(*window.within(self._below.height)), window, made_end - made)
        return strip[:, first - made : end - made], moments.chosen(first - made, end - made)

    def strip_of(self, values: Array, window: Window, rows: int) -> tuple[Array, RowMoments]:
        """Of rows of the layer below that are there already, those of a window within the image, so many rows."""
        height = self._below.height
        if self._statistics is None:
            feeds = {"features": window.filled(values, height)}
        else:
            feeds = window.normalised(values, height, self._statistics)
        return _strip(self._graph, self._run(self._graph, feeds), rows, self.width)

    def _forget(self, before: int) -> None:
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

    def strip(self, first: int, end: int) -> tuple[Array, RowMoments]:
        """See `ComputedLayer.strip`."""
        window = Sampling.SAME.window(first, end)
        hidden_first, hidden_end = window.within(self.height)
        if hidden_end <= self._hidden.kept_end:
            hidden = self._hidden.rows(hidden_first, hidden_end)
            identity = self._below.rows(first, end)
        else:
            # Both halves see the same rows of the layer below, which may be long to compute.
            wider = Sampling.SAME.window(hidden_first, hidden_end)
            below_first, below_end = wider.within(self.height)
            below = self._below.rows(below_first, below_end)
            hidden, _ = self._first_half.strip_of(below, wider, hidden_end - hidden_first)
            identity = below[:, first - below_first : end - below_first]
        feeds = {**window.normalised(hidden, self.height, self._statistics), "residual": identity}
        return _strip(self._graph, self._run(self._graph, feeds), end - first, self.width)

    def _forget(self, before: int) -> None:
        seen = Sampling.SAME.needed(before, self.height, self.height)
        self._hidden.forget(seen)
        self._below.forget(Sampling.SAME.needed(seen, self.height, self.height))


def _strip(graph: str, results: Mapping[str, Array], rows: int, columns: int) -> tuple[Array, RowMoments]:
    values = results["result"]
    if values.shape[1:3] != (rows, columns):
        raise EngineRejectedGraph(
            f"graph {graph} gives {list(values.shape[1:3])} positions; expected {[rows, columns]}: it is not the graph "
            "that the manifest describes"
        )
    return values, RowMoments.of_results(results, columns)
