"""A graph of OpenVINO without a row of operations: what stands before it, and what stands behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops

from glc.engines.chained import GIVEN, TAKEN


def split(
    model: openvino.Model,
    given: Any,
    results: Sequence[Any],
    given_type: type[np.floating],
    taken_type: type[np.floating],
) -> tuple[openvino.Model, openvino.Model]:
    """Cut a graph in two, each with those of its inputs that it needs.

    Args:
        model: not to be used afterwards.
        given: the tensor that the row takes; tensors are (1, C, H, W).
        results: those that it gives, of known channels; side by side in `TAKEN`.
        given_type: of `GIVEN`.
        taken_type: of `TAKEN`.
    """
    channels_last, channels_first = (ops.constant(np.array(order, np.int64)) for order in ((0, 2, 3, 1), (0, 3, 1, 2)))
    parameters = model.get_parameters()
    end = ops.result(ops.convert(ops.transpose(given, channels_last), given_type))
    end.output(0).set_names({GIVEN})
    before = openvino.Model([end], needed(parameters, [end]), "before")
    channels = [result.get_partial_shape()[1].get_length() for result in results]
    taken = ops.parameter(openvino.PartialShape([1, -1, -1, sum(channels)]), taken_type)
    taken.output(0).set_names({TAKEN})
    turned = ops.transpose(ops.convert(taken, np.float32), channels_first)
    parts = [turned.output(0)] if len(channels) == 1 else ops.variadic_split(turned, 1, channels).outputs()
    for result, part in zip(results, parts, strict=True):
        for target in result.get_target_inputs():
            target.replace_source_output(part)
    ends = model.get_results()
    return before, openvino.Model(ends, needed([*parameters, taken], ends), "behind")


def needed(parameters: list[Any], ends: Sequence[Any], but: Any = None) -> list[Any]:
    """Those inputs of a graph that results depend on; not by way of one operation."""
    seen: set[str] = set() if but is None else {but.get_friendly_name()}
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in seen:
            seen.add(node.get_friendly_name())
            waiting += [value.get_node() for value in node.input_values()]
    return [parameter for parameter in parameters if parameter.get_friendly_name() in seen]


def tensor_key(tensor: Any) -> tuple[str, int]:
    """What tells a tensor of a graph from others."""
    return tensor.get_node().get_friendly_name(), tensor.get_index()
