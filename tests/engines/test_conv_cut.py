"""Rows of convolutions in image graphs: all that belongs to one is cut out, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from glc.engines.chained import GIVEN, TAKEN
from glc.engines.conv_chain import ConvChain, Kind, pack
from glc.engines.conv_cut import cut_convolutions
from glc.engines.kernel_memory import LONG
from glc.engines.ort import OrtLoader
from glc.runtime.bundle import Bundle
from glc.runtime.default_model import default_bundle

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("activations", [np.float16, np.float32])
@pytest.mark.parametrize(("graph", "end"), [("analysis", Kind.FIRST), ("synthesis", Kind.UP)])
def test_nothing_of_an_image_graph_but_attention_and_transform_coding_is_left(
    graph: str, end: Kind, activations: type[np.floating]
) -> None:
    bundle = Bundle.open(default_bundle())
    content = bundle.graph(graph)[1]
    parts = cut_convolutions(content, activations)
    assert parts is not None
    halvings = bundle.manifest.config.downsampling.bit_length() - 1
    longest = [convolution.kind for convolution in max(parts.chains, key=len)]
    assert longest[0] == end
    assert longest.count(Kind.DOWN if graph == "analysis" else Kind.UP) == halvings
    for part in parts.parts:
        onnx.checker.check_model(onnx.load_model_from_string(part), full_check=True)
        assert cut_convolutions(part, activations) is None
    assert sum(map(len, parts.parts)) < 0.4 * len(content)


def test_rows_that_are_not_worth_their_ends_stay() -> None:
    content = Bundle.open(default_bundle()).graph("analysis")[1]
    parts = cut_convolutions(content, np.float16, LONG)
    assert parts is not None
    assert [len(row) >= LONG for row in parts.chains] == [True]


def quantised_block(*, zero: int = 0, signed: bool = True, rounded: bool = True, channels: int = 64) -> ModelProto:
    """A residual block whose two convolutions take integers, or values as they are times integers."""
    random = np.random.default_rng(1)
    step, weight_steps = np.float32(0.1), random.uniform(1e-3, 2e-3, channels).astype(np.float32)
    codes = np.int8 if signed else np.uint8
    stored: dict[str, Any] = {
        "step": step,
        "zero": codes(zero),
        "steps": weight_steps,
        "zeros": np.zeros(channels, np.int8),
    }
    stored |= {"ones": np.ones(8, np.float32), "none": np.zeros(8, np.float32), "all": np.array([0, 8, -1], np.int64)}
    nodes = []
    value = "x"
    for number in "ab":
        weights = random.integers(-127, 128, (channels, channels, 3, 3)).astype(np.int8)
        stored |= {f"w{number}": weights, f"b{number}": random.normal(size=channels).astype(np.float32)}
        stored |= {f"scale{number}": random.normal(size=(channels, 1, 1)).astype(np.float32)}
        stored |= {f"shift{number}": random.normal(size=(channels, 1, 1)).astype(np.float32)}
        name = {key: f"{key}{number}" for key in ("r", "i", "s", "n", "f", "g", "m", "q", "d", "w", "v", "c")}
        nodes += [
            helper.make_node("Reshape", [value, "all"], [name["r"]]),
            helper.make_node("InstanceNormalization", [name["r"], "ones", "none"], [name["i"]], epsilon=1e-6),
            helper.make_node("Shape", [value], [name["s"]]),
            helper.make_node("Reshape", [name["i"], name["s"]], [name["n"]]),
            helper.make_node("Mul", [name["n"], f"scale{number}"], [f"t{number}"]),
            helper.make_node("Add", [f"t{number}", f"shift{number}"], [name["f"]]),
            helper.make_node("Sigmoid", [name["f"]], [name["g"]]),
            helper.make_node("Mul", [name["f"], name["g"]], [name["m"]]),
            helper.make_node("QuantizeLinear", [name["m"], "step", "zero"], [name["q"]]),
            helper.make_node("DequantizeLinear", [name["q"], "step", "zero"], [name["d"]]),
            helper.make_node("DequantizeLinear", [name["w"], "steps", "zeros"], [name["v"]], axis=0),
            helper.make_node(
                "Conv", [name["d" if rounded else "m"], name["v"], f"b{number}"], [name["c"]], pads=[1, 1, 1, 1]
            ),
        ]
        value = name["c"]
    nodes.append(helper.make_node("Add", ["x", value], ["y"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, "h", "w"]) for name in "xy"]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "block", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def numbers_of_protocol(model: ModelProto) -> None:
    """Steps and zeros as the exporter of 8-bit graphs writes them, not as bytes."""
    for tensor in model.graph.initializer:
        if tensor.name in ("step", "zero", "steps", "zeros"):
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, values.shape, values.ravel().tolist()))
            assert not tensor.raw_data


@pytest.mark.parametrize(("zero", "signed"), [(0, True), (-100, True), (14, False)])
def test_convolutions_of_integers_take_them(zero: int, signed: bool) -> None:
    (row,) = chains_of(quantised_block(zero=zero, signed=signed), least_of_integers=2)
    assert [convolution.kind for convolution in row] == [Kind.DENSE] * 2
    for convolution in row:
        assert convolution.eight_bits is not None
        # No code stands for what a swish never gives.
        assert convolution.eight_bits.least == pytest.approx(-0.2785, abs=1e-3)
        assert convolution.eight_bits.largest == pytest.approx(0.1 * ((127 if signed else 255) - zero))


@pytest.mark.parametrize("edit", [numbers_of_protocol, lambda _: None], ids=["numbers", "bytes"])
def test_steps_are_read_however_they_are_written(edit: Callable[[ModelProto], object]) -> None:
    block = quantised_block(zero=-100)
    edit(block)
    (row,) = chains_of(block, least_of_integers=2)
    assert row[0].eight_bits is not None
    assert row[0].eight_bits.largest == pytest.approx(0.1 * 227)


def test_integers_are_left_where_the_kernels_have_none() -> None:
    assert cut_convolutions(quantised_block().SerializeToString(), np.float16) is None


@pytest.mark.parametrize("least", [2, 3])
def test_a_graph_of_integers_has_a_least_of_its_own(least: int) -> None:
    content = quantised_block().SerializeToString()
    parts = cut_convolutions(content, np.float16, LONG, least_of_integers=least)
    assert (parts is not None) == (least <= 2)


def test_codes_that_no_swish_needs_are_not_lost() -> None:
    x = RANDOM.normal(size=(12, 20, 64)).astype(np.float32)
    (row,) = chains_of(quantised_block(), least_of_integers=2)
    ours = ConvChain(pack(row, "f16"), "f16", 1, family="plain").run(x).astype(np.float32)
    theirs, floats = (computed(block, x) for block in (quantised_block(), quantised_block(rounded=False)))
    error, their_error = (float(np.square(found - floats).mean()) for found in (ours, theirs))
    # Errors of steps that are 0.42 times as large: 0.18 times their squares, and what float16 adds.
    assert 0 < error < 0.3 * their_error < 0.01 * float(floats.var())


def chains_of(block: ModelProto, **options: int) -> tuple[Any, ...]:
    parts = cut_convolutions(block.SerializeToString(), np.float16, **options)
    assert parts is not None
    return parts.chains


def computed(block: ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX Runtime makes of (H, W, C), in the same layout, computing each operation by itself."""
    planes = np.ascontiguousarray(x.transpose(2, 0, 1)[None])
    found = OrtLoader(1, optimise=False).load(block.SerializeToString()).run({"x": planes})["y"]
    return np.asarray(found[0].transpose(1, 2, 0), np.float32)


