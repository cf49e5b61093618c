"""Rows of convolutions in an image graph, cut out of it for `conv_chain`.

    graph --> graph (image, padding), chain, graph (attention), chain ..., graph (transform coding)

What is looked for: residual blocks of GroupNorm, swish and 3x3 convolutions, and single convolutions between them.
What a row gives and what it takes are one tensor each. Graphs are cut as serialised, so that any engine may load the
parts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from glc.engines import onnx_messages as messages
from glc.engines.conv_chain import Convolution, EightBits, GroupNorm, Kind
from glc.engines.onnx_eight_bits import has_eight_bits, quantised_convolution
from glc.engines.onnx_parts import OnnxGraph, Seam

_MULTIPLE = 32
"""Of the channels within a row."""
_MOST_FIRST = 3
_LEAST_COLUMNS = 16
_LEAST_SWISH = -0.27846455
"""Of x / (1 + e^-x)."""
SHORT = 2
"""Convolutions of a row that is worth its ends where they gain much beside those of the engine; `LONG` where less."""
_DOUBLING = {
    "mode": b"nearest",
    "coordinate_transformation_mode": b"asymmetric",
    "nearest_mode": b"floor",
}


@dataclass(frozen=True, slots=True, eq=False)
class CutGraph:
    """A graph whose chains are missing; what one gives is what the part behind it takes."""

    parts: tuple[bytes, ...]
    """Serialised, one more than chains: what stands before the first one, between them, and behind the last."""
    chains: tuple[tuple[Convolution, ...], ...]


def cut_convolutions(
    graph: bytes, activations: type[np.floating], least: int = SHORT, *, least_of_integers: int | None = None
) -> CutGraph | None:
    """Cut rows of convolutions out.

    Args:
        graph: a serialised ONNX graph.
        activations: of the chains, float16 or float32.
        least: convolutions of a row that is cut out.
        least_of_integers: the same where a graph has 8-bit integers; None for chains that do not multiply them.

    Returns:
        None where so many convolutions never follow each other, or where the graph cannot be read, for an engine to
        say what is wrong.
    """
    try:
        read = OnnxGraph(graph)
        if least_of_integers is not None and has_eight_bits(read):
            least = least_of_integers
        rows = _chosen(read, _rows(read, eight_bits=least_of_integers is not None), least)
        seams: list[Seam | None] = [None]
        for row in rows:
            is_image = row.convolutions[0].kind == Kind.FIRST
            is_narrow = len(row.convolutions[-1].bias) < _LEAST_COLUMNS
            for name, is_float, channels in (
                (row.given, is_image, row.convolutions[0].weights.shape[1]),
                (row.result, is_narrow, len(row.convolutions[-1].bias)),
            ):
                seams.append(Seam({name: channels}, np.float32 if is_float else activations))
        seams.append(None)
        parts = tuple(read.part(taken, given) for taken, given in zip(seams[::2], seams[1::2], strict=True))
    except (ValueError, IndexError, TypeError):
        return None
    return CutGraph(parts, tuple(tuple(row.convolutions) for row in rows)) if rows else None


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A convolution and what stands before it."""

    kind: Kind
    source: str
    result: str
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    norm: GroupNorm | None
    eight_bits: EightBits | None


class _Row:
    """Convolutions from a tensor on, with numbers for the tensors between."""

    def __init__(self, given: str) -> None:
        self.given = self.result = given
        self.convolutions: list[Convolution] = []
        self.within: set[str] = set()
        """Tensors of the graph that it takes the place of, its result among them."""
        self._number = self._made = 0

    def single(self, found: _Found) -> None:
        """Go on by one convolution."""
        target = self._new()
        self.convolutions.append(_link(found, self._number, target))
        self._go_on(target, found.result)

    def block(self, first: _Found, second: _Found, shortcut: _Found | None, result: str) -> None:
        """Go on by a residual block, in place where that may be: what is given is not written to."""
        source, between = self._number, self._new()
        self.convolutions.append(_link(first, source, between))
        residual = target = source
        if shortcut is not None:
            residual = target = self._new()
            self.convolutions.append(_link(shortcut, source, target))
        elif source == 0:
            target = self._new()
        self.convolutions.append(replace(_link(second, between, target), residual=residual))
        self._go_on(target, result)
        self.within |= {first.result, second.result} | ({shortcut.result} if shortcut else set())

    def fits(self) -> bool:
        """Whether every convolution takes as many channels as there are, and adds to as many as it gives."""
        channels = {0: self.convolutions[0].weights.shape[1]}
        for convolution in self.convolutions:
            outputs, inputs = convolution.weights.shape[:2]
            if channels[convolution.source] != inputs:
                return False
            if convolution.residual is not None and channels[convolution.residual] != outputs:
                return False
            channels[convolution.target] = outputs
        return True

    def _new(self) -> int:
        self._made += 1
        return self._made

    def _go_on(self, number: int, result: str) -> None:
        if result == self.given or result in self.within:
            raise ValueError(f"{result} follows from itself")
        self._number, self.result = number, result
        self.within.add(result)


