"""OpenVINO with our own kernels: graphs in parts compute what they compute whole, and are kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from tests.engines.image_feeds import image_feeds

import glc
from glc.engines import _exact_chain, engine_loader, exact_chain, ov_chained
from glc.engines.chained import ChainedEngine
from glc.engines.conv_chain import ConvChain, available_precisions, pack
from glc.engines.kernel_memory import ActivationMemory, PackedChain
from glc.engines.ov import OvLoader
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
    return ConvChain(packed, "f16", threads, memory, family="plain")


@pytest.mark.parametrize("graph", ["analysis", "synthesis"])
def test_a_graph_in_three_computes_what_it_computes_whole(
    graph: str, mini_bundle: Path, loader: OvChainedLoader
) -> None:
    bundle = Bundle.open(mini_bundle)
    content = bundle.graph(graph)[1]
    given = image_feeds(graph, bundle)
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


def test_an_engine_computes_in_its_own_precisions_alone() -> None:
    with pytest.raises(EngineUnavailable, match="openvino-avx2 computes in f32, not in f16: choose openvino"):
        engine_loader("openvino-avx2", 2, "f16")
    with pytest.raises(EngineUnavailable, match="openvino-amx computes in f16 or bf16, not in f32: choose openvino"):
        engine_loader("openvino-amx", 2, "f32")


def require_avx2() -> None:
    if "f32" not in available_precisions():
        pytest.skip("this processor has no AVX2")


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
    sha256, given = hashlib.sha256(content).hexdigest(), image_feeds("synthesis", bundle)
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
