"""Rows of convolutions in image graphs: all that belongs to one is cut out, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13 as ops

import glc
from glc.engines import Array, _exact_chain, engine_loader, exact_chain, ov_chained
from glc.engines.chained import ChainedEngine
from glc.engines.conv_chain import ConvChain, Kind, available_precisions, pack
from glc.engines.kernel_memory import ActivationMemory, PackedChain
from glc.engines.ov import OvLoader
from glc.engines.ov_chain import cut
from glc.engines.ov_chained import OvChainedLoader
from glc.errors import EngineUnavailable
from glc.runtime.bundle import Bundle
from glc.runtime.default_model import default_bundle

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLC_CACHE", str(tmp_path))


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> OvChainedLoader:
    """The engine on any processor: chains without AMX, the rest in the precision that is everywhere."""
    monkeypatch.setitem(ov_chained._PRECISIONS, "openvino-amx", ("f32",))
    monkeypatch.setattr(ov_chained, "require_kernels", lambda _: None)
    monkeypatch.setattr(ov_chained, "pack", lambda convolutions, _: pack(convolutions, "f16"))
    monkeypatch.setattr(ov_chained, "activations", lambda _: np.float16)
    monkeypatch.setattr(ov_chained, "ConvChain", _plain)
    monkeypatch.setattr(ov_chained, "best_kernel", lambda: "plain")
    return OvChainedLoader("openvino-amx", 2, "f32")


def _plain(packed: PackedChain, _: str, threads: int, memory: ActivationMemory | None) -> ConvChain:
    return ConvChain(packed, "f16", threads, memory, plain=True)


def feeds(graph: str, bundle: Bundle) -> dict[str, Array]:
    channels = bundle.manifest.config.latent_channels
    multiple = 4 * bundle.manifest.config.downsampling
    if graph == "analysis":  # sizes that are padded
        image = RANDOM.integers(0, 256, (1, multiple + 3, 2 * multiple - 5, 3), np.uint8)
        return {"image": image, "q_row": np.ones((1, channels, 1, 1), np.float32)}
    y_hat = RANDOM.normal(size=(1, channels, 4, 8)).round().astype(np.float32)
    return {"y_hat": y_hat, "q_row": np.ones((1, channels, 1, 1), np.float32)}


@pytest.mark.parametrize("graph", ["analysis", "synthesis"])
def test_a_graph_in_three_computes_what_it_computes_whole(
    graph: str, mini_bundle: Path, loader: OvChainedLoader
) -> None:
    bundle = Bundle.open(mini_bundle)
    content = bundle.graph(graph)[1]
    given = feeds(graph, bundle)
    engine, whole = loader.load(content), OvLoader(2).load(content)
    assert isinstance(engine, ChainedEngine)
    assert (engine.inputs, engine.outputs) == (whole.inputs, whole.outputs)
    found, expected = engine.run(given), whole.run(given)
    assert found.keys() == expected.keys()
    if graph == "analysis":
        np.testing.assert_allclose(found["y"], expected["y"], atol=0.01 * float(expected["y"].std()), rtol=0.01)
    else:
        difference = found["image"].astype(int) - expected["image"]
        assert abs(difference).max() <= 2
        assert np.mean(difference != 0) < 0.1


@pytest.mark.parametrize("graph", ["analysis", "synthesis"])
def test_in_float32_it_computes_what_openvino_does(graph: str, mini_bundle: Path) -> None:
    require_avx2()
    bundle = Bundle.open(mini_bundle)
    content, given = bundle.graph(graph)[1], feeds(graph, bundle)
    engine, whole = engine_loader("openvino-avx2", 2).load(content), OvLoader(2, "f32").load(content)
    assert isinstance(engine, ChainedEngine)
    found, expected = engine.run(given), whole.run(given)
    if graph == "analysis":
        np.testing.assert_allclose(found["y"], expected["y"], atol=1e-4 * float(expected["y"].std()), rtol=1e-4)
        np.testing.assert_array_equal(found["z_indices"], expected["z_indices"])
    else:
        difference = found["image"].astype(int) - expected["image"]
        assert abs(difference).max() <= 1
        assert np.mean(difference != 0) < 0.01


def test_a_codec_in_float32_on_avx2_reads_and_writes_what_others_do(mini_bundle: Path, codec: glc.Codec) -> None:
    require_avx2()
    picture = RANDOM.integers(0, 256, (40, 56, 3), np.uint8)
    with glc.Codec.open(mini_bundle, engine="openvino-avx2", threads=2) as chained:
        assert chained.engine.startswith("openvino-avx2 ")
        assert " f32, " in chained.engine
        data = chained.encode(picture)
        np.testing.assert_array_equal(chained.decode_latent(data), codec.decode_latent(data))
        difference = chained.decode(data).astype(int) - codec.decode(data)
    assert abs(difference).max() <= 1


def test_an_engine_computes_in_its_own_precisions_alone() -> None:
    with pytest.raises(EngineUnavailable, match="openvino-avx2 computes in f32, not in f16: choose openvino"):
        engine_loader("openvino-avx2", 2, "f16")
    with pytest.raises(EngineUnavailable, match="openvino-amx computes in f16 or bf16, not in f32: choose openvino"):
        engine_loader("openvino-amx", 2, "f32")


def require_avx2() -> None:
    if "f32" not in available_precisions():
        pytest.skip("this processor has no AVX2")


def test_nothing_of_an_image_graph_but_attention_and_transform_coding_is_left(mini_bundle: Path) -> None:
    bundle = Bundle.open(mini_bundle)
    halvings = bundle.manifest.config.downsampling.bit_length() - 1
    for graph, ends in (("analysis", Kind.FIRST), ("synthesis", Kind.UP)):
        parts = cut(openvino.Core().read_model(bundle.graph(graph)[1]), np.float16)
        assert parts is not None
        longest = [convolution.kind for convolution in max(parts.chains, key=len)]
        assert longest[0] == ends
        assert longest.count(Kind.DOWN if graph == "analysis" else Kind.UP) == halvings
        assert all(cut(model, np.float16) is None for model in parts.models)


@pytest.mark.parametrize(("avx512", "in_rows"), [(False, True), (True, False)])
def test_exact_graphs_are_rows_of_integers_on_avx2_but_not_where_float32_is_as_fast(
    avx512: bool, in_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_avx2()
    monkeypatch.setattr(_exact_chain, "kernels", lambda: ["plain", "avx2"])
    monkeypatch.setattr(exact_chain, "has_avx512", lambda: avx512)
    content = Bundle.open(default_bundle()).graph("spatial_prior_1")[1]
    assert isinstance(engine_loader("openvino-avx2", 2).load(content, exact=True), ChainedEngine) == in_rows


@pytest.mark.parametrize(("precision", "in_rows"), [("f32", True), ("f16", False)])
def test_exact_graphs_are_rows_of_integers_where_openvino_has_no_float16_for_them(
    precision: str, in_rows: bool, loader: OvChainedLoader
) -> None:
    loader.exact_precision = precision
    content = Bundle.open(default_bundle()).graph("spatial_prior_1")[1]
    assert isinstance(loader.load(content, exact=True), ChainedEngine) == in_rows
    recalled = loader.recall(hashlib.sha256(content).hexdigest(), exact=True)
    assert isinstance(recalled, ChainedEngine) == in_rows


def test_weights_that_were_packed_for_another_kernel_are_not_recalled(
    loader: OvChainedLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader.exact_precision = "f32"
    content = Bundle.open(default_bundle()).graph("spatial_prior_1")[1]
    sha256 = hashlib.sha256(content).hexdigest()
    loader.load(content, exact=True)
    assert loader.recall(sha256, exact=True) is not None
    monkeypatch.setattr(ov_chained, "best_kernel", lambda: "another")
    assert loader.recall(sha256, exact=True) is None


def test_a_second_process_needs_no_graph(
    mini_bundle: Path, loader: OvChainedLoader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.open(mini_bundle)
    content = bundle.graph("synthesis")[1]
    sha256, given = hashlib.sha256(content).hexdigest(), feeds("synthesis", bundle)
    assert loader.recall(sha256, exact=False) is None
    made = loader.load(content)
    recalled = loader.recall(sha256, exact=False)
    assert recalled is not None
    assert (recalled.inputs, recalled.outputs) == (made.inputs, made.outputs)
    np.testing.assert_array_equal(recalled.run(given)["image"], made.run(given)["image"])
    for path in tmp_path.iterdir():
        altered = bytearray(path.read_bytes())
        altered[len(altered) // 2] ^= 1
        path.write_bytes(altered)
    assert loader.recall(sha256, exact=False) is None
    assert "anew" in caplog.text


def test_a_codec_on_it_reads_and_writes_what_others_do(
    mini_bundle: Path, loader: OvChainedLoader, codec: glc.Codec
) -> None:
    image = RANDOM.integers(0, 256, (50, 70, 3), np.uint8)
    with glc.Codec(Bundle.open(mini_bundle), loader) as ours:
        data = ours.encode(image)
        np.testing.assert_array_equal(codec.decode_latent(data), ours.decode_latent(data))
        difference = ours.decode(data).astype(int) - codec.decode(data)
        assert np.sqrt(np.square(difference).mean()) < 1


def quantised_block(*, zero: int = 0, signed: bool = True, rounded: bool = True, channels: int = 64) -> onnx.ModelProto:
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


@pytest.mark.parametrize(("zero", "signed"), [(0, True), (-100, True), (14, False)])
def test_convolutions_of_integers_take_them(zero: int, signed: bool) -> None:
    content = quantised_block(zero=zero, signed=signed).SerializeToString()
    parts = cut(openvino.Core().read_model(content), np.float16, eight_bits=True)
    assert parts is not None
    (row,) = parts.chains
    assert [convolution.kind for convolution in row] == [Kind.DENSE] * 2
    for convolution in row:
        assert convolution.eight_bits is not None
        # No code stands for what a swish never gives.
        assert convolution.eight_bits.least == pytest.approx(-0.2785, abs=1e-3)
        assert convolution.eight_bits.largest == pytest.approx(0.1 * ((127 if signed else 255) - zero))


def test_integers_are_left_where_the_kernels_have_none() -> None:
    assert cut(openvino.Core().read_model(quantised_block().SerializeToString()), np.float16) is None


def test_codes_that_no_swish_needs_are_not_lost() -> None:
    x = RANDOM.normal(size=(12, 20, 64)).astype(np.float32)
    parts = cut(openvino.Core().read_model(quantised_block().SerializeToString()), np.float16, eight_bits=True)
    assert parts is not None
    ours = ConvChain(pack(parts.chains[0], "f16"), "f16", 1, plain=True).run(x).astype(np.float32)
    theirs, floats = (computed(block, x) for block in (quantised_block(), quantised_block(rounded=False)))
    error, their_error = (float(np.square(found - floats).mean()) for found in (ours, theirs))
    # Errors of steps that are 0.42 times as large: 0.18 times their squares, and what float16 adds.
    assert 0 < error < 0.3 * their_error < 0.01 * float(floats.var())


def computed(block: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What OpenVINO makes of (H, W, C), in the same layout."""
    core = openvino.Core()
    model = core.compile_model(core.read_model(block.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: NDArray[np.float32] = model(np.ascontiguousarray(x.transpose(2, 0, 1)[None]))[0][0].transpose(1, 2, 0)
    return found


def row_of(*, also_read: bool = False, channels: int = 32, skewed: bool = False) -> openvino.Model:
    """Three convolutions in a row; perhaps with another reader of what the second one takes."""
    x = ops.parameter(openvino.PartialShape([1, channels, -1, -1]), np.float32, "x")
    x.output(0).set_names({"x"})
    value, between = x, None
    for _ in range(3):
        weights = RANDOM.normal(size=(channels, channels, 3, 3)).astype(np.float32)
        pads = [1, 1], [1, 0] if skewed else [1, 1]
        convolved = ops.convolution(value, ops.constant(weights), [1, 1], *pads, [1, 1])
        value = ops.add(convolved, ops.constant(RANDOM.normal(size=(1, channels, 1, 1)).astype(np.float32)))
        between = between or value
    results = [value, ops.abs(between)] if also_read else [value]
    return openvino.Model([ops.result(each) for each in results], [x], "row")


def test_a_plain_row_is_cut_out_whole() -> None:
    parts = cut(row_of(), np.float16)
    assert parts is not None
    (row,) = parts.chains
    assert [convolution.kind for convolution in row] == [Kind.DENSE] * 3
    assert not [node for node in parts.models[1].get_ordered_ops() if node.get_type_name() == "Convolution"]


def test_a_row_ends_before_what_others_read() -> None:
    parts = cut(row_of(also_read=True), np.float16)
    assert parts is None or all(len(row) < 3 for row in parts.chains)


@pytest.mark.parametrize("change", [{"channels": 24}, {"skewed": True}])
def test_what_the_kernels_do_not_know_stays(change: dict[str, int]) -> None:
    assert cut(row_of(**change), np.float16) is None  # type: ignore[arg-type]
