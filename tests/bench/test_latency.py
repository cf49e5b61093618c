"""Rows of the latency table: drawn rates, torch beside the engines, what is missing, what is quoted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config
from tests.conftest import load_image

import glc
from glc.bench import latency
from glc.bench.contenders import Contender, Missing, Turn, photograph
from glc.bench.drawn import DrawnLoader, draw_part, level_probabilities
from glc.bench.first_image import FirstImage
from glc.bench.latency import AGAIN, SETTINGS, Config, LatencyRow, measure_table
from glc.bench.output import Style
from glc.bench.rate import ideal_bits
from glc.bench.table import latency_table
from glc.bench.torch_engine import MODES, exact_reference, open_published, published
from glc.engines import engine_loader
from glc.errors import CorruptBitstream, EngineFailed, ModelMismatch
from glc.export import GlcModel, reference, synthetic_model
from glc.export.synthetic import MINI
from glc.runtime.bitstream import read_stream
from glc.runtime.bundle import Bundle
from glc.runtime.entropy import PayloadDecoder, SymbolModels
from glc.runtime.spatial_walk import PARTS

IMAGE = load_image("coffee_200x300.png")[:130, :97]


@pytest.mark.parametrize("bits", [0.01, 0.03, 0.5, 2.0])
def test_drawn_symbols_cost_what_was_asked(mini_bundle: Path, bits: float) -> None:
    table = Bundle.open(mini_bundle).tables().scales
    indices, symbols = draw_part(table, level_probabilities(table, bits), (64, 40, 40), seed=1)
    assert ideal_bits(symbols.astype(np.int16), indices, table) / symbols.size == pytest.approx(bits, rel=0.15)


def test_rates_beyond_the_table_are_refused(mini_bundle: Path) -> None:
    with pytest.raises(ValueError, match=r"costs 9\.0000 bits a symbol"):
        level_probabilities(Bundle.open(mini_bundle).tables().scales, 9.0)


def test_drawn_streams_decode_to_what_was_drawn(mini_bundle: Path) -> None:
    bundle = Bundle.open(mini_bundle)
    table = bundle.tables().scales
    loader = DrawnLoader(engine_loader("onnxruntime", 1), table, 0.2)
    with glc.Codec(bundle, loader) as codec:
        data = codec.encode(IMAGE)
        latent = codec.decode_latent(data)
    indices, symbols = loader.part((1, 32, *(size // 2 for size in latent.shape[1:])))
    assert np.count_nonzero(symbols)
    decoder = PayloadDecoder(SymbolModels(table), read_stream(data)[1])
    decoder.get_indices((latent.shape[1] // 4, latent.shape[2] // 4), bundle.manifest.config.codebook_entries)
    for _ in range(PARTS):
        assert decoder.get_part(indices[0]).tolist() == symbols[0].tolist()


def test_torch_behind_the_protocol_codes_as_the_published_model(mini_bundle: Path, mini_model: GlcModel) -> None:
    bundle = open_published(mini_bundle)
    with glc.Codec(bundle, published(mini_model, bundle, "float32")) as codec:
        found = codec.decode_latent(codec.encode(IMAGE, 2))
    expected = reference(mini_model, IMAGE, 2).y_hat
    assert (np.abs(found - expected) < 1e-3).mean() > 0.999


def test_the_exact_reference_reads_streams_of_an_engine(mini_bundle: Path, mini_model: GlcModel) -> None:
    bundle = Bundle.open(mini_bundle)
    with glc.Codec(bundle, engine_loader("onnxruntime", 1)) as ours:
        data = ours.encode(IMAGE, 1)
        with glc.Codec(bundle, exact_reference(synthetic_model(MINI), bundle)) as theirs:
            np.testing.assert_array_equal(ours.decode_latent(data), theirs.decode_latent(data))


def test_other_weights_are_refused(mini_bundle: Path) -> None:
    bundle = open_published(mini_bundle)
    with pytest.raises(ModelMismatch, match="was not exported from this model"):
        published(synthetic_model(MINI, seed=1), bundle, "float32")
    with pytest.raises(ValueError, match="unknown mode 'int8'"):
        published(synthetic_model(MINI), bundle, "int8")


@pytest.mark.slow
def test_every_row_is_measured_quoted_or_named_as_missing(mini_bundle: Path, mini_model: GlcModel) -> None:
    threads = torch.get_num_threads()
    setting = replace(SETTINGS[Config.NATURAL], height=64, width=96, bpp=0.2)
    rows = measure_table(
        Config.NATURAL, mini_model, mini_bundle, threads=1, repetitions=1, setting=setting, modes=MODES[:2]
    )
    torch.set_num_threads(threads)
    kinds = {row.row: row.kind for row in rows}
    assert kinds["onnxruntime f32"] == kinds["openvino f32"] == kinds["PyTorch float32"] == "measured"
    assert kinds["openvino f16"] in ("measured", "unavailable")
    assert sum(name.endswith(AGAIN) for name in kinds) == 1
    quoted = [(row.row, row.encode_ms, row.decode_ms, row.remark) for row in rows if row.kind == "quoted"]
    assert ("GLC", 37.1, 58.6, "paper, A100, PyTorch") in quoted
    for row in rows:
        if row.kind == "measured":
            assert row.encode_parts
            assert row.encode_ms
            assert row.encode_parts.sum_ms == pytest.approx(row.encode_ms, rel=1e-6)  # of one turn
            assert row.file_bpp == pytest.approx(row.estimate_bpp, rel=0.25)  # tiny files: the header shows
            if not row.row.endswith(AGAIN):
                assert row.first_image
                assert row.first_image.import_ms > 0
        if row.kind == "unavailable":
            reasons = "choose one of|run: pip install|nothing compiled|NVIDIA driver|needs .*Provider"
            if row.row.startswith("openvino-amx"):
                # Symbols at this rate mean nothing to the mini model, and lead far out of float16.
                reasons = "no matrix unit .*: choose|left the range of float16: choose"
            if row.row.startswith(("openvino-avx2", "onnxruntime-avx2")):  # and here out of float32
                reasons = "no AVX2: choose|left the range of float32: choose"
            assert re.search(reasons, row.remark)
    text = "\n".join(latency_table(rows, setting).notes)
    assert "Symbols drawn at 0.2 bpp" in text
    assert "measured twice" in text
    assert "add up to its total within 3%" in text


def contender(name: str, calls: list[str], failure: Exception | None = None, at: int = 1) -> Contender:
    """One that notes its calls, and fails at one of them."""

    def turn() -> Turn:
        calls.append(name)
        if failure is not None and calls.count(name) == at:
            raise failure
        return Turn(1.0, 2.0, {"analysis": 1.0}, {"synthesis": 2.0}, 100)

    return Contender(name, 7, None, turn, lambda: FirstImage(1, 1, 1, 1, 1))


@pytest.fixture
def measured(
    mini_bundle: Path, mini_model: GlcModel, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., list[LatencyRow]]]:
    """The table of these engines, and of these modes of PyTorch."""
    threads = torch.get_num_threads()
    setting = replace(SETTINGS[Config.NATURAL], height=64, width=96, bpp=0.2)

    def table(engines: list[Contender | Missing], others: list[Contender]) -> list[LatencyRow]:
        monkeypatch.setattr(latency, "engine_contenders", lambda _: iter(engines))
        monkeypatch.setattr(latency, "torch_contenders", lambda *_: iter(others))
        return measure_table(Config.NATURAL, mini_model, mini_bundle, threads=1, repetitions=2, setting=setting)

    yield table
    torch.set_num_threads(threads)


def test_whoever_fails_in_the_turn_that_does_not_count_is_unavailable_and_the_others_go_on(
    measured: Callable[..., list[LatencyRow]],
) -> None:
    calls: list[str] = []
    rows = measured(
        [contender("a", calls), Missing("b", "not here"), contender("c", calls, EngineFailed("no kernel"))],
        [contender("d", calls, EngineFailed("no compiler")), contender("e", calls)],
    )
    assert [(row.row, row.kind, row.remark) for row in rows if row.kind != "quoted"] == [
        ("a", "measured", ""),
        (f"a{AGAIN}", "measured", ""),
        ("e", "measured", ""),
        ("b", "unavailable", "not here"),
        ("c", "unavailable", "no kernel"),
        ("d", "unavailable", "no compiler"),
    ]
    assert [len(row.encode_samples_ms) for row in rows if row.kind == "measured"] == [2, 2, 2]
    assert calls == [*"acde", *2 * ["a", "a", "e"]]
    text = latency_table(rows, SETTINGS[Config.NATURAL]).render(Style.TEXT)
    assert "unavailable: no kernel" in text
    assert "a measured twice" in text


def test_a_table_without_any_engine_still_has_the_others(measured: Callable[..., list[LatencyRow]]) -> None:
    calls: list[str] = []
    rows = measured([contender("a", calls, EngineFailed("no kernel"))], [contender("b", calls)])
    assert {row.row: row.kind for row in rows if row.kind != "quoted"} == {"a": "unavailable", "b": "measured"}


@pytest.mark.parametrize(
    ("failure", "at"),
    [
        pytest.param(EngineFailed("no memory"), 2, id="a later turn"),
        pytest.param(CorruptBitstream("checksum"), 1, id="its own stream is refused"),
        pytest.param(ValueError("a mistake of ours"), 1, id="no error of an engine"),
    ],
)
def test_any_other_failure_ends_the_run(failure: Exception, at: int, measured: Callable[..., list[LatencyRow]]) -> None:
    with pytest.raises(type(failure), match=str(failure)):
        measured([contender("a", []), contender("b", [], failure, at)], [])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own, as it compiles
def test_what_torch_cannot_compile_is_told_in_one_line(
    mini_bundle: Path, mini_model: GlcModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nowhere/g++"))
    bundle = open_published(mini_bundle)
    with (
        glc.Codec(bundle, published(mini_model, bundle, "torch.compile")) as codec,
        pytest.raises(
            EngineFailed, match=r"torch: InvalidCxxCompiler: No working C\+\+ compiler.*/nowhere/g\+\+"
        ) as caught,
    ):
        codec.encode(IMAGE)
    assert "\n" not in str(caught.value)


def test_a_photograph_is_mirrored_up_to_the_size_that_is_asked() -> None:
    large = photograph(512, 768)
    assert large.shape == (512, 768, 3)
    np.testing.assert_array_equal(photograph(100, 120), large[:100, :120])
