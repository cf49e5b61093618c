"""What `glc-bench rate` measures, and what it must find on the mini model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import DATA

from glc.bench.rate import RateRow, ideal_bits, measure_rate
from glc.errors import ModelMismatch
from glc.export import GlcModel, synthetic_model
from glc.export.scale_levels import DEFAULT_GRID, build_scale_table
from glc.export.synthetic import MINI

TABLE = build_scale_table(DEFAULT_GRID)


@pytest.fixture(scope="module")
def rows(mini_model: GlcModel, mini_float_bundle: Path) -> list[RateRow]:
    images = [DATA / "images" / name for name in ("coffee_200x300.png", "astronaut_256.png")]
    return measure_rate(mini_model, mini_float_bundle, images)


def test_every_image_is_measured_at_every_quality(rows: list[RateRow]) -> None:
    assert [(row.image, row.quality) for row in rows] == [
        (name, quality) for name in ("coffee_200x300.png", "astronaut_256.png") for quality in range(4)
    ]


def test_payloads_are_close_to_the_ideal_cost(rows: list[RateRow]) -> None:
    for row in rows:
        assert 0 <= row.payload_bits - row.ideal_bits + 8 <= row.ideal_bits * 0.005 + 64


def test_the_tables_are_close_to_the_published_estimate(rows: list[RateRow]) -> None:
    for row in rows:
        assert abs(row.ideal_over_published) < 0.015


def test_headers_and_files_add_up(rows: list[RateRow]) -> None:
    for row in rows:
        assert row.header_bytes <= 14
        assert 8 * (row.file_bytes - row.header_bytes) == row.payload_bits


def test_decoded_images_are_the_model_s(rows: list[RateRow]) -> None:
    for row in rows:
        assert row.within_one >= 0.999
        assert row.changed <= 3


def test_dropping_index_0_would_change_the_published_symbols(rows: list[RateRow]) -> None:
    """The reason for docs/decisions/0001."""
    assert all(row.nonzero_at_index_0 > 0 for row in rows)


def test_ideal_cost_of_one_symbol_is_its_information() -> None:
    symbols, index = np.zeros((1, 1, 1), np.int16), np.full((1, 1, 1), 60, np.uint8)
    probability = TABLE.frequencies[60][TABLE.reach[60]] / 2**24
    assert ideal_bits(symbols, index, TABLE) == pytest.approx(-np.log2(probability))


def test_ideal_cost_of_an_escape_holds_its_bits() -> None:
    reach = int(TABLE.reach[10])
    cost = [
        ideal_bits(np.full((1, 1, 1), reach + excess, np.int16), np.full((1, 1, 1), 10, np.uint8), TABLE)
        for excess in (1, 2, 3, 4)
    ]
    assert cost[1] == cost[2] == pytest.approx(cost[0] + 1)
    assert cost[3] == pytest.approx(cost[0] + 2)


def test_a_bundle_of_another_model_is_refused(mini_float_bundle: Path) -> None:
    with pytest.raises(ModelMismatch, match="not exported from this model"):
        measure_rate(synthetic_model(MINI, seed=1), mini_float_bundle, [])


def test_the_command_ends_with_one_json_document(mini_float_bundle: Path) -> None:
    photo = DATA / "images" / "coffee_200x300.png"
    command = [
        sys.executable,
        "-m",
        "glc.bench",
        "rate",
        "--synthetic",
        "mini",
        "-b",
        str(mini_float_bundle),
        str(photo),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(result.stdout.splitlines()[-1])
    assert [row["quality"] for row in document["rows"]] == [0, 1, 2, 3]


def test_startup_times_every_command(mini_float_bundle: Path) -> None:
    photo = DATA / "images" / "coffee_200x300.png"
    command = [
        sys.executable,
        "-m",
        "glc.bench",
        "startup",
        "-b",
        str(mini_float_bundle),
        "--image",
        str(photo),
        "-n",
        "1",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(result.stdout.splitlines()[-1])
    assert [row["what"] for row in document["rows"]][:2] == ["import numpy", "import glc"]
    assert all(0 < row["median_ms"] <= row["largest_ms"] for row in document["rows"])