def row_of(*, channels: int = 32, edit: Callable[[ModelProto], object] = lambda _: None) -> bytes:
    """Four convolutions in a row, from x to y."""
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    names = ["x", "t0", "t1", "t2", "y"]
    for number, (source, target) in enumerate(itertools.pairwise(names)):
        for name, shape in ((f"w{number}", (channels, channels, 3, 3)), (f"b{number}", (channels,))):
            tensors.append(numpy_helper.from_array(RANDOM.normal(size=shape).astype(np.float32), name))
        nodes.append(helper.make_node("Conv", [source, f"w{number}", f"b{number}"], [target], pads=[1, 1, 1, 1]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, "h", "w"]) for name in "xy"]
    graph = helper.make_graph(nodes, "row", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    edit(model)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("activations", [np.float16, np.float32])
def test_a_plain_row_is_cut_out_whole(activations: type[np.floating]) -> None:
    parts = cut_convolutions(row_of(), activations)
    assert parts is not None
    (row,) = parts.chains
    assert [convolution.kind for convolution in row] == [Kind.DENSE] * 4
    before, behind = map(onnx.load_model_from_string, parts.parts)
    kind = TensorProto.FLOAT16 if activations == np.float16 else TensorProto.FLOAT
    for (value,), name in ((before.graph.output, GIVEN), (behind.graph.input, TAKEN)):
        assert (value.name, value.type.tensor_type.elem_type) == (name, kind)
    assert "Conv" not in [node.op_type for part in (before, behind) for node in part.graph.node]
    x = RANDOM.normal(size=(1, 32, 6, 9)).astype(np.float32)
    whole = OrtLoader(1, optimise=False)
    given = whole.load(parts.parts[0]).run({"x": x})[GIVEN]
    np.testing.assert_array_equal(given, x.transpose(0, 2, 3, 1).astype(activations))
    np.testing.assert_array_equal(whole.load(parts.parts[1]).run({TAKEN: given})["y"], x.astype(activations))


def also_read(model: ModelProto) -> None:
    """What the third convolution takes is read by another operation too."""
    model.graph.node.append(helper.make_node("Abs", ["t1"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 32, "h", "w"]))


def also_given(model: ModelProto) -> None:
    """What the third convolution takes is what the graph gives too."""
    model.graph.output.append(helper.make_tensor_value_info("t1", TensorProto.FLOAT, [1, 32, "h", "w"]))


@pytest.mark.parametrize("edit", [also_read, also_given])
def test_a_row_ends_before_what_others_read(edit: Callable[[ModelProto], object]) -> None:
    parts = cut_convolutions(row_of(edit=edit), np.float16)
    assert parts is not None
    assert [len(row) for row in parts.chains] == [2]
    assert [node.op_type for node in onnx.load_model_from_string(parts.parts[0]).graph.node].count("Conv") == 0
    assert [node.op_type for node in onnx.load_model_from_string(parts.parts[1]).graph.node].count("Conv") == 2


def with_attribute(name: str, value: object) -> Callable[[ModelProto], object]:
    def edit(model: ModelProto) -> None:
        for node in model.graph.node:
            kept = [attribute for attribute in node.attribute if attribute.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return edit


def narrower(model: ModelProto) -> None:
    """All but the first convolution take more channels than there are."""
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "w2", "w3"):
            tensor.CopyFrom(numpy_helper.from_array(np.ones((32, 64, 3, 3), np.float32), tensor.name))


def circular(model: ModelProto) -> None:
    """The first convolution takes what the last one gives."""
    model.graph.node[0].input[0] = "y"
    del model.graph.output[:]


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 24},
        {"edit": with_attribute("pads", [1, 1, 1, 0])},
        {"edit": with_attribute("dilations", [2, 2])},
        {"edit": with_attribute("auto_pad", "SAME_UPPER")},
        {"edit": with_attribute("group", 2)},
        {"edit": narrower},
        {"edit": circular},
    ],
)
def test_what_the_kernels_do_not_know_stays(change: dict[str, Any]) -> None:
    assert cut_convolutions(row_of(**change), np.float16) is None


def test_what_is_no_graph_is_left_for_an_engine_to_refuse() -> None:
    graph = row_of()
    structure = [place for place in range(len(graph)) if place < 200 or place > len(graph) - 400]
    for place in structure:
        for change in (1, 128, 255):
            cut_convolutions(graph[:place] + bytes([graph[place] ^ change]) + graph[place + 1 :], np.float32)
        cut_convolutions(graph[:place], np.float32)
    assert cut_convolutions(b"not a graph", np.float32) is None
    assert cut_convolutions(b"", np.float32) is None
