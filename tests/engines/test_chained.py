"""Graphs in parts, with chains on our own kernels between them, on each engine that has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.engines.image_feeds import image_feeds

import glc
from glc.engines import engine_loader, ort
from glc.engines.chained import ChainedEngine
from glc.engines.conv_chain import available_precisions
from glc.engines.ort import OrtEngine, OrtLoader
from glc.runtime.bundle import Bundle

ENGINES = ("openvino-avx2", "onnxruntime")


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


def test_a_codec_without_memory_of_its_own_gives_the_same_bytes(mini_bundle: Path, codec: glc.Codec) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    data = codec.encode(picture)
    with glc.Codec(Bundle.open(mini_bundle), OrtLoader(2).sparing()) as sparing:
        assert sparing.encode(picture) == data
        np.testing.assert_array_equal(sparing.decode(data), codec.decode(data))


def test_onnxruntime_says_whether_its_convolutions_are_ours(mini_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = Bundle.open(mini_bundle).graph("synthesis")[1]
    assert " float32 with convolutions on AVX2, 2 threads, " in OrtLoader(2).fingerprint
    monkeypatch.setattr(ort, "_has_own_convolutions", lambda: False)
    assert " float32, 2 threads, " in OrtLoader(2).fingerprint
    assert isinstance(OrtLoader(2).load(content), OrtEngine)
