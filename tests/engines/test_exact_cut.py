"""Rows of exact layers in graphs: cut out whole, they compute the same integers; what is not exact stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from glc.engines import Engine, engine_loader
from glc.engines.chained import GIVEN, TAKEN, ChainedEngine
from glc.engines.exact_chain import ExactChain, Kind, pack
from glc.engines.exact_cut import CutExactGraph, cut_exact
from glc.runtime.bundle import Bundle
from glc.runtime.default_model import default_bundle

PRIORS = ("hyper_prior", "spatial_prior_1", "spatial_prior_2", "spatial_prior_3")


@pytest.mark.parametrize("graph", PRIORS)
def test_what_a_prior_consists_of_is_cut_out(graph: str) -> None:
    parts = cut_exact(Bundle.open(default_bundle()).graph(graph)[1])
    assert parts is not None
    for part in (parts.before, parts.behind):
        onnx.checker.check_model(onnx.load_model_from_string(part), full_check=True)
    kinds = Counter(layer.kind for layer in parts.row.layers)
    depthwise, gates = (3, 3) if graph == "hyper_prior" else (4, 4)
    assert (kinds[Kind.DEPTHWISE], kinds[Kind.GATE]) == (depthwise, gates)
    assert "Conv" not in _operations(parts.behind)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("graph", PRIORS)
def test_a_graph_in_parts_gives_every_bit(graph: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLC_CACHE", "")
    bundle = Bundle.open(default_bundle())
    content, case = bundle.graph(graph)[1], bundle.conformance(graph)
    parts = cut_exact(content)
    assert case is not None
    assert parts is not None
    whole, chained = engine_loader(engine, 2).load(content), in_parts(parts, engine)
    assert (chained.inputs, chained.outputs) == (whole.inputs, whole.outputs)
    found = chained.run({spec.name: case[spec.name] for spec in chained.inputs})
    assert found.keys() == {spec.name for spec in whole.outputs}
    for name, values in found.items():
        np.testing.assert_array_equal(values, case[name])


def in_parts(parts: CutExactGraph, engine: str) -> Engine:
    loader = engine_loader(engine, 2)
    chain = ExactChain(pack(parts.row, "plain"), "plain", 2)
    return ChainedEngine([loader.load(part) for part in (parts.before, parts.behind)], [chain])


def _operations(graph: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(graph).graph.node]


def row_of(
    *,
    limit: float = 1000,
    weight: float = 2.0**-10,
    largest: float = 2047,
    channels: int = 16,
    entering: float = 1023,
    entry: str = "Round",
    edit: Callable[[ModelProto], object] = lambda _: None,
) -> bytes:
    """Four 1x1 convolutions in a row, each with bias, limits and rounding."""
    random = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []

    def stored(name: str, values: NDArray[Any]) -> str:
        tensors.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def rounded(x: str, name: str, limit: float, op: str = "Round") -> str:
        limits = [stored(f"{name}.{end}", np.array(value)) for end, value in (("low", -limit), ("high", limit))]
        nodes.append(helper.make_node("Clip", [x, *limits], [f"{name}.clamp"]))
        nodes.append(helper.make_node(op, [f"{name}.clamp"], [name]))
        return name

    value = rounded("x", "entry", entering, entry)
    for number in range(4):
        name = "y" if number == 3 else f"t{number}"
        weights = random.integers(-99, 100, (channels, channels, 1, 1)).astype(np.float32)
        weights[0, 0, 0, 0], weights[0, 1, 0, 0] = largest, 1
        bias = random.integers(-99, 100, channels)
        inputs = [value, stored(f"{name}.w", weights * weight), stored(f"{name}.b", bias)]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}.conv"], kernel_shape=[1, 1]))
        value = rounded(f"{name}.conv", name, limit)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, "h", "w"]) for name in "xy"]
    graph = helper.make_graph(nodes, "row", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    edit(model)
    return bytes(model.SerializeToString())


def test_a_plain_row_is_cut_out_whole() -> None:
    content = row_of()
    parts = cut_exact(content)
    assert parts is not None
    assert [layer.kind for layer in parts.row.layers] == [Kind.POINT] * 4
    weights = parts.row.layers[0].weights
    assert weights is not None
    assert (weights[0, 0], weights[0, 1]) == (2047, 1), "as integers, at whatever scale they are stored"
    assert _operations(parts.before) == ["Clip", "Round", "Transpose"]
    assert _operations(parts.behind) == ["Transpose"]
    assert [value.name for value in onnx.load_model_from_string(parts.before).graph.output] == [GIVEN]
    assert [value.name for value in onnx.load_model_from_string(parts.behind).graph.input] == [TAKEN]
    x = np.random.default_rng(1).normal(0, 400, (1, 16, 5, 7)).astype(np.float32)
    expected = engine_loader("onnxruntime", 1).load(content).run({"x": x})["y"]
    assert len(np.unique(expected)) > 100
    np.testing.assert_array_equal(in_parts(parts, "onnxruntime").run({"x": x})["y"], expected)


def _other_strides(model: ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.attribute.append(helper.make_attribute("strides", [2, 2]))


def _added_beside(model: ModelProto) -> None:
    """Each convolution adds what was not rounded."""
    for place, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type == "Conv":
            name = node.output[0]
            node.output[0] = f"{name}.alone"
            model.graph.node.insert(place + 1, helper.make_node("Add", [f"{name}.alone", "x"], [name]))


def _other_names(model: ModelProto) -> None:
    """Two layers that give a tensor of one name, which is no graph at all."""
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            node.output[place] = "t0" if name in ("t1", "t2") else name
        for place, name in enumerate(node.input):
            node.input[place] = "t0" if name in ("t1", "t2") else name


def _not_a_number(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".w"):
            values = numpy_helper.to_array(tensor).copy()
            values[0, 0] = np.nan
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _endless(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".w"):
            values = numpy_helper.to_array(tensor).copy()
            values[0] = np.inf
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 1024},
        {"limit": 10.5},
        {"largest": 2048},
        {"largest": 2049},
        {"channels": 24},
        {"entering": 1024},
        {"entering": float(2**20)},
        pytest.param({"entry": "Identity"}, id="what enters is not rounded"),
        pytest.param({"edit": _other_strides}, id="strides"),
        pytest.param({"edit": _added_beside}, id="added"),
        pytest.param({"edit": _other_names}, id="names"),
        pytest.param({"edit": _not_a_number}, id="nan"),
        pytest.param({"edit": _endless}, id="infinite"),
    ],
)
def test_what_the_kernels_do_not_hold_stays(change: dict[str, Any]) -> None:
    assert cut_exact(row_of(**change)) is None


def test_channels_that_do_not_fit_are_left_for_an_engine_to_refuse() -> None:
    def narrower(model: ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == "t1.w":
                tensor.CopyFrom(numpy_helper.from_array(np.ones((16, 32, 1, 1), np.float32), tensor.name))

    assert cut_exact(row_of(edit=narrower)) is None


def test_what_is_no_graph_is_left_for_an_engine_to_refuse() -> None:
    graph = row_of()
    for end in range(0, len(graph), 61):
        cut_exact(graph[:end])
    for place in range(0, len(graph), 37):
        for change in (1, 128, 255):
            cut_exact(graph[:place] + bytes([graph[place] ^ change]) + graph[place + 1 :])
    assert cut_exact(b"not a graph") is None
    assert cut_exact(b"") is None
