"""Graphs whose types say float16, operation by operation, but where float32 matters.

OpenVINO's precision hint narrows a whole graph: what enters before it is rounded, sums over the image, the search of a
codebook. Under the hint `dynamic` it computes each operation in the type that the graph gives it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import Type
from openvino import opset13 as ops

from glc.engines.ov_constants import constant_behind
from glc.engines.ov_readers import readers

_ENDS = ("Parameter", "Result")
_CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")
_ELEMENTWISE = ("Multiply", "Minimum", "Maximum", "Clamp", "Round")
_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_LEAST_WEIGHT = 2.0**-14
"""The least normal float16: matrix units may take smaller ones for zero."""


def narrow(model: openvino.Model, wide: Collection[str] = ()) -> None:
    """Turn every float32 into float16, inputs and results of the graph apart.

    Args:
        model: changed in place.
        wide: names of the operations that stay in float32.
    """
    made: dict[tuple[str, int, str], Any] = {}

    def converted(source: Any, target: str) -> Any:
        key = (source.get_node().get_friendly_name(), source.get_index(), target)
        if key not in made:
            made[key] = ops.convert(source, target).output(0)
        return made[key]

    def is_wide(node: Any) -> bool:
        return node.get_type_name() in _ENDS or node.get_friendly_name() in wide

    for node in model.get_ordered_ops():
        target = "f32" if is_wide(node) else "f16"
        for end in node.inputs():
            source = end.get_source_output()
            if source.get_element_type() != Type.f32 or _tells_sizes(node, end.get_index()):
                continue
            maker = source.get_node()
            if maker.get_type_name() == "Constant":
                if target != "f32":
                    values = np.clip(maker.get_data(), -_LARGEST_FLOAT16, _LARGEST_FLOAT16)
                    end.replace_source_output(ops.constant(values.astype(np.float16)).output(0))
            elif maker.get_type_name() == "Convert" and not is_wide(maker):
                end.replace_source_output(converted(maker.input_value(0), target))
            elif is_wide(maker) != is_wide(node):
                end.replace_source_output(converted(source, target))
    model.validate_nodes_and_infer_types()


def codebook_search(model: openvino.Model) -> frozenset[str]:
    """Names of the operations between the last convolution and a choice of indices: entries lie close together."""
    chosen = [node for node in model.get_ordered_ops() if node.get_type_name() == "TopK"]
    found: set[str] = set()
    while chosen:
        node = chosen.pop()
        if node.get_type_name() not in (*_CONVOLUTIONS, *_ENDS, "Constant"):
            found.add(node.get_friendly_name())
            chosen += [value.get_node() for value in node.input_values()]
    return frozenset(found)


def narrow_exact(model: openvino.Model) -> bool:
    """Narrow a graph of exact arithmetic to float16 where that loses nothing (docs/exact-arithmetic.md).

    Integers of 11 bits lose nothing. Floats that enter, as y_hat, must be rounded to such before all else, and weights
    and biases must be numbers that float16 holds.

    Args:
        model: changed in place, where it can be.

    Returns:
        Whether it was.
    """
    wide: set[str] = set()
    for parameter in model.get_parameters():
        if parameter.get_element_type() == Type.f32:
            before = _until_rounded(parameter)
            if before is None:
                return False
            wide |= before
    for node in model.get_ordered_ops():
        if node.get_friendly_name() not in wide and not all(_is_held(node, values) for values in _constants(node)):
            return False
    narrow(model, wide)
    return True


def _until_rounded(parameter: Any) -> set[str] | None:
    """Names of the operations up to the first Round on every way; None where there is a way without."""
    names: set[str] = set()
    open_ends = [parameter]
    while open_ends:
        for end in readers(open_ends.pop().output(0)):
            node = end.get_node()
            if node.get_type_name() not in _ELEMENTWISE:
                return None
            names.add(node.get_friendly_name())
            if node.get_type_name() != "Round":
                open_ends.append(node)
    return names


def _constants(node: Any) -> Iterator[NDArray[np.float32]]:
    """Float constants that an operation takes, those that are stored in 16 bits too."""
    for values in map(constant_behind, node.input_values()):
        if values is not None and values.dtype in (np.float32, np.float16):
            yield values.astype(np.float32)


def _is_held(node: Any, values: NDArray[np.float32]) -> bool:
    """Whether float16 holds what an operation takes; a bound that nothing reaches may be any."""
    finite = values[np.abs(values) != _LARGEST_FLOAT32]
    with np.errstate(over="ignore"):
        held = bool((finite.astype(np.float16) == finite).all())
    if node.get_type_name() not in _CONVOLUTIONS:
        return held
    return held and bool((np.abs(finite[finite != 0]) >= _LEAST_WEIGHT).all())


def _tells_sizes(node: Any, port: int) -> bool:
    """Whether an input tells sizes, not data."""
    return node.get_type_name() == "Interpolate" and port > 0