def _chosen(graph: OnnxGraph, rows: Iterable[_Row], least: int) -> list[_Row]:
    """Those that are cut out: of enough convolutions, none part of another, each behind all of the one before."""
    chosen: list[_Row] = []
    for row in rows:
        is_inner = any(row.given in other.within - {other.result} for other in chosen)
        if len(row.convolutions) < least or is_inner or not row.fits():
            continue
        # A part takes from one chain alone.
        if not chosen or chosen[-1].result not in graph.reached(graph.outputs, [row.result]):
            chosen.append(row)
    return chosen


def _rows(graph: OnnxGraph, *, eight_bits: bool) -> Iterable[_Row]:
    """The longest row from each tensor that a convolution takes, in the order of the graph."""
    by_source: dict[str, list[_Found]] = defaultdict(list)
    for node in graph.nodes:
        found = _convolution(graph, node, eight_bits=eight_bits) if node.op == "Conv" else None
        if found is not None:
            by_source[found.source].append(found)
    return [_row(graph, source, by_source) for source in by_source]


def _row(graph: OnnxGraph, given: str, by_source: dict[str, list[_Found]]) -> _Row:
    """Follow the only way from a tensor as far as it is known."""
    row = _Row(given)
    while True:
        here, readers = by_source.get(row.result, []), graph.readers(row.result)
        if row.convolutions and len(row.convolutions[-1].bias) % _MULTIPLE:
            return row
        if len(here) == 1 and len(readers) == 1:
            row.single(here[0])
            continue
        block = _block(graph, row.result, here, by_source) if len(readers) == 2 else None
        if block is None:
            return row
        row.block(*block)


def _block(
    graph: OnnxGraph, given: str, here: list[_Found], by_source: dict[str, list[_Found]]
) -> tuple[_Found, _Found, _Found | None, str] | None:
    """The residual block behind a tensor: its convolutions, that of its shortcut, its result."""
    branches = [found for found in here if found.kind == Kind.DENSE and found.norm is not None]
    shortcuts = [found for found in here if found.kind == Kind.POINT and found.norm is None]
    if len(branches) != 1 or len(branches) + len(shortcuts) != len(here):
        return None
    first = branches[0]
    behind = by_source.get(first.result, [])
    if len(behind) != 1 or len(graph.readers(first.result)) != 1 or behind[0].kind != Kind.DENSE:
        return None
    second = behind[0]
    identity = shortcuts[0].result if shortcuts else given
    total = graph.sum_of(second.result, identity)
    if total is None or len(graph.readers(second.result)) != 1 or (shortcuts and len(graph.readers(identity)) != 1):
        return None
    return first, second, shortcuts[0] if shortcuts else None, total


def _convolution(graph: OnnxGraph, node: messages.Node, *, eight_bits: bool) -> _Found | None:
    if len(node.inputs) != 3:
        return None
    quantised = quantised_convolution(graph, node) if eight_bits else None
    weights = graph.constant(node.inputs[1]) if quantised is None else quantised.weights
    bias = graph.constant(node.inputs[2])
    if weights is None or bias is None or weights.ndim != 4 or bias.shape != weights.shape[:1]:
        return None
    outputs, inputs = weights.shape[:2]
    if outputs % _LEAST_COLUMNS and outputs >= _LEAST_COLUMNS:
        return None
    kind, source = _kind(graph, node, weights)
    if kind is None or (inputs % _MULTIPLE and kind != Kind.FIRST):
        return None
    if quantised is not None:
        if kind != Kind.DENSE:
            return None
        source = quantised.source
    source, norm = (source, None) if kind in (Kind.UP, Kind.DOWN) else _normalised(graph, source, inputs)
    bits = None
    if quantised is not None:
        # Codes of what never comes would be lost: half of them, where they are symmetric.
        bound = _LEAST_SWISH if norm is not None and norm.swish else -np.inf
        bits = EightBits(max(quantised.least, bound), quantised.largest, quantised.weight_steps)
    return _Found(kind, source, node.outputs[0], weights.astype(np.float32), bias.astype(np.float32), norm, bits)


