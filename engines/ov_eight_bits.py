"""Convolutions of OpenVINO's graphs whose operands are 8-bit integers times a step (QuantizeLinear, DequantizeLinear).

x --FakeQuantize, Convert, Convert, Subtract, Multiply--> Convolution <--Multiply, Subtract, Convert-- integers
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from glc.engines.ov_constants import constant_behind
from glc.engines.ov_readers import readers

_LEVELS = 256


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedConvolution:
    """What a convolution takes, before it became integers."""

    source: Any
    least: float
    """Of the values of `source` that have integers of their own."""
    largest: float
    weights: NDArray[np.float32]
    """(O, I, k, k), whole multiples of the steps."""
    weight_steps: NDArray[np.float32]
    """(O,)."""


def quantised_convolution(node: Any) -> QuantisedConvolution | None:
    """Operands of a Convolution; None where they are floats, or integers of another kind."""
    taken, weights = _taken(node.input_value(0)), _weights(node.input_value(1))
    return None if taken is None or weights is None else QuantisedConvolution(*taken, *weights)


def has_eight_bits(model: openvino.Model) -> bool:
    """Whether anything in a graph is turned into integers."""
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ordered_ops())


def _taken(value: Any) -> tuple[Any, float, float] | None:
    """A tensor and its range, from what it was turned into."""
    integers, zero, step = _scaled(value)
    node = integers.get_node()
    if step is None or node.get_type_name() != "FakeQuantize" or node.get_attributes()["levels"] != _LEVELS:
        return None
    bounds = [constant_behind(bound) for bound in node.input_values()[1:]]
    if step.size != 1 or zero.size != 1 or any(bound is None or bound.size != 1 for bound in bounds):
        return None
    least, largest, *codes = (float(bound.item()) for bound in bounds if bound is not None)
    # The steps out of integers are those into them.
    if not np.allclose((np.array(codes) - zero.item()) * step.item(), [least, largest], rtol=1e-3):
        return None
    alone = all(len(readers(each)) == 1 for each in (value, integers))
    return (node.input_value(0), least, largest) if alone and least <= 0 < largest else None


def _weights(value: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Weights and the step of each output."""
    integers, zero, steps = _scaled(value)
    codes = constant_behind(integers)
    if steps is None or codes is None or codes.dtype != np.int8 or zero.any():
        return None
    steps = np.broadcast_to(steps.ravel(), len(codes)).astype(np.float32)
    return codes.astype(np.float32) * steps[:, None, None, None], steps


def _scaled(value: Any) -> tuple[Any, NDArray[Any], NDArray[Any] | None]:
    """x, zero and step of (x - zero) * step; None for the step where a tensor is not that."""
    node, zero = value.get_node(), np.zeros(1)
    if node.get_type_name() != "Multiply":
        return value, zero, None
    step, inner = constant_behind(node.input_value(1)), node.input_value(0)
    if inner.get_node().get_type_name() == "Subtract":
        found = constant_behind(inner.get_node().input_value(1))
        if found is None:
            return value, zero, None
        zero, inner = found, inner.get_node().input_value(0)
    while inner.get_node().get_type_name() == "Convert":
        inner = inner.get_node().input_value(0)
    return inner, zero, step
