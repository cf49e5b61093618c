"""Scaling: the fit, what is predicted and left out, and a small run in fresh processes. No timing is asserted."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import glc
from glc.bench import scale
from glc.bench.command import app
from glc.bench.scale import Point, ScaleRow, fit_rows, measure_in_process, measure_scale, parse_numbers, predict
from glc.engines.processor import available_threads
from glc.errors import EngineFailed, EngineUnavailable

PNG = b"\x89PNG\r\n\x1a\n"


def point(bundle: Path | str = "none", height: int = 64, width: int = 64, bpp: float = 0.3) -> Point:
    return Point(str(bundle), "onnxruntime", "f32", bpp, 1, "size", height, width, 1, 1)


def row_of(at: Point, encode_ms: float = 10, decode_ms: float = 20, peak_memory_bytes: int = 1) -> ScaleRow:
    pixels = 1e-6 * at.batch * at.pixels
    place = (at.varied, "onnxruntime", at.precision, at.height, at.width, at.batch, at.threads)
    return ScaleRow(*place, pixels, at.bpp, [encode_ms], [decode_ms], encode_ms, decode_ms, peak_memory_bytes)


def measured(monkeypatch: pytest.MonkeyPatch, bytes_per_pixel: float = 1, memory: int = 10**9) -> list[Point]:
    """Measure by a formula in place of processes; returns the list of points that will be filled."""
    points: list[Point] = []

    def fake(at: Point) -> ScaleRow:
        points.append(at)
        return row_of(at, peak_memory_bytes=int(bytes_per_pixel * at.pixels))

    monkeypatch.setattr(scale, "measure_in_process", fake)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=memory, total=10**10))
    return points


def test_an_exact_power_law_gives_its_exponent() -> None:
    rows = []
    for side in (64, 128, 192, 512):
        megapixels = 1e-6 * side * side
        rows.append(row_of(point(height=side, width=side), 300 * megapixels**1.25, 7 * megapixels**0.9))
    rows.append(row_of(Point("none", "onnxruntime", "f32", 0.3, 1, "batch", 64, 64, 8, 1), 1e6, 1e6))  # no size
    encode, decode = fit_rows(rows)
    assert (encode.what, decode.what) == ("encode", "decode")
    assert (encode.exponent, encode.at_1_mp_ms) == pytest.approx((1.25, 300))
    assert (decode.exponent, decode.at_1_mp_ms) == pytest.approx((0.9, 7))


def test_one_size_gives_no_exponent() -> None:
    assert fit_rows([row_of(point()), row_of(point())]) == []


@pytest.mark.parametrize(
    ("known", "at", "expected"),
    [
        ({}, 5, 0),
        ({2: 10}, 4, 20),
        ({2: 10}, 1, 10),
        ({1: 5, 2: 7}, 10, 23),
        ({1: 5, 2: 7}, 1.5, 6),
        ({1: 1, 2: 4, 4: 16}, 8, 64),
        ({1: 0, 4: 100, 5: 101}, 6, 102),  # it bends down: the line
        ({1: 9, 2: 3}, 3, 3),  # never less than what was seen last
    ],
)
def test_extrapolation_follows_lines_and_parabolas(known: dict[float, float], at: float, expected: float) -> None:
    assert predict(known, at) == pytest.approx(expected)


def test_a_size_that_would_not_fit_is_not_begun(mini_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = measured(monkeypatch, bytes_per_pixel=100, memory=9_000_000)
    sizes = [(512, 512), (64, 64), (256, 256), (256, 384)]
    rows, notes = measure_scale(point(mini_bundle), sizes, [1], [1], 1e9)
    assert [(at.height, at.width) for at in points if at.varied == "size"] == [(64, 64), (256, 256)]
    assert len(rows) == len(points) == 4
    assert len(notes) == 1
    assert notes[0].startswith(
        "left out (0.0 GiB predicted, over 80% of 0.0 free): 256x384, batch 1, threads 1; 512x512"
    )


def test_time_that_runs_out_is_told_with_what_was_left_out(mini_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = measured(monkeypatch)
    # An image of 64x64 pixels takes a second of this clock.
    now = lambda: sum(at.work for at in points) / 64**2  # noqa: E731
    monkeypatch.setattr(scale, "time", SimpleNamespace(monotonic=now))
    _, notes = measure_scale(point(mini_bundle), [(64, 64), (128, 128), (512, 512), (1024, 512)], [1, 2], [1], 20)
    assert [(at.varied, at.batch, at.width) for at in points] == [
        ("batch", 1, 64),
        ("batch", 2, 64),
        ("threads", 1, 64),
        ("size", 1, 64),
        ("size", 1, 128),
    ]
    assert notes == [
        "left out (64 s predicted, 11 s left of the time given): "
        "512x512, batch 1, threads 1; 1024x512, batch 1, threads 1"
    ]


def test_a_process_without_memory_ends_its_sweep_alone(mini_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch)
    monkeypatch.setattr(
        scale, "measure_in_process", lambda at: None if at.pixels > 64 * 64 or at.batch > 1 else row_of(at)
    )
    rows, notes = measure_scale(point(mini_bundle), [(64, 64), (64, 128)], [1, 2, 4], [1], 1e9)
    assert [row.varied for row in rows] == ["size", "batch", "threads"]
    assert notes == [
        "left out (its process ran out of memory): 64x64, batch 2, threads 1; 64x64, batch 4, threads 1",
        "left out (its process ran out of memory): 64x128, batch 1, threads 1",
    ]


def test_a_process_that_fails_says_why(mini_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"64x64, batch 1, threads 1 failed: .*no bundle at|BundleNotFound"):
        measure_in_process(point(tmp_path / "missing.glcb"))


def test_a_process_tells_its_own_peak_not_that_of_its_parent(mini_bundle: Path) -> None:
    ballast = np.ones(1 << 27)  # 1 GiB that is in memory when the process starts
    row = measure_in_process(point(mini_bundle))
    assert row is not None
    assert 20 << 20 < row.peak_memory_bytes < ballast.nbytes
    assert row.bpp == pytest.approx(0.3, rel=0.3)  # with a header that is large for such an image
    assert row.engine == "onnxruntime"


def test_what_is_missing_is_named_before_anything_runs(mini_bundle: Path) -> None:
    at = Point(str(mini_bundle), "none", "f32", 0.3, 1, "size", 64, 64, 1, 1)
    with pytest.raises(EngineUnavailable, match="no engine is called 'none'"):
        measure_scale(at, [(64, 64)], [1], [1], 1e9)


@pytest.mark.parametrize(
    ("text", "factors"), [("", 1), ("1,,2", 1), ("0", 1), ("9", 1), ("-1", 1), ("8", 2), ("2x", 2)]
)
def test_numbers_of_another_form_are_refused(text: str, factors: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_numbers(text, factors, 8)


def test_numbers_are_read() -> None:
    assert parse_numbers("1, 2,8", 1, 8) == [(1,), (2,), (8,)]
    assert parse_numbers("2x3,1x1", 2, 8) == [(2, 3), (1, 1)]


def test_the_command_measures_and_plots(mini_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plot = tmp_path / "scale.png"
    options = ["--sizes", "64x64,64x128", "--batches", "2", "--threads", "1", "--bpp", "0.3", "--repetitions", "1"]
    with caplog.at_level(logging.INFO, "glc"):
        result = CliRunner().invoke(app, ["scale", "-b", str(mini_bundle), *options, "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["command"] == "scale"
    *rows, encode, decode = document["rows"]
    most = available_threads()
    found = [(row["varied"], row["height"], row["width"], row["batch"], row["threads"]) for row in rows]
    assert found == [
        ("size", 64, 64, 1, most),
        ("size", 64, 128, 1, most),
        ("batch", 64, 64, 2, most),
        ("threads", 64, 64, 1, 1),
    ]
    assert all(len(row["encode_samples_ms"]) == len(row["decode_samples_ms"]) == 1 for row in rows)
    assert all(row["peak_memory_bytes"] > 20 << 20 for row in rows)
    assert (encode["what"], decode["what"]) == ("encode", "decode")
    assert any(f"^ {encode['exponent']:.3f}" in note for note in document["notes"])
    assert any("drawn at 0.3 bpp" in note for note in document["notes"])
    assert plot.read_bytes().startswith(PNG)
    assert "measuring 64x128, batch 1" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sizes", "64"), "expected heights x widths"),
        (("--threads", "0"), "expected numbers such as"),
        (("--sizes", "64x64", "--bpp", "1000"), "no mixture of this table's scales"),
        (("--csv", "--latex"), "give one of"),
    ],
)
def test_mistakes_are_usage_errors(mini_bundle: Path, options: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, ["scale", "-b", str(mini_bundle), *options])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_the_default_bundle_can_be_drawn_at_the_default_rate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured(monkeypatch)
    demo = Path(glc.__file__).parent / "default_model" / "demo.glcb"
    result = CliRunner().invoke(app, ["scale", "-b", str(demo), "--csv"])
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) > 11
