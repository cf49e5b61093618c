"""Tables in four styles and the JSON document behind them; the device card."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass

import pytest
import typer

from glc.bench.device import device_card
from glc.bench.output import Style, Table, chosen_style, show

TABLE = Table("Latency", ("row", "ms"), [("fast", "1.5"), ("slow, very", "12.25")], ("measured here",))


@dataclass
class _Row:
    name: str
    ms: float


def test_numbers_stand_to_the_right_and_text_to_the_left() -> None:
    lines = TABLE.render(Style.TEXT).splitlines()
    assert lines[0] == "Latency"
    assert "fast          1.5" in lines
    assert "slow, very  12.25" in lines
    assert lines[-1] == "measured here"


def test_markdown_and_latex_say_the_same() -> None:
    markdown = TABLE.render(Style.MARKDOWN)
    assert markdown.startswith("### Latency\n")
    assert "| slow, very | 12.25 |" in " ".join(markdown.split()).replace("| | ", "|\n| ")
    assert "- measured here" in markdown
    latex = TABLE.render(Style.LATEX)
    assert r"\begin{tabular}{lr}" in latex
    assert "% measured here" in latex


def test_csv_reads_back() -> None:
    rows = list(csv.reader(io.StringIO(TABLE.render(Style.CSV))))
    assert rows == [["row", "ms"], ["fast", "1.5"], ["slow, very", "12.25"]]


def test_the_last_line_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    card = device_card()
    show("table", [TABLE], [_Row("fast", 1.5)], Style.TEXT, card, total=_Row("all", 2.0))
    lines = capsys.readouterr().out.splitlines()
    document = json.loads(lines[-1])
    assert document["command"] == "table"
    assert document["rows"] == [{"name": "fast", "ms": 1.5}]
    assert document["total"] == {"name": "all", "ms": 2.0}
    assert document["notes"] == ["measured here"]
    assert document["device"]["threads"] == card.threads >= 1
    assert any(card.processor in line for line in lines[:-1])


def test_the_card_names_what_timings_depend_on() -> None:
    card = device_card()
    assert card.processor
    assert card.memory_bytes > 2**28
    assert {"numpy", "onnxruntime", "torch"} <= card.packages.keys()
    assert card.commit


def test_one_style_at_a_time() -> None:
    assert chosen_style(markdown=False, latex=False, as_csv=False) is Style.TEXT
    assert chosen_style(markdown=False, latex=True, as_csv=False) is Style.LATEX
    with pytest.raises(typer.BadParameter, match="--markdown, --csv"):
        chosen_style(markdown=True, latex=False, as_csv=True)
