"""Upsampling merged with the convolution behind it: the same numbers, and only where it is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.numpy_helper
import openvino
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from glc.engines.ov_upsampling import merge_upsampling

RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(5, 3, 3, 3)).astype(np.float32)
BIAS = RANDOM.normal(size=5).astype(np.float32)


def graph(
    kernel: NDArray[np.float32] = KERNEL,
    scales: tuple[float, ...] = (1, 1, 2, 2),
    cropped: tuple[int, int] | None = None,
    **changes: Any,
) -> bytes:
    """x -> Resize -> Slice of rows, where asked for -> Conv -> y; `changes` go to either other node's attributes."""
    resize: dict[str, Any] = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    conv: dict[str, Any] = {"pads": [1, 1, 1, 1], "strides": [1, 1]}
    for name, value in changes.items():
        (resize if name in resize else conv)[name] = value
    weights = [
        onnx.numpy_helper.from_array(values, name)
        for name, values in (("kernel", kernel), ("bias", BIAS), ("scales", np.array(scales, np.float32)))
    ]
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["large"], **resize),
        helper.make_node("Conv", ["large", "kernel", "bias"], ["y"], **conv),
    ]
    if cropped is not None:
        numbers = {"first": cropped[0], "end": cropped[1], "axis": 2, "step": 1}
        weights += [onnx.numpy_helper.from_array(np.array([value]), name) for name, value in numbers.items()]
        nodes[1].input[0] = "middle"
        nodes.insert(1, helper.make_node("Slice", ["large", *numbers], ["middle"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5, "hh", "ww"])
    made = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    return bytes(made.SerializeToString())


def run(model: openvino.Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([x])[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 7), (16, 3)])
def test_the_merged_pair_gives_the_same_numbers_at_every_size_and_edge(size: tuple[int, int]) -> None:
    x = RANDOM.normal(size=(1, 3, *size)).astype(np.float32)
    plain, merged = (openvino.Core().read_model(graph()) for _ in range(2))
    assert merge_upsampling(merged) == 1
    assert "Interpolate" not in {node.get_type_name() for node in merged.get_ordered_ops()}
    assert merged.outputs[0].any_name == plain.outputs[0].any_name
    expected = run(plain, x)
    assert np.abs(run(merged, x) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "changes", [{"pads": [0, 0, 0, 0]}, {"pads": [0, 1, 0, 1]}, {"pads": [0, 1, 0, 1], "cropped": (1, -1)}]
)
def test_what_a_strip_does_without_is_left_out(changes: dict[str, Any]) -> None:
    x = RANDOM.normal(size=(1, 3, 5, 7)).astype(np.float32)
    plain, merged = (openvino.Core().read_model(graph(**changes)) for _ in range(2))
    assert merge_upsampling(merged) == 1
    expected, found = run(plain, x), run(merged, x)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "changes",
    [
        {"scales": (1, 1, 2, 3)},
        {"scales": (1, 1, 3, 3)},
        {"mode": "linear"},
        {"coordinate_transformation_mode": "half_pixel"},
        {"nearest_mode": "ceil"},
        {"pads": [1, 1, 0, 0]},
        {"pads": [2, 2, 2, 2]},
        {"strides": [2, 2]},
        {"cropped": (2, -1)},
        {"cropped": (1, 4)},
        {"kernel": RANDOM.normal(size=(5, 3, 1, 1)).astype(np.float32)},
        {"kernel": RANDOM.normal(size=(5, 3, 5, 5)).astype(np.float32)},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_any_other_pair_stays_as_it_is(changes: dict[str, Any]) -> None:
    model = openvino.Core().read_model(graph(**changes))
    assert merge_upsampling(model) == 0
