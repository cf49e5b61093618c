"""The row of layers in a graph of exact arithmetic, cut out of it for `exact_chain`.

    graph --> graph (what enters, rounded), chain, graph (scale indices, means)

What is looked for: 1x1 and depthwise 3x3 convolutions and gates, each with its sum, slope, limit and rounding, as
docs/exact-arithmetic.md has them. What the chain takes is one tensor; what it gives are those that others read, side by
side. Graphs are cut as serialised, so that any engine may load the parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glc.engines import onnx_messages as messages
from glc.engines.exact_chain import COLUMNS, LARGEST_ACTIVATION, LARGEST_WEIGHT, ExactLayer, ExactRow, Kind
from glc.engines.onnx_parts import OnnxGraph, Seam

_LEAST_LAYERS = 4
"""Of a row that is worth its ends."""


@dataclass(frozen=True, slots=True, eq=False)
class CutExactGraph:
    """A graph in three: two of them serialised, each with those of its inputs that it needs."""

    before: bytes
    """Gives `GIVEN`."""
    row: ExactRow
    behind: bytes
    """Takes `TAKEN`."""


def cut_exact(graph: bytes) -> CutExactGraph | None:
    """Cut the longest row of layers out.

    Args:
        graph: a serialised ONNX graph.

    Returns:
        None where there is none, or where the graph cannot be read, for an engine to say what is wrong.
    """
    try:
        found = OnnxGraph(graph)
        best = max(_rows(found), key=len, default=[])
        if len(best) < _LEAST_LAYERS:
            return None
        made = [layer.result for layer in best]
        read_outside = found.reached(found.outputs, made)
        results = [name for name in made if name in read_outside]
        row = _numbered(best, results)
        if row is None:
            return None
        of_tensor = {layer.target: layer.channels for layer in row.layers}
        given = Seam({best[0].source: row.channels})
        taken = Seam({name: of_tensor[number] for name, number in zip(results, row.results, strict=True)})
        return CutExactGraph(found.part(None, given), row, found.part(taken, None))
    except (ValueError, IndexError, TypeError):
        return None


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A layer, whose tensors have names and no numbers yet."""

    layer: ExactLayer
    inputs: int
    """Channels of the source."""
    source: str
    result: str
    add: str | None = None
    gate: str | None = None

    @property
    def sources(self) -> list[str]:
        """All tensors that it takes."""
        return [each for each in (self.source, self.gate, self.add) if each is not None]


def _rows(graph: OnnxGraph) -> Iterable[list[_Found]]:
    """Layers of each row, in order; all of one row follow from one tensor."""
    rows: dict[str, list[_Found]] = {}
    heads: dict[str, str] = {}
    """Tensor that a row gives -> the one that the row is given."""
    largest = _largest_integers(graph)
    for node in graph.nodes:
        found = _layer(graph, node) if node.op == "Round" else None
        if found is None:
            continue
        sources = {heads.get(source, source) for source in found.sources}
        head = sources.pop()
        if not sources and (head in rows or largest.get(found.source, np.inf) <= LARGEST_ACTIVATION):
            rows.setdefault(head, []).append(found)
            heads[found.result] = head
    return rows.values()


def _numbered(layers: list[_Found], results: list[str]) -> ExactRow | None:
    """Layers with numbers for their tensors; None where channels or names do not fit."""
    given = layers[0].source
    numbers = {given: 0} | {layer.result: number for number, layer in enumerate(layers, 1)}
    channels = {given: layers[0].inputs} | {layer.result: layer.layer.channels for layer in layers}
    if len(numbers) <= len(layers):  # two of one name
        return None
    row = []
    for found in layers:
        beside = [each for each in (found.add, found.gate) if each is not None]
        if channels[found.source] != found.inputs or any(channels[each] != found.layer.channels for each in beside):
            return None
        add, gate = (None if each is None else numbers[each] for each in (found.add, found.gate))
        source, target = numbers[found.source], numbers[found.result]
        row.append(replace(found.layer, source=source, target=target, add=add, gate=gate))
    return ExactRow(channels[given], tuple(row), tuple(numbers[each] for each in results))


def _layer(graph: OnnxGraph, rounding: messages.Node) -> _Found | None:
    """The layer that ends in a rounding."""
    clamped = _clamped(graph, rounding.inputs[0])
    if clamped is None:
        return None
    value, limits = clamped
    if max(map(abs, limits)) > LARGEST_ACTIVATION or any(limit % 1 for limit in limits):
        return None
    found = _gate(graph, value, rounding.outputs[0], limits) or _sum(graph, value, rounding.outputs[0], limits)
    return None if found is None or found.layer.channels % COLUMNS or found.inputs % COLUMNS else found


