"""The OpenVINO engine: the same codec on another SDK."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest
from tests.conftest import load_image

import glc
from glc.engines import engine_loader, ov
from glc.engines.ov import OvEngine
from glc.engines.ov_precision import narrow_exact
from glc.engines.processor import available_threads
from glc.errors import EngineFailed, EngineRejectedGraph, EngineUnavailable

GOLDEN = Path(__file__).parent.parent / "golden" / "tiny.glcb"
PHOTO = load_image("coffee_200x300.png")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "openvino"
    monkeypatch.setenv("GLC_CACHE", str(folder))
    return folder


@pytest.mark.parametrize("quality", [0, 1.5, 3])
@pytest.mark.parametrize("size", [(200, 300), (1, 1), (37, 129)], ids=str)
def test_streams_decode_on_the_other_engine(
    quality: float, size: tuple[int, int], codec: glc.Codec, mini_bundle: Path
) -> None:
    image = PHOTO[: size[0], : size[1]]
    with glc.Codec.open(mini_bundle, engine="openvino") as other:
        for encoder, decoder in ((codec, other), (other, codec)):
            data = encoder.encode(image, quality)
            np.testing.assert_array_equal(decoder.decode_latent(data), encoder.decode_latent(data))
            assert np.mean(np.abs(decoder.decode(data).astype(int) - encoder.decode(data)) > 1) < 1e-3


def test_threads_share_an_engine(mini_bundle: Path) -> None:
    with glc.Codec.open(mini_bundle, engine="openvino") as codec, ThreadPoolExecutor(4) as pool:
        images = [PHOTO[: 40 + 7 * i, : 90 - 5 * i] for i in range(8)]
        alone = [codec.encode(image, 1) for image in images]
        assert list(pool.map(lambda image: codec.encode(image, 1), images)) == alone


def test_a_precision_that_the_processor_lacks_is_refused() -> None:
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision, capability in (("f16", "FP16"), ("bf16", "BF16")):
        if capability not in capabilities:
            with pytest.raises(EngineUnavailable, match=f"{precision}.*choose one of f32"):
                engine_loader("openvino", precision=precision)
        else:
            assert precision in engine_loader("openvino", precision=precision).fingerprint


def test_exact_graphs_are_exact_whatever_is_asked_for(codec: glc.Codec, mini_bundle: Path) -> None:
    """And image graphs are not the same, also where the other precision of the same graph is in the cache already."""
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    images = {}
    for precision, capability in (("f32", "FP32"), ("f16", "FP16"), ("bf16", "BF16")):
        if capability in capabilities:
            with glc.Codec.open(mini_bundle, engine="openvino", precision=precision) as other:
                data = codec.encode(PHOTO, 2)
                np.testing.assert_array_equal(other.decode_latent(data), codec.decode_latent(data))
                images[precision] = other.decode(data)
    for precision in images.keys() - {"f32"}:
        assert (images[precision] != images["f32"]).any()


@pytest.fixture
def narrowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each exact graph became one of float16; here every processor passes for one with such matrix units."""
    if "FP16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("OpenVINO does not compute in f16 on this processor")
    results: list[bool] = []
    monkeypatch.setattr(ov, "has_float16_matrices", lambda: True)
    monkeypatch.setattr(ov, "narrow_exact", lambda model: results.append(narrow_exact(model)))
    # Files are told apart by the processor, not by what a test says of it.
    monkeypatch.setenv("GLC_CACHE", str(tmp_path))
    return results


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_exact_graphs_in_float16_give_the_same_symbols(
    precision: str, narrowed: list[bool], codec: glc.Codec, mini_bundle: Path
) -> None:
    with glc.Codec.open(mini_bundle, engine="openvino", precision=precision) as other:
        for size, quality in (((200, 300), 3), ((1, 1), 0), ((37, 129), 1.5)):
            image = PHOTO[: size[0], : size[1]]
            for encoder, decoder in ((codec, other), (other, codec)):
                data = encoder.encode(image, quality)
                np.testing.assert_array_equal(decoder.decode_latent(data), encoder.decode_latent(data))
    assert narrowed == [True] * 4


def test_a_bundle_that_was_made_earlier_gives_the_same_symbols(narrowed: list[bool]) -> None:
    with (
        glc.Codec.open(GOLDEN, engine="onnxruntime") as codec,
        glc.Codec.open(GOLDEN, engine="openvino", precision="f16") as other,
    ):
        data = codec.encode(PHOTO, 3)
        np.testing.assert_array_equal(other.decode_latent(data), codec.decode_latent(data))
    assert narrowed[1:] == [False] * 3


def test_onnxruntime_refuses_other_precisions() -> None:
    with pytest.raises(EngineUnavailable, match="openvino"):
        engine_loader("onnxruntime", precision="f16")
    with pytest.raises(ValueError, match="f8"):
        engine_loader("openvino", precision="f8")


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(EngineRejectedGraph, match="openvino"):
        engine_loader("openvino").load(b"no graph")


def test_a_closed_engine_says_so(mini_bundle: Path) -> None:
    _, content = glc.Bundle.open(mini_bundle).graph("spatial_prior_1")
    engine = engine_loader("openvino").load(content, exact=True)
    feeds = {spec.name: np.zeros((1, 32, 4, 4), np.float32) for spec in engine.inputs}
    assert engine.run(feeds)["means"].shape == (1, 32, 2, 2)
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        engine.run(feeds)


def test_runs_of_few_threads_may_go_on_at_once(mini_bundle: Path) -> None:
    """As many as there are processors for; by itself OpenVINO would do one after the other."""
    content = glc.Bundle.open(mini_bundle).graph("hyper_prior")[1]
    for threads in (1, available_threads()):
        engine = engine_loader("openvino", threads).load(content, exact=True)
        assert isinstance(engine, OvEngine)
        assert engine.streams == min(available_threads() // threads, 8)
        engine.close()
