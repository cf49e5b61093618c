"""Convolutions whose operands are 8-bit integers times a step.

x --QuantizeLinear, DequantizeLinear--> Conv <--DequantizeLinear-- integers
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glc.engines import onnx_messages as messages
from glc.engines.onnx_parts import OnnxGraph


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedConvolution:
    """What a convolution takes, before it became integers."""

    source: str
    least: float
    """Of the values of `source` that have integers of their own."""
    largest: float
    weights: NDArray[np.float32]
    """(O, I, k, k), whole multiples of the steps."""
    weight_steps: NDArray[np.float32]
    """(O,)."""


def quantised_convolution(graph: OnnxGraph, convolution: messages.Node) -> QuantisedConvolution | None:
    """Operands of a Conv; None where they are floats, or integers of another kind."""
    taken, weights = _taken(graph, convolution.inputs[0]), _weights(graph, convolution.inputs[1])
    return None if taken is None or weights is None else QuantisedConvolution(*taken, *weights)


def has_eight_bits(graph: OnnxGraph) -> bool:
    """Whether anything in a graph is turned into integers."""
    return any(node.op == "QuantizeLinear" for node in graph.nodes)


def _taken(graph: OnnxGraph, name: str) -> tuple[str, float, float] | None:
    """A tensor and its range, from what it was turned into."""
    out_of = graph.maker(name, "DequantizeLinear", 3)
    into = None if out_of is None else graph.maker(out_of.inputs[0], "QuantizeLinear", 3)
    if out_of is None or into is None:
        return None
    (step, zero), other = (_steps(graph, node) for node in (into, out_of))
    if step is None or zero is None or step.size != 1 or zero.size != 1 or not _are_equal((step, zero), other):
        return None
    bounds = np.iinfo(zero.dtype)
    least, largest = ((bound - int(zero.item())) * float(step.item()) for bound in (bounds.min, bounds.max))
    alone = all(len(graph.readers(each)) == 1 for each in (name, out_of.inputs[0]))
    return (into.inputs[0], least, largest) if alone and step.item() > 0 else None


def _weights(graph: OnnxGraph, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Weights and the step of each output."""
    node = graph.maker(name, "DequantizeLinear", 3)
    if node is None or node.attributes().get("axis", 1) != 0:
        return None
    codes, (steps, zero) = graph.constant(node.inputs[0]), _steps(graph, node)
    if codes is None or steps is None or zero is None or codes.dtype != np.int8 or codes.ndim != 4 or zero.any():
        return None
    if steps.shape != codes.shape[:1]:
        return None
    steps = steps.astype(np.float32)
    return codes.astype(np.float32) * steps[:, None, None, None], steps


def _steps(graph: OnnxGraph, node: messages.Node) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Step and zero of what turns a tensor into integers or back; None for the zero where it is no 8-bit integer."""
    step, zero = (graph.constant(name) for name in node.inputs[1:])
    return step, zero if zero is not None and zero.dtype in (np.int8, np.uint8) else None


def _are_equal(a: tuple[NDArray[Any], NDArray[Any]], b: tuple[NDArray[Any] | None, NDArray[Any] | None]) -> bool:
    return all(y is not None and x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))
