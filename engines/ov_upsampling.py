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
        resize = convolution.input_value(0).get_node()
        weights = _weights(convolution)
        if weights is None or not _doubles(resize) or not _keeps_size(convolution, weights.shape[2:]):
            continue
        transposed = ops.convolution_backprop_data(
            resize.input_value(0),
            ops.constant(_transposed(weights)),
            strides=[2, 2],
            pads_begin=[1, 1],
            pads_end=[1, 1],
            dilations=[1, 1],
            name=convolution.get_friendly_name(),
        )
        for target in convolution.output(0).get_target_inputs():
            target.replace_source_output(transposed.output(0))
        merged += 1
    if merged:
        model.validate_nodes_and_infer_types()
    return merged


def _doubles(node: Any) -> bool:
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


def _keeps_size(convolution: Any, kernel: tuple[int, ...]) -> bool:
    """Whether it is 3x3 with a border of one zero."""
    kind = convolution.get_attributes()
    ones = [kind[name] == [1, 1] for name in ("strides", "dilations", "pads_begin", "pads_end")]
    return kernel == (3, 3) and all(ones) and kind["auto_pad"] == "explicit"


def _weights(convolution: Any) -> NDArray[np.float64] | None:
    """Weights (O, I, rows, columns), stored in 32 bits or in 16 behind a conversion; None where they are computed."""
    node = convolution.input_value(1).get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return np.asarray(node.get_data(), np.float64) if node.get_type_name() == "Constant" else None


def _transposed(weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """(O, I, 3, 3) -> (I, O, 4, 4)."""
    return np.ascontiguousarray(np.einsum("ar,oirc,bc->ioab", _TAPS, weights, _TAPS), np.float32)
