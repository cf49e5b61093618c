"""Streams cut at every byte: which cuts are refused, what the others show, and whether more bytes ever show less."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glc.engines import Array, Engine, EngineLoader, HostLoader, engine_loader
from glc.errors import TruncatedBitstream
from glc.runtime.bitstream import inspect
from glc.runtime.bundle import Bundle
from glc.runtime.codec import DEFAULT_MAX_PIXELS, Codec
from glc.runtime.images import read_image

_SIDES = (64, 80, 96, 112, 128)
"""Sides that crops are drawn from: streams of some hundred bytes."""

_PERCENTS = range(0, 101, 5)


@dataclass(frozen=True, slots=True)
class CutCounts:
    """What became of streams that were cut to every length from one byte to all but one."""

    cuts: int
    refused: int
    """Cuts that end before any image: TruncatedBitstream, though a partial one was asked for."""
    shown: int
    """Cuts that show an image; as many steps of one byte lead from the first of them to the whole stream."""
    failed: int
    """Cuts that raised anything else."""
    passed: int
    """Cuts that are not TruncatedBitstream where no partial image is asked for."""
    image_falls: int
    """Steps after which the image is further off the crop."""
    image_fall_db: float
    """The largest of them, as growth of the mean squared error."""
    image_lag_db: float
    """How far an image is behind the best one of fewer bytes, at the most."""
    latent_falls: int
    """Steps after which the latent is further off that of the whole stream."""
    latent_fall_db: float
    """The largest of them."""
    latent_lag_db: float
    """How far a latent is behind the best one of fewer bytes, at the most."""


@dataclass(frozen=True, slots=True)
class CutRow:
    """One stream."""

    image: str
    quality: int
    width: int
    height: int
    stream_bytes: int
    counts: CutCounts


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """All streams, cut at one share of their payload; means are over the streams that show an image there."""

    payload_percent: int
    shown: int
    """Streams that show an image."""
    symbols: float | None
    """Mean share of symbols that the bytes tell."""
    latent_error: float | None
    """Mean squared error of the latent against the whole stream's, as a share of the preview's."""
    psnr_db: float | None
    """Mean PSNR against the crop."""


@dataclass(frozen=True, slots=True)
class CutReport:
    """What `measure_cuts` found."""

    rows: list[CutRow]
    total: CutCounts
    """Counts added up; of what is in dB, the largest."""
    curve: list[CurvePoint]


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the first bytes of a stream show."""

    symbols: float
    image_error: float
    """Mean squared error against the crop."""
    latent_error: float
    """Mean squared error against the whole stream's latent, as a share of the preview's."""

    @property
    def psnr_db(self) -> float:
        return 10 * math.log10(255**2 / self.image_error) if self.image_error else math.inf


class _LatentTap(HostLoader):
    """Loads like another loader, and keeps the latent that the synthesis transform was given last."""

    def __init__(self, loader: EngineLoader) -> None:
        self._loader = loader
        self.name, self.fingerprint = loader.name, loader.fingerprint
        self.latent: NDArray[np.float32] = np.zeros(0, np.float32)

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        engine = self._loader.load(graph, exact=exact)
        return _TappedEngine(engine, self) if {spec.name for spec in engine.inputs} == {"y_hat", "q_row"} else engine


class _TappedEngine:
    def __init__(self, engine: Engine, tap: _LatentTap) -> None:
        self._engine, self._tap = engine, tap
        self.inputs, self.outputs = engine.inputs, engine.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._tap.latent = feeds["y_hat"].copy()
        return self._engine.run(feeds)

    def close(self) -> None:
        self._engine.close()


def measure_cuts(
    bundle: Bundle, images: Sequence[Path], streams: int, seed: int = 0, *, progressive: bool = False
) -> CutReport:
    """Encode crops of images, each at one quality in turn, and decode every cut of them with one thread.

    Args:
        bundle: with which.
        images: that crops are drawn from.
        streams: how many.
        seed: of the crops.
        progressive: streams with refinements.

    Raises:
        GlcError: a bundle or an image cannot be used.
    """
    random = np.random.default_rng(seed)
    tap = _LatentTap(engine_loader("onnxruntime", 1))
    rows, curves = [], []
    with Codec(bundle, tap) as codec:
        for number in range(streams):
            path = images[number % len(images)]
            pixels = read_image(path, DEFAULT_MAX_PIXELS).pixels
            height, width = (min(int(random.choice(_SIDES)), side) for side in pixels.shape[:2])
            top, left = random.integers(pixels.shape[0] - height + 1), random.integers(pixels.shape[1] - width + 1)
            crop = pixels[top : top + height, left : left + width]
            row, shown = _cut_everywhere(codec, tap, crop, number % codec.qualities, path.name, progressive=progressive)
            rows.append(row)
            curves.append(shown)
    curve = [_mean(percent, column) for percent, column in zip(_PERCENTS, zip(*curves, strict=True), strict=True)]
    return CutReport(rows, _total([row.counts for row in rows]), curve)


