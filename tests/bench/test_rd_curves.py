"""BD-rate and BD-metric: the package's documented data, curves whose answer is known, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import bjontegaard
import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator

from glc.bench.image_metrics import DISTS, FID, MS_SSIM, PSNR
from glc.bench.quality import PointRow, QualityRow
from glc.bench.rd_curves import Curve, Results, bd_row, compare_codecs, plot_png, shared_images

# The example in the documentation of bjontegaard 1.3.0; it prints no result there.
RATE_ANCHOR = (9487.76, 4593.60, 2486.44, 1358.24)
PSNR_ANCHOR = (40.037, 38.615, 36.845, 34.851)
RATE_TEST = (9787.80, 4469.00, 2451.52, 1356.24)
PSNR_TEST = (40.121, 38.651, 36.970, 34.987)


def results(**codecs: Sequence[tuple[float, float, float | None]]) -> Results:
    """Codecs with one image, from bpp, PSNR and MS-SSIM of each point."""
    rows, points = [], []
    for codec, of_points in codecs.items():
        for place, (bpp, psnr, similarity) in enumerate(of_points):
            own = (psnr, similarity, None, None, None)
            rows.append(QualityRow(codec, str(place), "a.png", "id", 8, 8, int(8 * bpp), bpp, *own))
            points.append(PointRow(codec, str(place), 1, bpp, *own, None, None, 0))
    return Results(tuple(rows), tuple(points))


def documented() -> Results:
    anchor, test = (
        [(rate, psnr, None) for rate, psnr in zip(rates, values, strict=True)]
        for rates, values in ((RATE_ANCHOR, PSNR_ANCHOR), (RATE_TEST, PSNR_TEST))
    )
    return results(test=test, anchor=anchor)


def test_the_documented_example_gives_what_the_package_gives_for_it() -> None:
    (row,) = compare_codecs(documented(), "test", "anchor")
    direct = (RATE_ANCHOR, PSNR_ANCHOR, RATE_TEST, PSNR_TEST, "akima")
    assert row.rate_percent == pytest.approx(bjontegaard.bd_rate(*direct), rel=1e-12)
    assert row.difference == pytest.approx(bjontegaard.bd_psnr(*direct), rel=1e-12)
    assert row.rate_percent == pytest.approx(-4.4252, abs=5e-5)
    assert row.difference == pytest.approx(0.1194, abs=5e-5)
    assert (row.codec, row.anchor, row.metric, row.images, row.why) == ("test", "anchor", "psnr_db", 1, "")


def test_the_documented_example_agrees_with_an_integration_of_our_own() -> None:
    (row,) = compare_codecs(documented(), "test", "anchor")
    places = np.linspace(max(min(PSNR_ANCHOR), min(PSNR_TEST)), min(max(PSNR_ANCHOR), max(PSNR_TEST)), 20001)
    ours, theirs = (
        Akima1DInterpolator(values[::-1], np.log(rates[::-1]))(places)
        for rates, values in ((RATE_TEST, PSNR_TEST), (RATE_ANCHOR, PSNR_ANCHOR))
    )
    mean = np.trapezoid(ours - theirs, places) / (places[-1] - places[0])
    assert row.rate_percent == pytest.approx(100 * (np.exp(mean) - 1), abs=1e-5)


def test_half_the_bits_are_minus_fifty_percent_whichever_way_a_metric_runs() -> None:
    rates, rising, falling = (0.1, 0.2, 0.3, 0.6), (30.0, 32.0, 33.5, 35.0), (0.4, 0.3, 0.22, 0.1)
    half = tuple(rate / 2 for rate in rates)
    for metric, values in ((PSNR, rising), (DISTS, falling), (FID, falling)):
        row = bd_row(Curve("new", half, values), Curve("old", rates, values), metric, 3)
        assert row.rate_percent == pytest.approx(-50)
        assert row.rate_shared == pytest.approx(1)
        assert row.difference is not None
        assert (row.difference > 0) is metric.higher_is_better
        back = bd_row(Curve("old", rates, values), Curve("new", half, values), metric, 3)
        assert back.rate_percent == pytest.approx(100)


def test_a_constant_gain_is_its_own_difference() -> None:
    rates, values = (0.1, 0.2, 0.3, 0.6), (30.0, 32.0, 33.5, 35.0)
    row = bd_row(Curve("new", rates, tuple(v + 0.5 for v in values)), Curve("old", rates, values), PSNR, 3)
    assert row.difference == pytest.approx(0.5)
    assert row.difference_shared == pytest.approx(1)


def test_curves_apart_have_no_number_but_a_reason() -> None:
    low, high = Curve("low", (0.01, 0.02), (20, 21)), Curve("high", (0.1, 0.2), (30, 31))
    row = bd_row(low, high, PSNR, 2)
    assert row.rate_percent is row.difference is None
    assert row.rate_shared == row.difference_shared == 0
    assert "do not overlap in PSNR dB: 20 to 21 and 30 to 31" in row.why
    assert "rates do not overlap: 0.01 to 0.02 and 0.1 to 0.2 bpp" in row.why


def test_a_curve_that_falls_back_has_no_rate_at_a_quality() -> None:
    back, straight = Curve("back", (0.1, 0.2, 0.3), (30, 32, 31)), Curve("straight", (0.1, 0.2, 0.3), (30, 31, 32))
    row = bd_row(back, straight, PSNR, 2)
    assert row.rate_percent is None
    assert row.difference is not None
    assert row.why == "back does not improve in PSNR dB with every point"


@pytest.mark.parametrize(
    ("bpp", "values", "why"), [((0.1,), (30,), "fewer than two points"), ((0.1, 0.1), (30, 31), "two points at one")]
)
def test_points_that_make_no_curve(bpp: tuple[float, ...], values: tuple[float, ...], why: str) -> None:
    row = bd_row(Curve("poor", bpp, values), Curve("good", (0.1, 0.2), (30, 31)), PSNR, 1)
    assert row.rate_percent is row.difference is None
    assert why in row.why


def test_images_without_a_value_are_left_out_on_both_sides() -> None:
    known = results(a=[(0.1, 30, 0.9), (0.2, 32, 0.95)], b=[(0.1, 29, 0.9), (0.2, 31, None)])
    assert shared_images(known, ["a", "b"], PSNR) == {"a.png id"}
    assert shared_images(known, ["a", "b"], MS_SSIM) == set()
    assert [row.metric for row in compare_codecs(known, "a", "b")] == ["psnr_db"]


def test_the_plot_is_an_image() -> None:
    assert plot_png(documented(), "title").startswith(b"\x89PNG\r\n\x1a\n")