def _gate(graph: OnnxGraph, value: str, result: str, limits: tuple[float, float]) -> _Found | None:
    """The product of a tensor, a sloped one and a factor."""
    scaled = graph.with_constant(value, "Mul")
    product = None if scaled is None else graph.maker(scaled[0], "Mul", 2)
    if scaled is None or product is None:
        return None
    factor = scaled[1]
    for u, v in (product.inputs, product.inputs[::-1]):
        gate, slope = _sloped(graph, v)
        if slope != 1 and factor.shape == (1, factor.size, 1, 1):
            layer = ExactLayer(Kind.GATE, 0, 0, factor.size, limits, slope, factor=factor.ravel())
            return _Found(layer, factor.size, u, result, gate=gate)
    return None


def _sum(graph: OnnxGraph, value: str, result: str, limits: tuple[float, float]) -> _Found | None:
    """A convolution with its bias; perhaps its slope, or a tensor that is added."""
    value, slope = _sloped(graph, value)
    convolution, add, factor = graph.maker(value, "Conv", 3), None, None
    both = graph.maker(value, "Add", 2)
    for convolved, other in () if both is None else (both.inputs, both.inputs[::-1]):
        if convolution is None:
            convolution, add = graph.maker(convolved, "Conv", 3), other
    scaled = None if add is None else graph.with_constant(add, "Mul")
    if scaled is not None:
        add, factor = scaled
    if convolution is None:
        return None
    weights, bias = (graph.constant(name) for name in convolution.inputs[1:])
    if weights is None or bias is None or weights.ndim != 4 or bias.shape != weights.shape[:1]:
        return None
    kind, channels = _kind(convolution, weights), len(weights)
    if kind is None or not (factor is None or factor.shape == (1, channels, 1, 1)):
        return None
    if kind == Kind.DEPTHWISE:
        values, scale, inputs = weights[:, 0], None, channels
    else:
        whole = _whole(weights[:, :, 0, 0])
        if whole is None:
            return None
        (values, scale), inputs = whole, weights.shape[1]
    factor = None if factor is None else factor.ravel()
    layer = ExactLayer(kind, 0, 0, channels, limits, slope, values, scale, bias, factor=factor)
    return _Found(layer, inputs, convolution.inputs[0], result, add)


def _kind(convolution: messages.Node, weights: NDArray[Any]) -> Kind | None:
    about = messages.convolution_attributes(convolution)
    if (about["strides"], about["dilations"], about["auto_pad"]) != ((1, 1), (1, 1), b"NOTSET"):
        return None
    if (about["group"], about["pads"], weights.shape[2:]) == (1, (0, 0, 0, 0), (1, 1)):
        return Kind.POINT
    if (about["group"], about["pads"], weights.shape[1:]) == (len(weights), (1, 1, 1, 1), (1, 3, 3)):
        return Kind.DEPTHWISE
    return None


def _whole(weights: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Weights (O, I) as integers and what one of them stands for, a power of two for each output."""
    _, exponents = np.frexp(np.abs(weights).max(1))
    bits = LARGEST_WEIGHT.bit_length()
    integers = np.ldexp(weights, (bits - exponents)[:, None])
    if not ((integers == np.rint(integers)) & (np.abs(integers) <= LARGEST_WEIGHT)).all():
        return None
    return integers, np.ldexp(np.float32(1), exponents - bits)


def _largest_integers(graph: OnnxGraph) -> dict[str, float]:
    """How large the values of those tensors may be that hold integers."""
    largest: dict[str, float] = {}
    for node in graph.nodes:
        if not (node.inputs and node.outputs):
            continue
        clamped = _clamped(graph, node.inputs[0] if node.op == "Round" else node.outputs[0])
        if node.op == "Round":
            largest[node.outputs[0]] = np.inf if clamped is None else max(map(abs, clamped[1]))
        elif node.op in ("Add", "Concat", "Clip", "DepthToSpace"):
            from_integers = [largest.get(name) for name in (node.inputs[:1] if node.op == "Clip" else node.inputs)]
            known = [value for value in from_integers if value is not None]
            if len(known) < len(from_integers):
                continue
            if clamped is not None and not any(limit % 1 for limit in clamped[1]):
                largest[node.outputs[0]] = max(map(abs, clamped[1]))
            elif node.op != "Clip":
                largest[node.outputs[0]] = sum(known) if node.op == "Add" else max(known)
    return largest


def _clamped(graph: OnnxGraph, name: str) -> tuple[str, tuple[float, float]] | None:
    """A tensor and its limits."""
    clip = graph.maker(name, "Clip", 3)
    limits = [] if clip is None else [graph.constant(each) for each in clip.inputs[1:]]
    low, high = (None if limit is None or limit.size != 1 else float(limit.item()) for limit in limits or (None, None))
    return None if clip is None or low is None or high is None else (clip.inputs[0], (low, high))


def _sloped(graph: OnnxGraph, name: str) -> tuple[str, float]:
    """A tensor and its slope below zero; 1 where it has none."""
    node = graph.maker(name, "LeakyRelu", 1)
    slope = 1.0 if node is None else float(node.attributes().get("alpha", 0.01))
    return (node.inputs[0], slope) if node is not None and 0 <= slope < 1 else (name, 1.0)
