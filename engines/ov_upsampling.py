"""Nearest upsampling and the 3x3 convolution behind it as one transposed convolution, in OpenVINO's graph.

Each output pixel of the pair sees 2x2 different input pixels, not 3x3: the rows (and columns) of the kernel that fall
on the same input are added up beforehand. The four kernels of 2x2, one for each position in a cell of 2x2 outputs, are
the taps of one 4x4 kernel with stride 2: 2.25 times fewer multiply-adds, and no upsampled tensor in memory
(docs/decisions/0009).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from glc.engines.ov_constants import constant_behind

_TAPS = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float64)
"""(4, 3): tap of the transposed kernel -> rows of the 3x3 kernel that are added up in it.

Input i reaches the outputs 2 i - 1 .. 2 i + 2. The first of them has it below, under the last row; under the last two
rows of the second lies the same input, i; and so on.
"""


def merge_upsampling(model: openvino.Model) -> int:
    """Rewrite every such pair.

    Args:
        model: changed in place.

    Returns:
        How many there were.
    """
    merged = 0
    for convolution in model.get_ordered_ops():
        if convolution.get_type_name() != "Convolution":
            continue
        resize, cropped = _uncropped(convolution.input_value(0).get_node())
        weights = constant_behind(convolution.input_value(1))
        pads = _pads(convolution)
        if weights is None or weights.shape[2:] != (3, 3) or pads is None or not is_doubling(resize):
            continue
        transposed = ops.convolution_backprop_data(
            resize.input_value(0),
            ops.constant(_transposed(weights)),
            strides=[2, 2],
            # Each row that the convolution does not pad, or does not see, the transposed one leaves out.
            pads_begin=[2 - pads[0] + cropped, 2 - pads[1]],
            pads_end=[2 - pads[0] + cropped, 2 - pads[1]],
            dilations=[1, 1],
            name=convolution.get_friendly_name(),
        )
        for target in convolution.output(0).get_target_inputs():
            target.replace_source_output(transposed.output(0))
        merged += 1
    if merged:
        model.validate_nodes_and_infer_types()
    return merged


def is_doubling(node: Any) -> bool:
    """Whether a node repeats each pixel twice along both axes of (N, C, h, w)."""
    if node.get_type_name() != "Interpolate":
        return False
    kind = node.get_attributes()
    scales = node.input_value(1).get_node()
    return (
        (kind["mode"], kind["shape_calculation_mode"]) == ("nearest", "scales")
        and (kind["coordinate_transformation_mode"], kind["nearest_mode"]) == ("asymmetric", "floor")
        and not any((*kind["pads_begin"], *kind["pads_end"]))
        and node.get_input_size() == 2
        and scales.get_type_name() == "Constant"
        and scales.get_data().tolist() == [1, 1, 2, 2]
    )


def _uncropped(node: Any) -> tuple[Any, int]:
    """What stands before a Slice that takes a row off at both ends, and how many rows are taken off."""
    if node.get_type_name() == "Slice" and node.get_input_size() == 5:
        bounds = [value.get_node() for value in node.input_values()[1:]]
        if all(bound.get_type_name() == "Constant" for bound in bounds):
            first, end, step, axis = (bound.get_data().tolist() for bound in bounds)
            if (first, end, step, axis) == ([1], [-1], [1], [2]):
                return node.input_value(0).get_node(), 1
    return node, 0


def _pads(convolution: Any) -> tuple[int, int] | None:
    """Rows and columns of zeros, 0 or 1, the same at both ends; None for what is otherwise not a plain convolution."""
    kind = convolution.get_attributes()
    pads = kind["pads_begin"]
    if kind["strides"] != [1, 1] or kind["dilations"] != [1, 1] or kind["auto_pad"] != "explicit":
        return None
    return (pads[0], pads[1]) if pads == kind["pads_end"] and set(pads) <= {0, 1} else None


def _transposed(weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """(O, I, 3, 3) -> (I, O, 4, 4)."""
    return np.ascontiguousarray(np.einsum("ar,oirc,bc->ioab", _TAPS, weights.astype(np.float64), _TAPS), np.float32)
