"""ONNX Runtime's path for GPUs, run on the memory that every machine has: bound tensors, steps as graphs, providers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tests.conftest import load_image

import glc
from glc.engines.ort import DEVICE_PROVIDERS, OrtDeviceLoader, OrtEngine, provider_settings
from glc.errors import EngineFailed, EngineUnavailable

IMAGE = load_image("coffee_200x300.png")[:70, :100]


def on_cpu() -> OrtDeviceLoader:
    return OrtDeviceLoader("onnxruntime-cuda", provider="CPUExecutionProvider", device="cpu")


def test_bound_tensors_give_the_streams_and_images_of_the_cpu(mini_bundle: Path, codec: glc.Codec) -> None:
    times: dict[str, float] = {}
    with glc.Codec(glc.Bundle.open(mini_bundle), on_cpu(), on_stage=times.__setitem__) as bound:
        for quality in (0, 1.5, 3):
            data = bound.encode(IMAGE, quality)
            assert data == codec.encode(IMAGE, quality)
            assert (bound.decode(data) == codec.decode(data)).all()
            out = np.zeros_like(IMAGE)
            assert bound.decode(data, out=out) is out
            assert (out == codec.decode(data)).all()
    assert {"split", "quantise", "assemble_0", "dequantise", "entropy_coding"} <= times.keys()


def test_a_closed_engine_says_so(mini_bundle: Path) -> None:
    codec = glc.Codec(glc.Bundle.open(mini_bundle), on_cpu())
    codec.encode(IMAGE)
    codec.close()
    with pytest.raises(EngineFailed, match="closed"):
        codec.encode(IMAGE)


@pytest.mark.parametrize("name", DEVICE_PROVIDERS)
def test_a_missing_provider_is_named_with_what_installs_it(name: str) -> None:
    if DEVICE_PROVIDERS[name] in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the provider")
    with pytest.raises(EngineUnavailable, match=r"needs .*ExecutionProvider.*glc-deploy\[onnxruntime-gpu\]"):
        glc.Codec.open(engine=name)


def test_another_provider_than_was_asked_for_is_refused(mini_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime warns and goes on with the CPU where a provider cannot start; we do not."""
    loader = on_cpu()
    graph = glc.Bundle.open(mini_bundle).graph("dequantise")[1]
    monkeypatch.setattr(OrtEngine, "providers", ["AzureExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(EngineUnavailable, match="would take AzureExecutionProvider"):
        loader.load(graph)


def test_exact_graphs_never_take_winograd_or_float16() -> None:
    assert provider_settings("CUDAExecutionProvider", "f32", exact=True)["cudnn_conv_algo_search"] == "DEFAULT"
    assert provider_settings("CUDAExecutionProvider", "f32", exact=False)["use_tf32"] == "0"
    assert provider_settings("TensorrtExecutionProvider", "f16", exact=False) == {"trt_fp16_enable": "True"}
    assert provider_settings("TensorrtExecutionProvider", "f32", exact=True) == {"trt_fp16_enable": "False"}


def test_half_precision_needs_the_tensorrt_provider() -> None:
    with pytest.raises(EngineUnavailable, match="choose tensorrt"):
        OrtDeviceLoader("onnxruntime-cuda", "f16")
