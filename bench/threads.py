"""Threads that share a codec: whether each gets, to the last byte, what one alone gets, and how many calls a second."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from glc.bench.app import BundleOption, app
from glc.bench.device import device_card
from glc.bench.output import CsvOption, LatexOption, MarkdownOption, Table, chosen_style, show
from glc.engines import CPU_ENGINES, EngineLoader, engine_loader
from glc.errors import EngineUnavailable, TruncatedBitstream
from glc.runtime.bitstream import QUALITY_STEPS
from glc.runtime.bundle import Bundle
from glc.runtime.codec import DEFAULT_MAX_PIXELS, Codec
from glc.runtime.images import read_image

_LARGEST = (300, 400)
"""Height and width of the largest crop; sides are drawn so that small ones are as frequent as large ones."""

_CALLS_OF_AN_IMAGE = 4

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ThreadsRow:
    """One codec under calls from so many threads."""

    engine: str
    callers: int
    """Threads that call; each run of the engine has the threads that its name tells."""
    calls: int
    """Encode, decode, preview and partial decode of each image, in an order that is drawn."""
    differing: int
    """Calls whose result is not, to the last byte, that of one thread; among them those that raised."""
    calls_per_s: float


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    image: Pixels
    quality: float
    stream: bytes
    cut: bytes
    """The first bytes of it."""


def measure_threads(
    bundle: Bundle, loader: EngineLoader, images: Sequence[Pixels], count: int, callers: Sequence[int], seed: int = 0
) -> list[ThreadsRow]:
    """Call from one thread, then from several, each time on a codec whose graphs are not loaded yet.

    Args:
        bundle: to open.
        loader: of an engine, best with one thread a run.
        images: that crops are cut from.
        count: crops, of 1x1 to 300x400 pixels and of all qualities.
        callers: numbers of threads.
        seed: of crops, qualities and orders.

    Raises:
        GlcError: the bundle or the engine cannot be used.
    """
    random = np.random.default_rng(seed)
    with Codec(bundle, loader) as codec:
        cases = [_case(codec, images[number % len(images)], random) for number in range(count)]
        expected = [_outcome(codec, case, what) for case in cases for what in range(_CALLS_OF_AN_IMAGE)]
    rows = []
    for number in callers:
        order = random.permutation(len(expected)).tolist()
        with Codec(bundle, loader) as codec, ThreadPoolExecutor(number) as pool:

            def call(at: int, codec: Codec = codec) -> bool:
                case, what = divmod(at, _CALLS_OF_AN_IMAGE)
                try:
                    return _outcome(codec, cases[case], what) == expected[at]
                except Exception:  # whatever it is, the one thread did not raise it
                    return False

            first = list(pool.map(call, order[: 4 * number]))  # loads the graphs, in all threads at once
            start = time.perf_counter()
            same = list(pool.map(call, order))
            seconds = time.perf_counter() - start
        differing = first.count(False) + same.count(False)
        rows.append(ThreadsRow(loader.fingerprint, number, len(order), differing, len(order) / seconds))
    return rows


def _case(codec: Codec, image: Pixels, random: np.random.Generator) -> _Case:
    height, width = (_drawn_side(most, side, random) for most, side in zip(_LARGEST, image.shape[:2], strict=True))
    top, left = (int(random.integers(most + 1)) for most in (image.shape[0] - height, image.shape[1] - width))
    crop = image[top : top + height, left : left + width]
    quality = int(random.integers((codec.qualities - 1) * QUALITY_STEPS + 1)) / QUALITY_STEPS
    stream = codec.encode(crop, quality)
    return _Case(crop, quality, stream, stream[: int(random.integers(len(stream) // 2, len(stream) + 1))])


def _drawn_side(most: int, there: int, random: np.random.Generator) -> int:
    return int(np.exp(random.uniform(0, np.log(min(most, there) + 1))))


def _outcome(codec: Codec, case: _Case, what: int) -> str:
    """Digest of a result, or what was raised; a cut may lie before the end of the z indices."""
    calls: tuple[Callable[[], bytes], ...] = (
        lambda: codec.encode(case.image, case.quality),
        lambda: codec.decode(case.stream).tobytes(),
        lambda: codec.preview(case.cut).tobytes(),
        lambda: codec.decode_partial(case.cut).image.tobytes(),
    )
    try:
        return hashlib.sha256(calls[what]()).hexdigest()
    except TruncatedBitstream as error:
        return str(error)


@app.command()
def threads(
    images: Annotated[list[Path], typer.Argument(help="Photographs that crops are cut from.")],
    bundle: BundleOption,
    count: Annotated[
        int, typer.Option("--crops", min=1, help="Crops, each encoded, decoded, previewed and cut.")
    ] = 500,
    callers: Annotated[int, typer.Option("--callers", min=3, help="Threads that call, after 1 and 2.")] = 8,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Share a codec among threads: results against those of one thread, and calls a second; one thread a run."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    opened = Bundle.open(bundle)
    pixels = [read_image(path, DEFAULT_MAX_PIXELS).pixels for path in images]
    rows: list[ThreadsRow] = []
    missing = []
    for name in CPU_ENGINES:
        try:
            loader = engine_loader(name, 1)
        except EngineUnavailable as error:
            missing.append(f"not measured: {name}: {error}")
        else:
            rows += measure_threads(opened, loader, pixels, count, (1, 2, callers))
    alone = {row.engine: row.calls_per_s for row in rows if row.callers == 1}
    cells = [
        (
            row.engine,
            str(row.callers),
            str(row.calls),
            str(row.differing),
            f"{row.calls_per_s:.1f}",
            f"{row.calls_per_s / alone[row.engine]:.2f}",
        )
        for row in rows
    ]
    headings = ("engine", "callers", "calls", "differing", "calls/s", "against 1")
    show("threads", [Table("Threads that share a codec", headings, cells, tuple(missing))], rows, style, device_card())
