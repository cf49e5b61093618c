"""Rounding that stays in ONNX Runtime's blocked layout: the same integers, without an operation `Round`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from glc.engines import engine_loader
from glc.engines.ort_rounding import rounding_in_blocks

LIMIT = 500.0
RNG = np.random.default_rng(0)


def _conv(x: str, name: str, channels: int, groups: int = 1) -> tuple[NodeProto, list[TensorProto]]:
    """A convolution to `name`, of multiples of 1/8: half of its sums' ties are real ones."""
    size = 3 if groups > 1 else 1
    weight = RNG.integers(-40, 41, (channels, channels // groups, size, size)).astype(np.float32) / 8
    bias = RNG.integers(-400, 401, channels).astype(np.float32) / 8
    tensors = [numpy_helper.from_array(weight, f"{name}.w"), numpy_helper.from_array(bias, f"{name}.b")]
    pads = [size // 2] * 4
    return helper.make_node("Conv", [x, f"{name}.w", f"{name}.b"], [name], group=groups, pads=pads), tensors


def _rounded(x: str, out: str) -> Iterator[NodeProto]:
    yield helper.make_node("Clip", [x, "low", "high"], [f"{out}.clamp"])
    yield helper.make_node("Round", [f"{out}.clamp"], [out])


def _exact(channels: int, factor: NDArray[np.generic]) -> bytes:
    """All that exact graphs round: behind a convolution, LeakyReLU, a sum and a gate."""
    nodes: list[NodeProto] = []
    tensors = [
        numpy_helper.from_array(np.array(-LIMIT, np.float32), "low"),
        numpy_helper.from_array(np.array(LIMIT, np.float32), "high"),
        numpy_helper.from_array(factor.reshape(1, -1, 1, 1), "factor.stored"),
    ]

    def conv(x: str, name: str, groups: int = 1) -> None:
        node, weights = _conv(x, name, channels, groups)
        nodes.append(node)
        tensors.extend(weights)

    conv("x", "t1")
    nodes.append(helper.make_node("LeakyRelu", ["t1"], ["t1.leaky"], alpha=2.0**-7))
    nodes.extend(_rounded("t1.leaky", "r1"))
    conv("r1", "t2", groups=channels)
    nodes.extend(_rounded("t2", "r2"))
    conv("r2", "t3")
    nodes.append(helper.make_node("Add", ["t3", "x"], ["t3.sum"]))
    nodes.extend(_rounded("t3.sum", "r3"))
    for half in "uv":
        conv("r3", half)
        nodes.extend(_rounded(half, f"{half}.r"))
    nodes.append(helper.make_node("LeakyRelu", ["v.r"], ["v.leaky"], alpha=3 / 32))
    nodes.append(helper.make_node("Mul", ["u.r", "v.leaky"], ["product"]))
    nodes.append(helper.make_node("Cast", ["factor.stored"], ["factor"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Mul", ["product", "factor"], ["scaled"]))
    nodes.extend(_rounded("scaled", "y"))
    names = [name for node in nodes for name in node.output if name not in ("y", "factor")]
    shape: list[str | int | None] = [1, channels, "h", "w"]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y", *names)]
    graph = helper.make_graph(nodes, "exact", values[:1], values[1:2], tensors, value_info=values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _operations(graph: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(graph).graph.node]


def _run(graph: bytes, x: NDArray[np.float32], *, exact: bool) -> NDArray[np.generic]:
    return engine_loader("onnxruntime", threads=1).load(graph, exact=exact).run({"x": x})["y"]


def _x(channels: int, largest: int) -> NDArray[np.float32]:
    return RNG.integers(-largest, largest + 1, (1, channels, 9, 7)).astype(np.float32)


POWERS = 2.0 ** -RNG.integers(3, 12, 32)


@pytest.mark.parametrize("stored", [np.float16, np.float32])
@pytest.mark.parametrize("largest", [1, 30, 1000])
def test_results_are_the_same_to_the_last_bit(stored: type[np.floating], largest: int) -> None:
    graph = _exact(32, POWERS.astype(stored))
    edited = rounding_in_blocks(graph)
    onnx.checker.check_model(onnx.load_model_from_string(edited))
    assert "Round" not in _operations(edited)
    assert _operations(edited).count("Mul") == 1  # the factor went into the first convolution
    x = _x(32, largest)
    expected = _run(graph, x, exact=False)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(_run(graph, x, exact=True), expected)


@pytest.mark.parametrize(
    "t", [0.5, 1.5, -0.5, -2.5, 499.5, 500.5, -(2.0**22) - 0.5, 2.0**23 - 0.5, 2.0**24, 1e30, -1e30]
)
def test_ties_go_to_even_and_large_sums_are_clamped(t: float) -> None:
    nodes = [helper.make_node("Mul", ["x", "one"], ["t"]), *_rounded("t", "y")]
    tensors = [
        numpy_helper.from_array(np.ones((1, 16, 1, 1), np.float32), "one"),
        numpy_helper.from_array(np.array(-LIMIT, np.float32), "low"),
        numpy_helper.from_array(np.array(LIMIT, np.float32), "high"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, "h", "w"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "rounding", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    x = np.full((1, 16, 2, 3), t, np.float32)
    y = _run(bytes(model.SerializeToString()), x, exact=True)
    np.testing.assert_array_equal(y, np.clip(np.rint(x), -LIMIT, LIMIT))


def test_a_factor_that_is_no_power_of_two_stays_a_multiplication() -> None:
    graph = _exact(32, np.full(32, 0.3, np.float32))
    assert _operations(rounding_in_blocks(graph)).count("Mul") == 2


def test_channels_that_fill_no_block_are_left_as_they_are() -> None:
    graph = _exact(24, POWERS[:24].astype(np.float32))
    assert rounding_in_blocks(graph) == graph


def test_only_exact_graphs_are_edited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glc.engines.ort.rounding_in_blocks", lambda _: b"")
    graph = _exact(16, POWERS[:16].astype(np.float32))
    assert _run(graph, _x(16, 30), exact=False).shape == (1, 16, 9, 7)


def test_what_is_no_graph_is_left_for_onnx_runtime_to_refuse() -> None:
    graph = _exact(16, POWERS[:16].astype(np.float32))
    for end in range(0, len(graph), 61):
        rounding_in_blocks(graph[:end])
    for place in range(0, len(graph), 37):
        for change in (1, 128, 255):
            rounding_in_blocks(graph[:place] + bytes([graph[place] ^ change]) + graph[place + 1 :])
    assert rounding_in_blocks(b"not a graph") == b"not a graph"
    assert rounding_in_blocks(b"") == b""
