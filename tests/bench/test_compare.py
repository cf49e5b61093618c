"""Comparing two measurements: matching, ratios and their intervals, devices, and files that are none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from glc.bench.command import app
from glc.bench.compare import Document, compare_documents, ratio_interval, read_document

NATURAL: dict[str, Any] = {
    "config": "natural",
    "row": "onnxruntime f32",
    "kind": "measured",
    "encode_samples_ms": [100.0, 101.0, 102.0, 99.0, 100.5],
    "encode_ms": 100.5,
}

CARD: dict[str, Any] = {"date": "2026-01-01", "processor": "P", "gpus": [], "packages": {"numpy": "2.0"}}


def text(
    rows: Sequence[Mapping[str, Any]], command: str = "table", device: Mapping[str, Any] | None = CARD, before: str = ""
) -> str:
    return before + json.dumps({"command": command, "device": device, "rows": rows, "notes": []}) + "\n"


def document(folder: Path, name: str, *rows: Mapping[str, Any], **options: Any) -> Document:
    path = folder / name
    path.write_text(text(rows, **options))
    return read_document(path)


def scaled(row: Mapping[str, Any], factor: float) -> dict[str, Any]:
    samples = [factor * ms for ms in row["encode_samples_ms"]]
    return {**row, "encode_samples_ms": samples, "encode_ms": factor * row["encode_ms"]}


@pytest.mark.parametrize(("factor", "verdict"), [(1.5, "slower"), (0.5, "faster"), (1.001, "no difference seen")])
def test_a_ratio_is_told_with_its_interval(tmp_path: Path, factor: float, verdict: str) -> None:
    a, b = document(tmp_path, "a", NATURAL), document(tmp_path, "b", scaled(NATURAL, factor))
    (ratio,) = compare_documents(a, b).ratios
    assert (ratio.measure, ratio.a) == ("encode_ms", 100.5)
    assert ratio.b == pytest.approx(factor * 100.5)
    assert ratio.ratio == pytest.approx(factor)
    assert ratio.low is not None
    assert ratio.high is not None
    assert 0.9 * factor < ratio.low < factor < ratio.high < 1.1 * factor
    assert ratio.verdict == verdict


def test_few_samples_give_no_verdict(tmp_path: Path) -> None:
    few = {**NATURAL, "encode_samples_ms": [1.0, 1.1, 1.2]}
    (ratio,) = compare_documents(document(tmp_path, "a", few), document(tmp_path, "b", NATURAL)).ratios
    assert ratio.verdict == "fewer than 4 samples"
    assert ratio.low is not None


def test_intervals_hold_the_ratio_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(5)
    held = 0
    for _ in range(60):
        a, b = random.normal(100, 5, 12), random.normal(150, 7.5, 12)
        low, high = ratio_interval(a.tolist(), b.tolist(), random)
        held += low <= 1.5 <= high
    assert held >= 51


def test_the_same_files_give_the_same_intervals(tmp_path: Path) -> None:
    a, b = document(tmp_path, "a", NATURAL), document(tmp_path, "b", scaled(NATURAL, 1.02))
    assert compare_documents(a, b) == compare_documents(a, b)


def test_rows_are_matched_by_texts_and_named_numbers(tmp_path: Path) -> None:
    one = {"engine": "x", "threads": 1, "peak_memory_bytes": 100, "nonzero": 5, "remark": "on A"}
    two = {**one, "threads": 2, "peak_memory_bytes": 50}
    a = document(tmp_path, "a", one, two)
    b = document(tmp_path, "b", {**two, "remark": "on B"}, {**one, "peak_memory_bytes": 110, "nonzero": 7})
    found = compare_documents(a, b)
    assert [(ratio.row, ratio.measure, ratio.ratio, ratio.verdict) for ratio in found.ratios] == [
        ("threads 1", "peak_memory_bytes", pytest.approx(1.1), "one number each"),
        ("threads 2", "peak_memory_bytes", 1, "equal"),
    ]
    assert (found.only_a, found.only_b) == ((), ())


def test_equal_rows_are_matched_in_their_order(tmp_path: Path) -> None:
    a = document(tmp_path, "a", {"row": "x", "open_ms": 1}, {"row": "x", "open_ms": 2})
    b = document(tmp_path, "b", {"row": "x", "open_ms": 3}, {"row": "x", "open_ms": 8}, {"row": "x", "open_ms": 1})
    found = compare_documents(a, b)
    assert [(ratio.row, ratio.ratio) for ratio in found.ratios] == [("# 1", 3), ("# 2", 4)]
    assert found.only_b == ("# 3",)


def test_rows_of_one_file_are_named(tmp_path: Path) -> None:
    other = {**NATURAL, "row": "openvino f32"}
    gone = {**NATURAL, "kind": "unavailable", "row": "tensorrt"}
    found = compare_documents(document(tmp_path, "a", NATURAL, gone), document(tmp_path, "b", other, NATURAL))
    assert (found.only_a, found.only_b) == (("tensorrt, unavailable",), ("openvino f32, measured",))
    assert [ratio.row for ratio in found.ratios] == ["onnxruntime f32, measured"]


def test_nested_numbers_are_compared_and_nulls_and_zeros_are_not(tmp_path: Path) -> None:
    row = {"row": "x", "first": {"open_ms": 4.0, "import_ms": 0}, "parts": None, "load_ms": None, "big_ms": 10**400}
    found = compare_documents(document(tmp_path, "a", row), document(tmp_path, "b", {**row, "parts": {"a_ms": 1}}))
    assert [(ratio.measure, ratio.verdict) for ratio in found.ratios] == [("first.open_ms", "equal")]


def test_what_differs_in_the_devices_is_told(tmp_path: Path) -> None:
    other = {**CARD, "date": "2026-01-02", "gpus": ["G", "H"], "packages": {"numpy": "2.1"}}
    a, b = document(tmp_path, "a", NATURAL), document(tmp_path, "b", NATURAL, device=other)
    found = compare_documents(a, b).differences
    assert [(one.field, one.a, one.b, one.machine) for one in found] == [
        ("date", "2026-01-01", "2026-01-02", False),
        ("gpus", "", "G, H", True),
        ("packages.numpy", "2.0", "2.1", False),
    ]
    none = document(tmp_path, "none", NATURAL, device=None)
    assert [(one.a, one.b, one.machine) for one in compare_documents(none, b).differences] == [
        ("no card", "a card", True)
    ]
    assert compare_documents(none, none).differences == ()


@pytest.mark.parametrize(("processor", "title"), [("P", "Same device"), ("Q", "DIFFERENT DEVICES")])
def test_the_command_states_devices_first_and_ends_with_json(tmp_path: Path, processor: str, title: str) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(text([NATURAL], before="a table\n\n1 2 3\n"))
    b.write_text(text([scaled(NATURAL, 2)], device={**CARD, "processor": processor}))
    result = CliRunner().invoke(app, ["compare", str(a), str(b)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(title)
    assert "slower" in result.stdout
    found = json.loads(result.stdout.splitlines()[-1])
    assert (found["command"], found["device"]) == ("compare", None)
    assert found["rows"][-1]["ratio"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the last line is no JSON"),
        (b"{", "the last line is no JSON"),
        (b"[" * 100_000, "the last line is no JSON"),
        (b"\xff\xfe", "not text"),
        (b"[]", "no field `command`"),
        (b'{"command": 3}', "no field `command`"),
        (b'{"command": "table", "rows": {}}', "no list `rows`"),
        (b'{"command": "table", "rows": [1]}', "no list `rows`"),
        (b'{"command": "table", "rows": [], "device": 1}', "no device card"),
        (text([], command="scale").encode(), "nothing to compare"),
        (None, "No such file"),
    ],
)
def test_files_that_cannot_be_compared_are_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(text([NATURAL]))
    if content is not None:
        bad.write_bytes(content)
    result = CliRunner().invoke(app, ["compare", str(good), str(bad)])
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert message in line
