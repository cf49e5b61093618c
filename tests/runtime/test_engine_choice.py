"""Which engine runs where none is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.conftest import SMALL

import glc
from glc.engines import CPU_ENGINES, Array, Engine, EngineLoader, HostLoader, engine_loader
from glc.errors import EngineNotExact, EngineUnavailable
from glc.runtime import engine_choice


@pytest.fixture(autouse=True)
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLC_ENGINE")


class _Inexact(HostLoader):
    """OpenVINO's place, with an engine that gets one bit of exact graphs wrong."""

    name, fingerprint = "openvino", "openvino, but one bit"

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        engine = engine_loader("onnxruntime", 1).load(graph)
        if not exact:
            return engine
        original = engine.run

        def run(feeds: dict[str, Array]) -> dict[str, Array]:
            results = original(feeds)
            results["means"] = np.nextafter(results["means"], np.float32(np.inf))
            return results

        engine.run = run  # type: ignore[method-assign, assignment]
        return engine


Choice = Callable[[str, int | None, str | None], EngineLoader]


def only(monkeypatch: pytest.MonkeyPatch, here: dict[tuple[str, str | None], EngineLoader]) -> None:
    """Let these engines be here, by name and precision, and no other."""

    def load(name: str, threads: int | None, precision: str | None) -> EngineLoader:
        if (name, precision) not in here:
            raise EngineUnavailable(f"{name} at {precision} is not here")
        return here[name, precision]

    monkeypatch.setattr(engine_choice, "engine_loader", load)


def test_the_fastest_engine_that_is_here_is_taken_and_named(
    mini_bundle: Path, monkeypatch: pytest.MonkeyPatch, codec: glc.Codec
) -> None:
    ours = engine_loader("onnxruntime", 1)
    faster = engine_loader("onnxruntime", 2)
    only(monkeypatch, {("onnxruntime", "f32"): ours, ("openvino", "f32"): faster})
    with glc.Codec.open(mini_bundle) as opened:
        assert opened.engine == faster.fingerprint
        assert opened.encode(SMALL) == codec.encode(SMALL)


@pytest.mark.parametrize("matrices", [True, False])
def test_float16_on_a_processor_is_taken_where_a_matrix_unit_computes_it(
    matrices: bool, mini_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, single = engine_loader("onnxruntime", 2), engine_loader("onnxruntime", 1)
    only(monkeypatch, {("openvino", "f16"): half, ("openvino", "f32"): single})
    monkeypatch.setattr(engine_choice, "has_float16_matrices", lambda: matrices)
    with glc.Codec.open(mini_bundle) as opened:
        assert opened.engine == (half if matrices else single).fingerprint
    with glc.Codec.open(mini_bundle, precision="f16") as opened:
        assert opened.engine == half.fingerprint


def test_matrix_units_are_preferred_in_the_more_exact_precision_that_they_have(
    mini_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, brain = engine_loader("onnxruntime", 2), engine_loader("onnxruntime", 1)
    here: dict[tuple[str, str | None], EngineLoader] = {
        ("openvino", "f32"): _Inexact(),
        ("openvino-amx", "bf16"): brain,
    }
    only(monkeypatch, here)
    with glc.Codec.open(mini_bundle) as opened:
        assert opened.engine == brain.fingerprint
    only(monkeypatch, {**here, ("openvino-amx", "f16"): half})
    with glc.Codec.open(mini_bundle) as opened:
        assert opened.engine == half.fingerprint


@pytest.mark.parametrize("engine", ["openvino-avx2", "onnxruntime-avx2"])
@pytest.mark.parametrize("precision", [None, "f32"])
def test_our_kernels_in_float32_are_preferred_to_openvinos(
    precision: str | None, engine: str, mini_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = engine_loader("onnxruntime", 2), engine_loader("onnxruntime", 1)
    only(monkeypatch, {("openvino", "f32"): theirs, (engine, "f32"): ours})
    with glc.Codec.open(mini_bundle, precision=precision) as opened:
        assert opened.engine == ours.fingerprint


def test_an_engine_that_is_not_exact_is_passed_over(
    mini_bundle: Path, monkeypatch: pytest.MonkeyPatch, codec: glc.Codec
) -> None:
    ours = engine_loader("onnxruntime", 1)
    only(monkeypatch, {("openvino", "f32"): _Inexact(), ("onnxruntime", "f32"): ours})
    with glc.Codec.open(mini_bundle) as opened:
        assert opened.engine == ours.fingerprint
        assert opened.encode(SMALL) == codec.encode(SMALL)
    only(monkeypatch, {("openvino", "f32"): _Inexact()})
    with pytest.raises(EngineUnavailable, match="means differ"):
        glc.Codec.open(mini_bundle)


def test_an_engine_that_was_named_is_not_replaced(mini_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, {("openvino", None): _Inexact(), ("onnxruntime", "f32"): engine_loader("onnxruntime", 1)})
    with glc.Codec.open(mini_bundle, engine="openvino") as opened, pytest.raises(EngineNotExact):
        opened.encode(SMALL)


def test_where_no_engine_is_here_every_reason_is_told(mini_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, {})
    with pytest.raises(EngineUnavailable, match=r"tensorrt at f16 is not here; .*; onnxruntime at f32 is not here"):
        glc.Codec.open(mini_bundle)


def test_a_precision_that_is_asked_for_is_asked_of_every_engine(
    mini_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = engine_loader("onnxruntime", 2)
    only(monkeypatch, {("onnxruntime", "f32"): engine_loader("onnxruntime", 1), ("openvino", "bf16"): half})
    with glc.Codec.open(mini_bundle, precision="bf16") as opened:
        assert opened.engine == half.fingerprint


def test_float_streams_are_made_by_the_engine_that_most_machines_have(
    mini_float_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = engine_loader("onnxruntime", 1)
    only(monkeypatch, {("openvino", "f32"): _Inexact(), ("onnxruntime", "f32"): ours})
    with glc.Codec.open(mini_float_bundle) as opened:
        assert opened.engine == ours.fingerprint


def test_the_environment_names_the_engine_where_the_caller_does_not(
    mini_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLC_ENGINE", "abacus")
    with pytest.raises(EngineUnavailable, match="'abacus'"):
        glc.Codec.open(mini_bundle)
    with glc.Codec.open(mini_bundle, engine="onnxruntime") as opened:
        assert opened.engine.startswith("onnxruntime")


def test_the_choice_among_real_engines_decodes_what_the_reference_engine_encoded(
    mini_bundle: Path, codec: glc.Codec
) -> None:
    with glc.Codec.open(mini_bundle) as opened:
        assert opened.engine.partition(" ")[0] in CPU_ENGINES
        data = codec.encode(SMALL)
        assert np.array_equal(opened.decode_latent(data), codec.decode_latent(data))
