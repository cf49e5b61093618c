"""GroupNorm out of sums: the same numbers, and only where it is one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx.numpy_helper
import openvino
import pytest
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper

import glc
from glc.engines.ov_group_norm import merge_group_norms

RANDOM = np.random.default_rng(0)
CHANNELS, GROUPS = 8, 4
WEIGHTS: dict[str, NDArray[Any]] = {
    "first": RANDOM.normal(size=(CHANNELS, 3, 3, 3)).astype(np.float32),
    # Far apart, so that even one pixel has a deviation.
    "bias": np.linspace(-8, 8, CHANNELS, dtype=np.float32),
    "groups": np.array([1, GROUPS, -1]),
    "ones": np.ones(GROUPS, np.float32),
    "zeros": np.zeros(GROUPS, np.float32),
    "scale": RANDOM.normal(size=(CHANNELS, 1, 1)).astype(np.float32),
    "shift": RANDOM.normal(size=(CHANNELS, 1, 1)).astype(np.float32),
    "last": RANDOM.normal(size=(2, CHANNELS, 3, 3)).astype(np.float32),
}
CHAIN = {
    "before": helper.make_node("Reshape", ["c", "groups"], ["r"]),
    "norm": helper.make_node("InstanceNormalization", ["r", "ones", "zeros"], ["n"], epsilon=1e-6),
    "after": helper.make_node("Reshape", ["n", "size"], ["b"]),
    "scaled": helper.make_node("Mul", ["b", "scale"], ["m"]),
    "shifted": helper.make_node("Add", ["m", "shift"], ["a"]),
}
"""As graphs of bundles hold it."""
SIZES = [(1, 1), (1, 7), (5, 7), (33, 16)]


def graph(further: tuple[NodeProto, ...] = (), results: tuple[str, ...] = ("y",), **changes: Any) -> openvino.Model:
    """x -> Conv -> GroupNorm -> Conv -> y; `changes` replace weights, or nodes of the chain."""
    weights = WEIGHTS | {name: value for name, value in changes.items() if name not in CHAIN}
    chain = CHAIN | {name: value for name, value in changes.items() if name in CHAIN}
    nodes = [
        helper.make_node("Conv", ["x", "first", "bias"], ["c"], pads=[1] * 4),
        helper.make_node("Shape", ["c"], ["size"]),
        *chain.values(),
        helper.make_node("Conv", ["a", "last"], ["y"], pads=[1] * 4),
        *further,
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    return read(helper.make_graph(nodes, "g", [x], outputs, stored))


def read(made: GraphProto) -> openvino.Model:
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return openvino.Core().read_model(model.SerializeToString())


def kinds(model: openvino.Model) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ordered_ops())


def network(model: openvino.Model) -> openvino.CompiledModel:
    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def image(size: tuple[int, int]) -> NDArray[np.float32]:
    return RANDOM.normal(size=(1, 3, *size)).astype(np.float32)


@pytest.mark.parametrize("offset", [0, 100, 1000])
def test_sums_give_the_same_numbers_at_every_size(offset: float) -> None:
    """The deviation is about 5. A difference of squares loses as much as the mean is larger, squared."""
    bias = WEIGHTS["bias"] + np.float32(offset)
    plain, merged = graph(bias=bias), graph(bias=bias)
    assert merge_group_norms(merged)
    expected_by, found_by = network(plain), network(merged)
    for size in SIZES:
        x = image(size)
        expected, found = np.array(expected_by([x])[0]), np.array(found_by([x])[0])
        allowed = 1e-6 * (1 + (offset / 5) ** 2)
        assert np.abs(found - expected).max() < allowed * np.abs(expected).max()


def test_what_is_constant_is_normalised_to_the_shift() -> None:
    """What is left of the difference of squares may be below zero, of which there is no root."""
    for value in (0.1, 0.3, 3.3, 7.7):
        bias = np.full(CHANNELS, value, np.float32)
        model = graph(first=np.zeros_like(WEIGHTS["first"]), bias=bias, results=("a",))
        merge_group_norms(model)
        found = np.array(network(model)([image((5, 7))])[0])
        np.testing.assert_allclose(found, np.broadcast_to(WEIGHTS["shift"], found.shape), atol=0.01)


SECOND = (
    helper.make_node("Reshape", ["a", "groups"], ["r2"]),
    helper.make_node("InstanceNormalization", ["r2", "ones", "zeros"], ["n2"], epsilon=1e-6),
    helper.make_node("Reshape", ["n2", "size"], ["b2"]),
    helper.make_node("Mul", ["b2", "scale"], ["m2"]),
    helper.make_node("Add", ["m2", "shift"], ["a2"]),
)


@pytest.mark.parametrize("name", ["analysis", "synthesis"])
def test_all_that_an_exported_network_has_are_found(name: str, mini_bundle: Path) -> None:
    model = openvino.Core().read_model(glc.Bundle.open(mini_bundle).graph(name)[1])
    assert kinds(model)["MVN"] > 10
    merge_group_norms(model)
    assert kinds(model)["MVN"] == 0


def test_no_mvn_is_left_and_every_name_that_is_returned_is_there() -> None:
    model = graph(SECOND, ("y", "a2"))
    assert kinds(model)["MVN"] == 2
    names = merge_group_norms(model)
    assert kinds(model)["MVN"] == 0
    assert [port.any_name for port in model.outputs] == ["y", "a2"]
    nodes = {node.get_friendly_name(): node.get_type_name() for node in model.get_ordered_ops()}
    assert names <= nodes.keys()
    # Sums of groups, and what is spread over channels again; the network's own two are as large as the image.
    assert Counter(nodes[name] for name in names)["Convolution"] == 2 * 4 == kinds(model)["Convolution"] - 2
    assert not {"c", "a", "y", "a2"} & names


def reader(tensor: str) -> dict[str, Any]:
    """A second result that takes a tensor of the chain."""
    return {"further": (helper.make_node("Neg", [tensor], ["other"]),), "results": ("y", "other")}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"ones": np.array([1, 1, 1, 2], np.float32)}, id="instances are scaled"),
        pytest.param({"zeros": np.array([0, 0, 0, 0.5], np.float32)}, id="instances are shifted"),
        pytest.param({"shifted": helper.make_node("Identity", ["m"], ["a"])}, id="no Add"),
        pytest.param({"scaled": helper.make_node("Identity", ["b"], ["m"])}, id="no Mul"),
        pytest.param({"shifted": helper.make_node("Sub", ["m", "shift"], ["a"])}, id="Sub"),
        pytest.param({"shifted": helper.make_node("Add", ["m", "c"], ["a"])}, id="Add of no constant"),
        pytest.param({"scaled": helper.make_node("Mul", ["b", "b"], ["m"])}, id="Mul by itself"),
        pytest.param({"scale": np.array([[[2]]], np.float32)}, id="one scale for all"),
        pytest.param({"shift": np.array([[[2]]], np.float32)}, id="one shift for all"),
        *(pytest.param(reader(tensor), id=f"{tensor} is read") for tensor in "nbm"),
    ],
)
def test_any_other_chain_stays_as_it_is(changes: dict[str, Any]) -> None:
    model = graph(**changes)
    before = kinds(model)
    assert not merge_group_norms(model)
    assert kinds(model) == before
    assert before["MVN"] == 1


@pytest.mark.parametrize("tensor", ["r", "size"])
def test_what_is_read_before_it_may_be(tensor: str) -> None:
    model = graph((helper.make_node("Identity", [tensor], ["other"]),), ("y",))
    assert merge_group_norms(model)


def test_instance_normalization_by_itself_stays_as_it_is() -> None:
    one = np.ones(CHANNELS, np.float32)
    alone = {
        "before": helper.make_node("Identity", ["c"], ["r"]),
        "norm": helper.make_node("InstanceNormalization", ["r", "one", "none"], ["n"], epsilon=1e-6),
        "after": helper.make_node("Identity", ["n"], ["b"]),
    }
    model = graph(one=one, none=0 * one, **alone)
    assert not merge_group_norms(model)
    assert kinds(model)["MVN"] == 1


def test_a_factor_for_each_column_is_none_for_each_channel() -> None:
    """As many columns as channels: only the shape tells."""
    columns = {name: WEIGHTS[name].reshape(1, 1, CHANNELS) for name in ("scale", "shift")}
    cases: list[dict[str, Any]] = [columns, {"scale": columns["scale"]}, {"shift": columns["shift"]}]
    for changes in cases:
        plain, model = graph(**changes), graph(**changes)
        merge_group_norms(model)
        x = image((5, CHANNELS))
        np.testing.assert_allclose(network(model)([x])[0], network(plain)([x])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "shape",
    [[1, CHANNELS, "w"], [1, CHANNELS, CHANNELS, 3, "w"], [1, "c", "h", "w"], None],
    ids=["a line", "a volume", "channels not known", "nothing known"],
)
def test_what_is_no_image_of_known_channels_stays_as_it_is(shape: list[Any] | None) -> None:
    weights = {name: WEIGHTS[name] for name in ("groups", "ones", "zeros", "scale", "shift")}
    made = helper.make_graph(
        [helper.make_node("Shape", ["c"], ["size"]), *CHAIN.values()],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = read(made)
    assert not merge_group_norms(model)
    assert kinds(model)["MVN"] == 1


def test_groups_that_cut_channels_stay_as_they_are() -> None:
    """Three groups of eight channels: they are of pixels."""
    model = graph(groups=np.array([1, 3, -1]), ones=np.ones(3, np.float32), zeros=np.zeros(3, np.float32))
    assert not merge_group_norms(model)
    assert np.isfinite(network(model)([image((3, 5))])[0]).all()
