"""GroupNorm as one multiplication and addition for each channel, whose factors come from sums over the image.

    Reshape, MVN, Multiply, Add, Reshape, Multiply, Add --> sums of x and of its squares; Multiply, Add

OpenVINO computes MVN over groups of channels on planes, so that a change of layout stands before and behind each: a
quarter of the time of a network of 16-bit convolutions. Sums of each channel are taken in the layout of the
convolutions, and what is left fuses with the swish behind it (docs/decisions/0012).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from glc.engines.ov_constants import constant_behind
from glc.engines.ov_readers import readers


@dataclass(frozen=True, slots=True, eq=False)
class GroupNormNodes:
    """One that was found: groups of channels of `x`, then a factor and an offset (C,) for each channel."""

    x: Any
    last: Any
    """The operation that gives the result."""
    groups: int
    epsilon: float
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]


def merge_group_norms(model: openvino.Model) -> frozenset[str]:
    """Rewrite every GroupNorm.

    Args:
        model: changed in place.

    Returns:
        Names of the operations that make factors out of sums: few numbers each, which want float32.
    """
    small: set[str] = set()
    for node in model.get_ordered_ops():
        found = found_group_norm(node) if node.get_type_name() == "MVN" else None
        if found is not None:
            small |= _rewrite(found)
    if small:
        model.validate_nodes_and_infer_types()
    return frozenset(small)


def found_group_norm(mvn: Any) -> GroupNormNodes | None:
    """The GroupNorm that an MVN belongs to; None where it belongs to none."""
    kind, before = mvn.get_attributes(), mvn.input_value(0).get_node()
    chain = list(_single_followers(mvn, 5))
    types = [node.get_type_name() for node in chain]
    if not kind["normalize_variance"] or kind["eps_mode"] != "INSIDE_SQRT" or before.get_type_name() != "Reshape":
        return None
    if types != ["Multiply", "Add", "Reshape", "Multiply", "Add"]:
        return None
    x, groups = before.input_value(0), mvn.get_output_partial_shape(0)[1]
    shape = x.get_partial_shape()
    if shape.rank != 4 or shape[1].is_dynamic or groups.is_dynamic or shape[1].get_length() % groups.get_length():
        return None
    channels = shape[1].get_length()
    ones, zeros, scale, shift = (_constant(chain[place]) for place in (0, 1, 3, 4))
    if ones is None or zeros is None or scale is None or shift is None or (ones != 1).any() or zeros.any():
        return None
    # A factor for each column may have as many numbers: the shape tells.
    if any(values.shape not in ((channels, 1, 1), (1, channels, 1, 1)) for values in (scale, shift)):
        return None
    return GroupNormNodes(x, chain[-1], groups.get_length(), float(kind["eps"]), scale.reshape(-1), shift.reshape(-1))


def _single_followers(node: Any, count: int) -> Iterator[Any]:
    """The operations behind one, each the only one that takes the data of the one before."""
    for _ in range(count):
        ends = readers(node.output(0))
        if len(ends) != 1:
            return
        node = ends[0].get_node()
        yield node


def _constant(node: Any) -> NDArray[np.float32] | None:
    """The constant operand of an operation, before it was reshaped; None where there is none."""
    found = next((values for values in map(constant_behind, node.input_values()) if values is not None), None)
    return None if found is None else found.astype(np.float32)


def _rewrite(norm: GroupNormNodes) -> set[str]:
    """Replace one; returns the names of the operations on few numbers."""
    x, channels = norm.x, len(norm.scale)
    member = np.repeat(np.eye(norm.groups, dtype=np.float32), channels // norm.groups, axis=1)
    averaging = member / member.sum(1, keepdims=True)
    small: list[Any] = []

    def add(node: Any) -> Any:
        small.append(node)
        return node

    def product(matrix: NDArray[np.float32], vector: Any) -> Any:
        # As a convolution, whose result has the layout of all others: by majority of its operands' layouts x would
        # otherwise be laid out anew.
        ones, none = [1, 1], [0, 0]
        return add(ops.convolution(vector, ops.constant(matrix[:, :, None, None].copy()), ones, none, none, ones))

    # Along rows first: a sum over the whole image would be rounded once to the type of x, rows' errors cancel out.
    means, lengths = ops.reduce_mean(x, _axes(3), True), ops.reduce_l2(x, _axes(3), True)
    width = add(ops.convert(ops.gather(ops.shape_of(x), _axes(3), _scalar(0)), "f32"))
    squares = add(ops.divide(add(ops.multiply(lengths, lengths)), width))
    mean, square = (product(averaging, add(ops.reduce_mean(rows, _axes(2, 3), True))) for rows in (means, squares))
    variance = add(ops.maximum(add(ops.subtract(square, add(ops.multiply(mean, mean)))), _scalar(0.0)))
    inverse = add(ops.power(add(ops.add(variance, _scalar(norm.epsilon))), _scalar(-0.5)))
    spread = (member * norm.scale).T.copy()
    factor = product(spread, inverse)
    shift = ops.constant(norm.shift.reshape(1, -1, 1, 1))
    offset = add(ops.add(product(-spread, add(ops.multiply(mean, inverse))), shift))
    result = ops.add(ops.multiply(x, factor), offset)
    result.set_friendly_name(norm.last.get_friendly_name())
    for target in norm.last.output(0).get_target_inputs():
        target.replace_source_output(result.output(0))
    return {node.get_friendly_name() for node in small}


def _axes(*axes: int) -> Any:
    return ops.constant(np.array(axes, np.int64))


def _scalar(value: float) -> Any:
    return ops.constant(np.float32(value) if isinstance(value, float) else np.int64(value))
