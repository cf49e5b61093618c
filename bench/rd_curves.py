"""Rate-distortion curves, and how far two are apart: BD-rate and BD-metric, by the package bjontegaard.

rows of two codecs -> means over the images that both have -> curve of each -> Akima interpolation -> mean difference
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from glc.bench.image_metrics import OF_IMAGES, OF_SETS, Metric
from glc.bench.quality import PointRow, QualityRow
from glc.runtime.terminal import requires_extra

METHOD = "akima"
"""Interpolation of the curves: what the package's authors advise."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One codec in one metric, from the lowest rate up."""

    codec: str
    bpp: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BdRow:
    """One codec against another in one metric."""

    codec: str
    anchor: str
    """What it is compared with."""
    metric: str
    """Name of the field."""
    images: int
    """That the means are over."""
    rate_percent: float | None
    """Mean difference in rate at the same quality: below 0 where the codec needs fewer bits than the anchor."""
    rate_shared: float
    """Part of the range of quality of both that both curves cover."""
    difference: float | None
    """Mean difference in the metric at the same rate, in the metric's unit."""
    difference_shared: float
    """Part of the range of log rate of both that both curves cover."""
    why: str
    """What stands in the way of a number that is None."""


@dataclass(frozen=True, slots=True)
class Results:
    """What is known of codecs on the same kind of images."""

    rows: tuple[QualityRow, ...]
    points: tuple[PointRow, ...]

    def codecs(self) -> list[str]:
        """Names, in the order in which they were measured."""
        return list(dict.fromkeys(point.codec for point in self.points))


def compare_codecs(results: Results, codec: str, anchor: str) -> list[BdRow]:
    """One codec against another in every metric that both have a value in."""
    found = []
    for metric in (*OF_IMAGES, *OF_SETS):
        images = shared_images(results, [codec, anchor], metric)
        curves = [curve_of(results, name, metric, images) for name in (codec, anchor)]
        if all(curve.bpp for curve in curves):
            found.append(bd_row(curves[0], curves[1], metric, len(images)))
    return found


def shared_images(results: Results, codecs: Sequence[str], metric: Metric) -> set[str]:
    """Keys of the images that have a value in a metric at every point of every one of the codecs.

    A metric of sets has none of its own: all images, where the codecs have the same; otherwise none.
    """
    settings = [(point.codec, point.point) for point in results.points if point.codec in codecs]
    sets = [
        {
            row.key
            for row in results.rows
            if (row.codec, row.point) == setting and (metric in OF_SETS or getattr(row, metric.field) is not None)
        }
        for setting in settings
    ]
    if not sets or (metric in OF_SETS and any(one != sets[0] for one in sets)):
        return set()
    return set.intersection(*sets)


def curve_of(results: Results, codec: str, metric: Metric, images: set[str]) -> Curve:
    """Means of rate and metric over images at each point of a codec; empty where there is nothing to average."""
    pairs: list[tuple[float, float]] = []
    for point in results.points:
        own = [r for r in results.rows if (r.codec, r.point) == (codec, point.point) and r.key in images]
        if point.codec != codec or not own:
            continue
        value = getattr(point, metric.field) if metric in OF_SETS else fmean(getattr(r, metric.field) for r in own)
        if value is not None:
            pairs.append((fmean(row.bpp for row in own), value))
    pairs.sort()
    return Curve(codec, tuple(bpp for bpp, _ in pairs), tuple(value for _, value in pairs))


def bd_row(curve: Curve, anchor: Curve, metric: Metric, images: int) -> BdRow:
    """BD-rate and BD-metric of a curve against an anchor; None, with a reason, where they would say nothing."""
    rate, difference = _bd_rate(curve, anchor, metric), _bd_difference(curve, anchor)
    return BdRow(
        codec=curve.codec,
        anchor=anchor.codec,
        metric=metric.field,
        images=images,
        rate_percent=rate.value,
        rate_shared=rate.shared,
        difference=difference.value,
        difference_shared=difference.shared,
        why="; ".join(dict.fromkeys(why for why in (rate.why, difference.why) if why)),
    )


