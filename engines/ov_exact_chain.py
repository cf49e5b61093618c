"""The row of layers in a graph of exact arithmetic of OpenVINO, cut out of it for `exact_chain`.

    graph --> model (what enters, rounded), chain, model (scale indices, means)

What is looked for: 1x1 and depthwise 3x3 convolutions and gates, each with its sum, slope, limit and rounding. What the
chain takes is one tensor; what it gives are those that others read, side by side.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from glc.engines.exact_chain import COLUMNS, LARGEST_ACTIVATION, LARGEST_WEIGHT, ExactLayer, ExactRow, Kind
from glc.engines.ov_constants import constant_behind, with_constant
from glc.engines.ov_cut import split, tensor_key
from glc.engines.ov_readers import readers

_LEAST_LAYERS = 4
"""Of a row that is worth its ends."""


@dataclass(frozen=True, slots=True, eq=False)
class CutExactGraph:
    """A graph in three."""

    before: openvino.Model
    row: ExactRow
    behind: openvino.Model


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A layer, whose tensors are outputs of nodes and have no numbers yet."""

    layer: ExactLayer
    source: Any
    result: Any
    add: Any = None
    gate: Any = None

    @property
    def sources(self) -> list[Any]:
        """All tensors that it takes, as often as it reads them."""
        return [each for each in (self.source, self.gate, self.add) if each is not None]


def cut_exact(model: openvino.Model) -> CutExactGraph | None:
    """Cut the longest row of layers out.

    Args:
        model: as OpenVINO reads it, not rewritten; not to be used afterwards.

    Returns:
        None where there is none.
    """
    rows: dict[tuple[str, int], list[_Found]] = {}
    heads: dict[tuple[str, int], tuple[str, int]] = {}
    """Tensor that a row gives -> the one that the row is given."""
    for node in model.get_ordered_ops():
        found = _layer(node) if node.get_type_name() == "Round" else None
        if found is None:
            continue
        sources = {heads.get(tensor_key(source), tensor_key(source)) for source in found.sources}
        head = sources.pop()
        if not sources and (head in rows or _largest(found.source) <= LARGEST_ACTIVATION):
            rows.setdefault(head, []).append(found)
            heads[tensor_key(found.result)] = head
    best = max(rows.values(), key=len, default=[])
    if len(best) < _LEAST_LAYERS:
        return None
    row, results = _numbered(best)
    before, behind = split(model, best[0].source, results, np.float32, np.float32)
    return CutExactGraph(before, row, behind)


def _numbered(layers: list[_Found]) -> tuple[ExactRow, list[Any]]:
    """Layers with numbers for their tensors, and the tensors that others read."""
    given = layers[0].source
    numbers = {tensor_key(given): 0} | {tensor_key(layer.result): n for n, layer in enumerate(layers, 1)}

    def number(tensor: Any) -> int | None:
        return None if tensor is None else numbers[tensor_key(tensor)]

    row = [
        replace(
            found.layer,
            source=numbers[tensor_key(found.source)],
            target=numbers[tensor_key(found.result)],
            add=number(found.add),
            gate=number(found.gate),
        )
        for found in layers
    ]
    taken = Counter(tensor_key(source) for layer in layers for source in layer.sources)
    results = [layer.result for layer in layers if len(readers(layer.result)) > taken[tensor_key(layer.result)]]
    return ExactRow(_channels(given), tuple(row), tuple(numbers[tensor_key(each)] for each in results)), results


def _layer(rounding: Any) -> _Found | None:
    """The layer that ends in a rounding."""
    clamped = _clamped(rounding.input_value(0))
    if clamped is None or not _is_alone(rounding.input_value(0)) or rounding.get_attributes()["mode"] != "half_to_even":
        return None
    value, limits = clamped
    result = rounding.output(0)
    channels = _channels(result)
    if channels % COLUMNS or max(map(abs, limits)) > LARGEST_ACTIVATION or any(limit % 1 for limit in limits):
        return None
    return _gate(value, result, limits) or _sum(value, result, limits)


def _gate(value: Any, result: Any, limits: tuple[float, float]) -> _Found | None:
    """The product of a tensor, a sloped one and a factor."""
    scaled = with_constant(value, "Multiply")
    if scaled is None or scaled[0].get_node().get_type_name() != "Multiply" or not _is_alone(scaled[0]):
        return None
    product, factor = scaled[0].get_node(), scaled[1]
    for u, v in (product.input_values(), reversed(product.input_values())):
        sloped = _sloped(v)
        if sloped[1] != 1 and _channels(u) == _channels(sloped[0]) == _channels(result):
            factor = np.broadcast_to(factor.ravel(), _channels(result)).astype(np.float32)
            layer = ExactLayer(Kind.GATE, 0, 0, _channels(result), limits, sloped[1], factor=factor)
            return _Found(layer, u, result, gate=sloped[0])
    return None


