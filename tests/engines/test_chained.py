"""Graphs in parts, with chains on our own kernels between them, on each engine that has them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.engines.image_feeds import image_feeds

import glc
from glc.engines import engine_loader
from glc.engines.chained import ChainedEngine
from glc.engines.conv_chain import FORM, available_precisions
from glc.engines.ort import OrtEngine, OrtLoader
from glc.engines.protocol import HostLoader
from glc.errors import EngineUnavailable
from glc.runtime.bundle import Bundle

ENGINES = ("openvino-avx2", "onnxruntime-avx2")


@pytest.fixture(autouse=True)
def on_avx2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "f32" not in available_precisions():
        pytest.skip("this processor has no AVX2")
    monkeypatch.setenv("GLC_CACHE", str(tmp_path))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("graph", ["analysis", "synthesis"])
def test_in_float32_parts_compute_what_the_whole_does(graph: str, engine: str, mini_bundle: Path) -> None:
    bundle = Bundle.open(mini_bundle)
    content, given = bundle.graph(graph)[1], image_feeds(graph, bundle)
    chained, whole = engine_loader(engine, 2).load(content), OrtLoader(2, optimise=False).load(content)
    assert isinstance(chained, ChainedEngine)
    assert isinstance(whole, OrtEngine)
    assert (set(chained.inputs), chained.outputs) == (set(whole.inputs), whole.outputs)
    found, expected = chained.run(given), whole.run(given)
    if graph == "analysis":
        np.testing.assert_allclose(found["y"], expected["y"], atol=1e-4 * float(expected["y"].std()), rtol=1e-4)
        np.testing.assert_array_equal(found["z_indices"], expected["z_indices"])
    else:
        difference = found["image"].astype(int) - expected["image"]
        assert abs(difference).max() <= 1
        assert np.mean(difference != 0) < 0.01


@pytest.mark.parametrize("sparing", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_codec_reads_and_writes_what_others_do(
    engine: str, sparing: bool, mini_bundle: Path, codec: glc.Codec
) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    loader = engine_loader(engine, 2)
    assert isinstance(loader, HostLoader)
    with glc.Codec(Bundle.open(mini_bundle), loader.sparing() if sparing else loader) as chained:
        assert re.match(rf"{engine} \S+ (f|float)32, 2 threads, ", chained.engine)
        data = chained.encode(picture)
        np.testing.assert_array_equal(chained.decode_latent(data), codec.decode_latent(data))
        difference = chained.decode(data).astype(int) - codec.decode(data)
    assert abs(difference).max() <= 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_fingerprint_tells_the_form_of_the_kernels(engine: str) -> None:
    assert engine_loader(engine, 2).fingerprint.endswith(f", {FORM}")
    assert FORM not in engine_loader(engine.removesuffix("-avx2"), 2).fingerprint


def test_onnxruntime_alone_computes_image_graphs_whole(mini_bundle: Path) -> None:
    content = Bundle.open(mini_bundle).graph("synthesis")[1]
    assert isinstance(engine_loader("onnxruntime", 2).load(content), OrtEngine)


def test_streams_of_float_arithmetic_have_no_code_for_it(mini_float_bundle: Path) -> None:
    with pytest.raises(EngineUnavailable, match="no code for engine 'onnxruntime-avx2'"):
        glc.Codec.open(mini_float_bundle, engine="onnxruntime-avx2")


def test_it_computes_in_float32_alone() -> None:
    with pytest.raises(EngineUnavailable, match="engine onnxruntime-avx2 computes in f32 only, not in f16"):
        engine_loader("onnxruntime-avx2", 2, "f16")