def plot_png(results: Results, title: str) -> bytes:
    """The curves of all codecs, one plot a metric that has values, rates on a logarithmic axis."""
    from matplotlib.figure import Figure

    codecs = results.codecs()
    drawn = []
    for metric in (*OF_IMAGES, *OF_SETS):
        images = shared_images(results, codecs, metric)
        curves = [curve for name in codecs if (curve := curve_of(results, name, metric, images)).bpp]
        if curves:
            drawn.append((metric, curves))
    columns = min(2, len(drawn)) or 1
    rows = max(1, math.ceil(len(drawn) / columns))
    figure = Figure(figsize=(6 * columns, 4.5 * rows), layout="constrained")
    for place, (metric, curves) in enumerate(drawn, 1):
        axes = figure.add_subplot(rows, columns, place)
        for curve in curves:
            axes.plot(curve.bpp, curve.values, "o-", markersize=4, label=curve.codec)
        better = "higher" if metric.higher_is_better else "lower"
        axes.set(xscale="log", xlabel="bits per pixel", ylabel=f"{metric.title} ({better} is better)")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend()
    figure.suptitle(title, fontsize="small", wrap=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class _Delta:
    value: float | None
    shared: float
    why: str


def _bd_difference(curve: Curve, anchor: Curve) -> _Delta:
    """The metric as a function of the logarithm of the rate."""
    shared = _shared(*([math.log(rate) for rate in one.bpp] for one in (curve, anchor)))
    if why := _no_curve(curve) or _no_curve(anchor):
        return _Delta(None, shared, why)
    if shared == 0:
        return _Delta(None, shared, f"the rates do not overlap: {_span(curve.bpp)} and {_span(anchor.bpp)} bpp")
    with requires_extra("bench"):
        import bjontegaard
    value = bjontegaard.bd_psnr(
        anchor.bpp, anchor.values, curve.bpp, curve.values, METHOD, require_matching_points=False, min_overlap=0
    )
    return _Delta(float(value), shared, "")


def _bd_rate(curve: Curve, anchor: Curve, metric: Metric) -> _Delta:
    """The logarithm of the rate as a function of the metric, which must improve with every point of both curves."""
    shared = _shared(curve.values, anchor.values)
    if why := _no_curve(curve) or _no_curve(anchor):
        return _Delta(None, shared, why)
    for one in (curve, anchor):
        if not all((low < high) is metric.higher_is_better and low != high for low, high in pairwise(one.values)):
            return _Delta(None, shared, f"{one.codec} does not improve in {metric.title} with every point")
    if shared == 0:
        spans = " and ".join(_span(one.values) for one in (curve, anchor))
        return _Delta(None, shared, f"the curves do not overlap in {metric.title}: {spans}")
    with requires_extra("bench"):
        import bjontegaard
    order = 1 if metric.higher_is_better else -1  # the package wants the argument of a function to rise
    ours, theirs = ((one.bpp[::order], one.values[::order]) for one in (curve, anchor))
    value = bjontegaard.bd_rate(*theirs, *ours, METHOD, require_matching_points=False, min_overlap=0)
    return _Delta(float(value), shared, "")


def _no_curve(curve: Curve) -> str:
    """Why points make no function of the rate; empty where they do."""
    if len(curve.bpp) < 2:
        return f"{curve.codec} has fewer than two points"
    if any(low == high for low, high in pairwise(curve.bpp)):
        return f"{curve.codec} has two points at one rate"
    return ""


def _shared(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Part of the range of both that both cover."""
    whole = max(*ours, *theirs) - min(*ours, *theirs)
    both = min(max(ours), max(theirs)) - max(min(ours), min(theirs))
    return max(0.0, both) / whole if whole else 0.0


def _span(numbers: Sequence[float]) -> str:
    return f"{min(numbers):.4g} to {max(numbers):.4g}"