def _sum(value: Any, result: Any, limits: tuple[float, float]) -> _Found | None:
    """A convolution with its bias; perhaps its slope, or a tensor that is added."""
    value, slope = _sloped(value)
    channels = _channels(result)
    node, add, factor = value.get_node(), None, None
    biased = with_constant(value, "Add")
    if biased is None and node.get_type_name() == "Add":
        for convolved, other in (node.input_values(), reversed(node.input_values())):
            found = with_constant(convolved, "Add")
            if found is not None and _is_alone(convolved):
                biased, add = found, other
        scaled = None if add is None else with_constant(add, "Multiply")
        if scaled is not None and _is_alone(add):
            add, factor = scaled[0], np.broadcast_to(scaled[1].ravel(), channels).astype(np.float32)
    if biased is None or not _is_alone(biased[0]) or (add is not None and _channels(add) != channels):
        return None
    convolution, bias = biased[0].get_node(), biased[1].ravel().astype(np.float32)
    weights = constant_behind(convolution.input_value(1)) if len(convolution.input_values()) > 1 else None
    kind = None if weights is None else _kind(convolution, weights)
    if kind is None or weights is None or len(bias) != channels:
        return None
    source = convolution.input_value(0)
    if _channels(source) % COLUMNS:
        return None
    if kind == Kind.DEPTHWISE:
        values, scale = weights.reshape(channels, 3, 3).astype(np.float32), None
    else:
        whole = _integers(weights.reshape(channels, -1).astype(np.float32))
        if whole is None:
            return None
        values, scale = whole
    layer = ExactLayer(kind, 0, 0, channels, limits, slope, values, scale, bias, factor=factor)
    return _Found(layer, source, result, add)


def _kind(convolution: Any, weights: NDArray[Any]) -> Kind | None:
    name = convolution.get_type_name()
    if name not in ("Convolution", "GroupConvolution"):
        return None
    about = convolution.get_attributes()
    form = (about["strides"], about["dilations"], about["auto_pad"], about["pads_begin"], about["pads_end"])
    if name == "Convolution" and form == ([1, 1], [1, 1], "explicit", [0, 0], [0, 0]) and weights.shape[2:] == (1, 1):
        return Kind.POINT
    if name == "GroupConvolution" and form == ([1, 1], [1, 1], "explicit", [1, 1], [1, 1]):
        return Kind.DEPTHWISE if weights.shape[1:] == (1, 3, 3) else None
    return None


def _integers(weights: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Weights (O, I) as integers and what one of them stands for, a power of two for each output."""
    fraction, exponent = np.frexp(weights.astype(np.float64))
    whole = (fraction * 2**53).astype(np.int64)
    lowest = np.where(whole == 0, np.inf, np.ldexp((whole & -whole).astype(np.float64), exponent - 53))
    unit = lowest.min(1)
    unit[~np.isfinite(unit)] = 1
    integers = weights / unit[:, None]
    if np.abs(integers).max() > LARGEST_WEIGHT:
        return None
    return integers.astype(np.float32), unit.astype(np.float32)


def _largest(value: Any) -> float:
    """How large the integers of a tensor may be; infinite where they may be no integers."""
    node = value.get_node()
    name = node.get_type_name()
    if name == "Concat":
        return max(map(_largest, node.input_values()))
    clamped = _clamped(node.input_value(0) if name == "Round" else value)
    if clamped is None or (name != "Round" and not _is_whole(clamped[0])):
        return np.inf
    return max(map(abs, clamped[1]))


def _is_whole(value: Any) -> bool:
    node = value.get_node()
    if node.get_type_name() in ("Add", "DepthToSpace"):
        return all(map(_is_whole, node.input_values()))
    return str(node.get_type_name()) == "Round"


def _clamped(value: Any) -> tuple[Any, tuple[float, float]] | None:
    """A tensor and its limits, from min(high, max(low, tensor))."""
    above = with_constant(value, "Minimum")
    below = None if above is None or not _is_alone(above[0]) else with_constant(above[0], "Maximum")
    if above is None or below is None or above[1].size != 1 or below[1].size != 1:
        return None
    return below[0], (float(below[1].item()), float(above[1].item()))


def _sloped(value: Any) -> tuple[Any, float]:
    """A tensor and its slope below zero; 1 where it has none."""
    node = value.get_node()
    if node.get_type_name() != "PRelu":
        return value, 1.0
    slope = constant_behind(node.input_value(1))
    if slope is None or slope.size != 1 or not 0 <= slope.item() < 1:
        return value, 1.0
    return node.input_value(0), float(slope.item())


def _is_alone(value: Any) -> bool:
    return len(readers(value)) == 1


def _channels(value: Any) -> int:
    size = value.get_partial_shape()[1]
    return 0 if size.is_dynamic else size.get_length()