def _kind(graph: OnnxGraph, node: messages.Node, weights: NDArray[np.float32]) -> tuple[Kind | None, str]:
    """Kind of a convolution, and the tensor that it takes, before it is repeated."""
    about = messages.convolution_attributes(node)
    source = node.inputs[0]
    if (about["group"], about["dilations"], about["auto_pad"]) != (1, (1, 1), b"NOTSET"):
        return None, source
    form = (weights.shape[2:], about["strides"], about["pads"])
    if form == ((1, 1), (1, 1), (0, 0, 0, 0)):
        return Kind.POINT, source
    if form == ((3, 3), (2, 2), (0, 0, 1, 1)):
        return Kind.DOWN, source
    if form != ((3, 3), (1, 1), (1, 1, 1, 1)):
        return None, source
    doubled = _doubled(graph, source)
    if doubled is not None:
        return Kind.UP, doubled
    return (Kind.FIRST if weights.shape[1] <= _MOST_FIRST else Kind.DENSE), source


def _doubled(graph: OnnxGraph, name: str) -> str | None:
    """What a tensor repeats twice along both axes; None where it does not."""
    node = graph.maker(name, "Resize", 3)
    if node is None or node.inputs[1] or len(graph.readers(name)) != 1:
        return None
    about, scales = node.attributes(), graph.constant(node.inputs[2])
    if any(about.get(key) != value for key, value in _DOUBLING.items()) or scales is None:
        return None
    return node.inputs[0] if scales.tolist() == [1, 1, 2, 2] else None


def _normalised(graph: OnnxGraph, source: str, channels: int) -> tuple[str, GroupNorm | None]:
    """What stands before a GroupNorm and swish, and these; the tensor itself where there is no GroupNorm."""
    product, normed = graph.maker(source, "Mul", 2), source
    if product is not None:
        for value, gate in (product.inputs, product.inputs[::-1]):
            sigmoid = graph.maker(gate, "Sigmoid", 1)
            if sigmoid is not None and sigmoid.inputs[0] == value:
                normed = value
    swish = normed != source
    found = _group_norm(graph, normed, channels)
    # Nothing else may read what is no longer computed.
    if found is None or len(graph.readers(normed)) != 1 + swish or len(graph.readers(source)) != 1:
        return source, None
    return found[0], replace(found[1], swish=swish)


def _group_norm(graph: OnnxGraph, name: str, channels: int) -> tuple[str, GroupNorm] | None:
    """A GroupNorm and what it takes: Reshape, InstanceNormalization, Reshape, then a factor and an offset a channel."""
    shifted = graph.with_constant(name, "Add")
    scaled = None if shifted is None else graph.with_constant(shifted[0], "Mul")
    back = None if scaled is None else graph.maker(scaled[0], "Reshape", 2)
    inner = None if back is None else graph.maker(back.inputs[0], "InstanceNormalization", 3)
    grouped = None if inner is None else graph.maker(inner.inputs[0], "Reshape", 2)
    if shifted is None or scaled is None or back is None or inner is None or grouped is None:
        return None
    x = grouped.inputs[0]
    shape = graph.maker(back.inputs[1], "Shape", 1)
    form, ones, zeros = (graph.constant(each) for each in (grouped.inputs[1], *inner.inputs[1:]))
    if shape is None or shape.inputs[0] != x or not _is_whole(shape) or form is None or ones is None or zeros is None:
        return None
    groups = len(ones)
    if form.tolist() != [0, groups, -1] or channels % groups or (ones != 1).any() or zeros.any():
        return None
    # A factor for each column may have as many numbers: the shape tells.
    if any(values.shape not in ((channels, 1, 1), (1, channels, 1, 1)) for values in (scaled[1], shifted[1])):
        return None
    epsilon = float(inner.attributes().get("epsilon", 1e-5))
    scale, shift = (values.astype(np.float32).ravel() for values in (scaled[1], shifted[1]))
    return x, GroupNorm(groups, epsilon, scale, shift, swish=False)


def _is_whole(shape: messages.Node) -> bool:
    """Whether a Shape gives all sizes."""
    about = shape.attributes()
    return not about.get("start", 0) and "end" not in about


def _link(found: _Found, source: int, target: int) -> Convolution:
    return Convolution(found.kind, source, target, found.weights, found.bias, found.norm, eight_bits=found.eight_bits)
