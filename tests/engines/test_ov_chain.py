"""Rows of convolutions in image graphs: all that belongs to one is cut out, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

import glc
from glc.engines import Array, ov_amx
from glc.engines.conv_chain import ActivationMemory, ConvChain, Kind, PackedChain, pack
from glc.engines.ov import OvLoader
from glc.engines.ov_amx import OvAmxEngine, OvAmxLoader
from glc.engines.ov_chain import cut
from glc.runtime.bundle import Bundle

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLC_CACHE", str(tmp_path))


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> OvAmxLoader:
    """The engine on any processor: chains without AMX, the rest in the precision that is everywhere."""
    monkeypatch.setattr(ov_amx, "require_kernels", lambda _: None)
    monkeypatch.setattr(ov_amx, "pack", lambda convolutions, _: pack(convolutions, "f16"))
    monkeypatch.setattr(ov_amx, "ConvChain", _plain)
    return OvAmxLoader(2, "f32")


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
def test_a_graph_in_three_computes_what_it_computes_whole(graph: str, mini_bundle: Path, loader: OvAmxLoader) -> None:
    bundle = Bundle.open(mini_bundle)
    content = bundle.graph(graph)[1]
    given = feeds(graph, bundle)
    engine, whole = loader.load(content), OvLoader(2).load(content)
    assert isinstance(engine, OvAmxEngine)
    assert (engine.inputs, engine.outputs) == (whole.inputs, whole.outputs)
    found, expected = engine.run(given), whole.run(given)
    assert found.keys() == expected.keys()
    if graph == "analysis":
        np.testing.assert_allclose(found["y"], expected["y"], atol=0.01 * float(expected["y"].std()), rtol=0.01)
    else:
        difference = found["image"].astype(int) - expected["image"]
        assert abs(difference).max() <= 2
        assert np.mean(difference != 0) < 0.1


def test_nothing_of_an_image_graph_but_attention_and_transform_coding_is_left(mini_bundle: Path) -> None:
    bundle = Bundle.open(mini_bundle)
    halvings = bundle.manifest.config.downsampling.bit_length() - 1
    for graph, ends in (("analysis", Kind.FIRST), ("synthesis", Kind.UP)):
        parts = cut(openvino.Core().read_model(bundle.graph(graph)[1]))
        assert parts is not None
        kinds = [convolution.kind for convolution in parts.convolutions]
        assert kinds[0] == ends
        assert kinds.count(Kind.DOWN if graph == "analysis" else Kind.UP) == halvings


def test_exact_graphs_are_openvinos(mini_bundle: Path, loader: OvAmxLoader) -> None:
    prior = loader.load(Bundle.open(mini_bundle).graph("spatial_prior_1")[1], exact=True)
    assert not isinstance(prior, OvAmxEngine)


def test_a_second_process_needs_no_graph(
    mini_bundle: Path, loader: OvAmxLoader, tmp_path: Path, caplog: pytest.LogCaptureFixture
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
    mini_bundle: Path, loader: OvAmxLoader, codec: glc.Codec
) -> None:
    image = RANDOM.integers(0, 256, (50, 70, 3), np.uint8)
    with glc.Codec(Bundle.open(mini_bundle), loader) as ours:
        data = ours.encode(image)
        np.testing.assert_array_equal(codec.decode_latent(data), ours.decode_latent(data))
        difference = ours.decode(data).astype(int) - codec.decode(data)
        assert np.sqrt(np.square(difference).mean()) < 1


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
    parts = cut(row_of())
    assert parts is not None
    assert [convolution.kind for convolution in parts.convolutions] == [Kind.DENSE] * 3
    assert not [node for node in parts.behind.get_ordered_ops() if node.get_type_name() == "Convolution"]


def test_a_row_ends_before_what_others_read() -> None:
    parts = cut(row_of(also_read=True))
    assert parts is None or len(parts.convolutions) < 3


@pytest.mark.parametrize("change", [{"channels": 24}, {"skewed": True}])
def test_what_the_kernels_do_not_know_stays(change: dict[str, int]) -> None:
    assert cut(row_of(**change)) is None  # type: ignore[arg-type]
