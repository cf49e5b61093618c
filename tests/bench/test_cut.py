"""Streams cut at every byte: what `glc-bench cut` counts, and what it must find on the mini model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import DATA

import glc
from glc.bench.cut import CutReport, measure_cuts
from glc.errors import CorruptBitstream, TruncatedBitstream

PHOTO = DATA / "images" / "coffee_200x300.png"


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph so small that its streams are short."""
    path = tmp_path_factory.mktemp("corner") / "corner.png"
    with Image.open(PHOTO) as image:
        image.crop((0, 0, 30, 20)).save(path)
    return path


@pytest.fixture(scope="module")
def report(mini_bundle: Path, corner: Path) -> CutReport:
    return measure_cuts(glc.Bundle.open(mini_bundle), [corner], 2)


def test_every_cut_is_refused_or_shown(report: CutReport) -> None:
    assert [(row.image, row.quality, row.width, row.height) for row in report.rows] == [
        ("corner.png", quality, 30, 20) for quality in (0, 1)
    ]
    for row in report.rows:
        counts = row.counts
        assert counts.cuts == row.stream_bytes - 1 == counts.refused + counts.shown
        assert counts.refused >= 12  # the header
        assert counts.shown > 5
        assert counts.failed == counts.passed == 0


def test_progressive_streams_hold_images_back_that_are_worse(
    report: CutReport, mini_bundle: Path, corner: Path
) -> None:
    found = measure_cuts(glc.Bundle.open(mini_bundle), [corner], 2, progressive=True)
    assert [row.stream_bytes for row in found.rows] == [row.stream_bytes + 3 for row in report.rows]
    assert report.total.image_falls > len(report.rows)
    # The last byte shows the whole image, which with synthetic weights may be worse than the preview.
    assert all(row.counts.image_falls <= 1 for row in found.rows)
    assert found.total.failed == found.total.passed == 0


def test_totals_are_sums_and_maxima(report: CutReport) -> None:
    one, other = (row.counts for row in report.rows)
    assert report.total.cuts == one.cuts + other.cuts
    assert report.total.image_falls == one.image_falls + other.image_falls
    assert report.total.image_lag_db == max(one.image_lag_db, other.image_lag_db)


def test_the_curve_ends_with_the_whole_streams(report: CutReport, mini_bundle: Path, corner: Path) -> None:
    assert [at.payload_percent for at in report.curve] == list(range(0, 101, 5))
    assert [at.shown for at in report.curve] == sorted(at.shown for at in report.curve)
    assert report.curve[0].psnr_db is None
    with Image.open(corner) as image, glc.Codec.open(mini_bundle, threads=1) as codec:
        pixels = np.asarray(image)
        errors = [np.square(codec.decode(codec.encode(pixels, q)) - pixels.astype(float)).mean() for q in (0, 1)]
    last = report.curve[-1]
    assert (last.shown, last.symbols, last.latent_error) == (2, 1, 0)
    assert last.psnr_db == pytest.approx(np.mean(10 * np.log10(255**2 / np.array(errors))))


def test_a_fall_is_at_most_the_lag_behind_the_best(report: CutReport) -> None:
    for row in report.rows:
        counts = row.counts
        for falls, fall_db, lag_db in (
            (counts.image_falls, counts.image_fall_db, counts.image_lag_db),
            (counts.latent_falls, counts.latent_fall_db, counts.latent_lag_db),
        ):
            assert 0 <= falls <= counts.shown
            assert 0 <= fall_db <= lag_db + 1e-9
            assert (falls > 0) == (fall_db > 0)


@pytest.mark.parametrize(
    ("raised", "refused", "failed"),
    [(TruncatedBitstream, 1, 0), (CorruptBitstream, 0, 1), (IndexError, 0, 1)],
)
def test_what_a_cut_raises_is_counted(
    raised: type[Exception],
    refused: int,
    failed: int,
    report: CutReport,
    mini_bundle: Path,
    corner: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode_partial = glc.Codec.decode_partial
    length = report.rows[0].stream_bytes - 3

    def failing(self: glc.Codec, data: bytes, **options: Any) -> glc.PartialImage:
        if len(data) == length:
            raise raised
        return decode_partial(self, data, **options)

    monkeypatch.setattr(glc.Codec, "decode_partial", failing)
    found = measure_cuts(glc.Bundle.open(mini_bundle), [corner], 1).total
    expected = report.rows[0].counts
    assert (found.refused, found.shown, found.failed) == (
        expected.refused + refused,
        expected.shown - 1,
        expected.failed + failed,
    )


def test_a_cut_that_is_taken_for_whole_is_counted(
    report: CutReport, mini_bundle: Path, corner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_latent = glc.Codec.decode_latent
    length = report.rows[0].stream_bytes - 3

    def trusting(self: glc.Codec, data: bytes, **options: Any) -> object:
        return None if len(data) == length else decode_latent(self, data, **options)

    monkeypatch.setattr(glc.Codec, "decode_latent", trusting)
    assert measure_cuts(glc.Bundle.open(mini_bundle), [corner], 1).total.passed == 1


def test_the_command_ends_with_one_json_document(mini_bundle: Path, corner: Path) -> None:
    command = [sys.executable, "-m", "glc.bench", "cut", str(corner), "-b", str(mini_bundle), "--streams", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["rows"][0]["counts"] == document["total"]
    assert len(document["curve"]) == 21