def _cut_everywhere(
    codec: Codec, tap: _LatentTap, crop: NDArray[np.uint8], quality: int, image: str, *, progressive: bool
) -> tuple[CutRow, list[_Shown | None]]:
    """One stream, and what it shows at each of `_PERCENTS`."""
    data = codec.encode(crop, quality, progressive=progressive)
    whole = codec.decode_latent(data)
    codec.preview(data)
    preview_error = _squared_error(tap.latent[0], whole) or 1.0
    found: dict[int, _Shown] = {}
    refused = failed = passed = 0
    for length in range(1, len(data) + 1):
        passed += length < len(data) and not _is_refused(codec, data[:length])
        try:
            partial = codec.decode_partial(data[:length])
        except TruncatedBitstream:
            refused += 1
            continue
        except Exception:  # counting what should not happen is the point
            failed += 1
            continue
        latent_error = _squared_error(tap.latent[0], whole) / preview_error
        found[length] = _Shown(partial.symbols, _squared_error(partial.image, crop), latent_error)
    image_errors = [shown.image_error for shown in found.values()]
    latent_errors = [shown.latent_error for shown in found.values()]
    image_growth, latent_growth = _growth(image_errors), _growth(latent_errors)
    counts = CutCounts(
        cuts=len(data) - 1,
        refused=refused,
        shown=len(found) - 1,
        failed=failed,
        passed=passed,
        image_falls=len(image_growth),
        image_fall_db=max(image_growth, default=0.0),
        image_lag_db=_largest_lag(image_errors),
        latent_falls=len(latent_growth),
        latent_fall_db=max(latent_growth, default=0.0),
        latent_lag_db=_largest_lag(latent_errors),
    )
    row = CutRow(image, quality, crop.shape[1], crop.shape[0], len(data), counts)
    info = inspect(data)
    return row, [found.get(info.header_bytes + round(info.payload_bytes * percent / 100)) for percent in _PERCENTS]


def _is_refused(codec: Codec, cut: bytes) -> bool:
    try:
        codec.decode_latent(cut)
    except TruncatedBitstream:
        return True
    except Exception:
        return False
    return False


def _squared_error(found: NDArray[np.generic], wanted: NDArray[np.generic]) -> float:
    return float(np.square(found.astype(np.float64) - wanted.astype(np.float64)).mean())


def _growth(errors: Sequence[float]) -> list[float]:
    """How much each step adds after which the error is larger, in dB."""
    return [_decibels(after, before) for before, after in itertools.pairwise(errors) if after > before]


def _largest_lag(errors: Sequence[float]) -> float:
    least = itertools.accumulate(errors, min)
    return max(_decibels(error, best) for error, best in zip(errors, least, strict=True))


def _decibels(error: float, other: float) -> float:
    """Error over another one that is not larger; both may be zero."""
    if error == other:
        return 0.0
    return 10 * math.log10(error / other) if other else math.inf


def _total(rows: Sequence[CutCounts]) -> CutCounts:
    together = {}
    for field in dataclasses.fields(CutCounts):
        values = [getattr(row, field.name) for row in rows]
        together[field.name] = max(values) if field.name.endswith("_db") else sum(values)
    return CutCounts(**together)


def _mean(percent: int, found: Sequence[_Shown | None]) -> CurvePoint:
    shown = [one for one in found if one is not None]
    if not shown:
        return CurvePoint(percent, 0, None, None, None)
    symbols, latent_error, psnr_db = np.mean([(one.symbols, one.latent_error, one.psnr_db) for one in shown], axis=0)
    return CurvePoint(percent, len(shown), float(symbols), float(latent_error), float(psnr_db))
