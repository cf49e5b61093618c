"""How latency and memory grow with the image, the batch and the threads.

    points (size, batch, threads) -> one fresh process each -> rows -> fitted exponents, plot

Each process tells its own time and peak. No point is begun that those before it say would not fit into memory or time.
"""

from __future__ import annotations

import io
import json
import logging
import math
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer

from glc.bench.app import BundleOption, app
from glc.bench.device import device_card
from glc.bench.drawn import drawn_codec, level_probabilities, symbol_bits
from glc.bench.memory import peak_memory_bytes
from glc.bench.output import CsvOption, LatexOption, MarkdownOption, Table, chosen_style, show
from glc.bench.timing import AGREEMENT, Spread, milliseconds, take_turns
from glc.engines import PRECISIONS, engine_loader
from glc.engines.processor import available_threads
from glc.errors import EngineFailed
from glc.runtime.bundle import Bundle
from glc.runtime.codec import DEFAULT_MAX_PIXELS
from glc.runtime.files import require_place, write_file

_logger = logging.getLogger(__name__)

_SIZES = "256x256,512x512,512x768,1024x1024,1024x1536,2048x2048,2048x3072,4096x4096,4096x6144,8192x8192,8192x12288"
"""Up to what a codec takes."""

MEMORY_SHARE = 0.8
"""Part of the available memory that a point may be predicted to take."""

_NO_MEMORY = "MemoryError|bad_alloc|[Ff]ailed to allocate|not enough memory"
"""In the last words of a process that ran out of memory."""


@dataclass(frozen=True, slots=True)
class Point:
    """What one process measures."""

    bundle: str
    engine: str
    precision: str
    bpp: float
    """Rate at which the symbols are drawn, bits per pixel."""
    repetitions: int
    varied: str
    """`size`, `batch` or `threads`."""
    height: int
    width: int
    batch: int
    threads: int

    @property
    def name(self) -> str:
        """For notes."""
        return f"{self.height}x{self.width}, batch {self.batch}, threads {self.threads}"

    @property
    def pixels(self) -> int:
        """Of one image: memory grows with them, for those of a batch are coded one after another."""
        return self.height * self.width

    @property
    def work(self) -> float:
        """What time grows with."""
        return self.batch * self.pixels / self.threads


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """One point, measured; times are of the whole batch."""

    varied: str
    engine: str
    precision: str
    height: int
    width: int
    batch: int
    threads: int
    megapixels: float
    """Of the whole batch, 10^6 pixels."""
    bpp: float
    """Of the files."""
    encode_samples_ms: Sequence[float]
    decode_samples_ms: Sequence[float]
    encode_ms: float
    """Median."""
    decode_ms: float
    peak_memory_bytes: int
    """Largest resident set of the process: interpreter, weights and all."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The power law through the rows that vary the size: ms = `at_1_mp_ms` * megapixels ^ `exponent`."""

    what: str
    """`encode` or `decode`."""
    exponent: float
    at_1_mp_ms: float


def measure_scale(
    first: Point, sizes: Sequence[tuple[int, int]], batches: Sequence[int], threads: Sequence[int], max_seconds: float
) -> tuple[list[ScaleRow], list[str]]:
    """Vary the batch of a first point, then its threads, then, in the time that is left, its size (height and width).

    Returns:
        Rows, those of sizes first, and what was left out and why.

    Raises:
        ValueError: the rate cannot be drawn at one of the sizes.
        GlcError: the bundle or the engine cannot be used.
    """
    sweeps = (
        [replace(first, varied="batch", batch=batch) for batch in sorted(batches)],
        [replace(first, varied="threads", threads=count) for count in sorted(threads, reverse=True)],
        [replace(first, varied="size", height=h, width=w) for h, w in sorted(sizes, key=math.prod)],
    )
    bundle = Bundle.open(first.bundle)
    engine_loader(first.engine, None, first.precision)  # what is missing raises here
    for point in sweeps[-1]:
        level_probabilities(bundle.tables().scales, symbol_bits(bundle, point.height, point.width, point.bpp))
    rows, notes, end = list[ScaleRow](), list[str](), time.monotonic() + max_seconds
    memory, seconds = defaultdict[float, float](float), defaultdict[float, float](float)
    for sweep in sweeps:
        for place, point in enumerate(sweep):
            began, row = time.monotonic(), None
            bytes_needed, bytes_free = predict(memory, point.pixels), psutil.virtual_memory().available
            reason = (
                f"{bytes_needed / 2**30:.1f} GiB predicted, over {MEMORY_SHARE:.0%} of {bytes_free / 2**30:.1f} free"
            )
            if bytes_needed <= MEMORY_SHARE * bytes_free:
                seconds_needed = predict(seconds, point.work)
                reason = f"{seconds_needed:.0f} s predicted, {max(0, end - began):.0f} s left of the time given"
                if began + seconds_needed < end:
                    _logger.info("measuring %s", point.name)
                    row, reason = measure_in_process(point), "its process ran out of memory"
            if row is None:
                notes.append(f"left out ({reason}): {'; '.join(left.name for left in sweep[place:])}")
                break
            rows.append(row)
            memory[point.pixels] = max(memory[point.pixels], row.peak_memory_bytes)
            seconds[point.work] = max(seconds[point.work], time.monotonic() - began)
    return sorted(rows, key=lambda row: row.varied != "size"), notes


def measure_in_process(point: Point) -> ScaleRow | None:
    """Measure in a fresh process; None where it ran out of memory.

    Raises:
        EngineFailed: the process failed for another reason.
    """
    command = [sys.executable, "-c", "from glc.bench.scale import answer; answer()"]
    sent = json.dumps(asdict(point))
    done = subprocess.run(command, input=sent, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode == 0:
        return ScaleRow(**json.loads(done.stdout.splitlines()[-1]))
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    if done.returncode == -signal.SIGKILL or re.search(_NO_MEMORY, last):
        return None
    raise EngineFailed(f"measuring {point.name} failed: {last}")


def answer() -> None:
    """What the fresh process does: a point on stdin, a row on stdout, both JSON."""
    print(json.dumps(asdict(measure_here(Point(**json.load(sys.stdin))))))


def measure_here(point: Point) -> ScaleRow:
    """Measure in this process, whose peak memory is that of all that it ever did."""
    bundle = Bundle.open(point.bundle)
    loader = engine_loader(point.engine, point.threads, point.precision)
    bits = symbol_bits(bundle, point.height, point.width, point.bpp)
    images = [np.random.default_rng(0).integers(0, 256, (point.height, point.width, 3), np.uint8)] * point.batch
    with drawn_codec(bundle, loader, bits) as codec:
        streams = codec.encode_batch(images)
        runs = {
            "encode": lambda: milliseconds(lambda: codec.encode_batch(images)),
            "decode": lambda: milliseconds(lambda: codec.decode_batch(streams)),
        }
        encode, decode = (Spread(tuple(samples)) for samples in take_turns(runs, point.repetitions).values())
    megapixels = 1e-6 * point.batch * point.pixels
    own = ("bundle", "engine", "bpp", "repetitions")
    return ScaleRow(
        **{name: value for name, value in asdict(point).items() if name not in own},
        engine=loader.name,
        megapixels=megapixels,
        bpp=8e-6 * sum(map(len, streams)) / megapixels,
        encode_samples_ms=encode.samples_ms,
        decode_samples_ms=decode.samples_ms,
        encode_ms=encode.median_ms,
        decode_ms=decode.median_ms,
        peak_memory_bytes=peak_memory_bytes(),
    )


def fit_rows(rows: Iterable[ScaleRow]) -> list[Fit]:
    """Least squares on the logarithms, for encode and decode; none where fewer than two sizes are known."""
    sizes = [row for row in rows if row.varied == "size"]
    if len({row.megapixels for row in sizes}) < 2:
        return []
    times = {"encode": [row.encode_ms for row in sizes], "decode": [row.decode_ms for row in sizes]}
    lines = {what: np.polyfit(np.log([row.megapixels for row in sizes]), np.log(ms), 1) for what, ms in times.items()}
    return [Fit(what, float(exponent), float(np.exp(at_0))) for what, (exponent, at_0) in lines.items()]


def predict(known: Mapping[float, float], at: float) -> float:
    """Extrapolate what grows at least linearly; 0 where nothing is known.

    Beyond the known it is the larger of the line through the last two points and the parabola through the last
    three, for attention may take memory and time by the square; from one point, proportional to it.
    """
    x = sorted(known)
    y = [known[place] for place in x]
    if len(x) < 2:
        return y[0] * max(1, at / x[0]) if x else 0.0
    if at <= x[-1]:
        return float(np.interp(at, x, y))
    curves = (np.polyfit(np.divide(x[-n:], at), y[-n:], n - 1) for n in (2, 3) if len(x) >= n)
    return max(y[-1], *(float(curve.sum()) for curve in curves))


def parse_numbers(text: str, factors: int, most: int) -> list[tuple[int, ...]]:
    """Numbers of `1,2,4`, or of two factors, `256x256,512x768`; ValueError for anything else, 0 or more than most."""
    found = [re.fullmatch("x".join(["([0-9]{1,9})"] * factors), part.strip()) for part in text.split(",")]
    numbers = [tuple(map(int, match.groups())) for match in found if match]
    if len(numbers) < len(found) or not all(1 <= math.prod(number) <= most for number in numbers):
        form = "heights x widths such as 256x256,512x768, pixels" if factors == 2 else "numbers such as 1,2,"
        raise ValueError(f"{text!r}: expected {form} from 1 to {most}")
    return numbers


def plot_png(rows: Sequence[ScaleRow], fits: Iterable[Fit], title: str) -> bytes:
    """Latency of rows that vary the size over megapixels, on logarithmic axes, with the fitted power laws."""
    from matplotlib.figure import Figure  # here, so that it takes no memory in the processes that are measured

    sizes = [row for row in rows if row.varied == "size"]
    megapixels = np.array([row.megapixels for row in sizes])
    axes = (figure := Figure(figsize=(7, 5), layout="constrained")).add_subplot()
    axes.plot(megapixels, [row.encode_ms for row in sizes], "C0o", label="encode")
    axes.plot(megapixels, [row.decode_ms for row in sizes], "C1o", label="decode")
    for fit, line in zip(fits, ("C0--", "C1--"), strict=True):
        curve = fit.at_1_mp_ms * megapixels**fit.exponent
        axes.plot(megapixels, curve, line, label=f"{fit.what}: exponent {fit.exponent:.2f}")
    axes.set(xscale="log", yscale="log", xlabel="megapixels", ylabel="latency in ms, median")
    axes.set_title(title, fontsize="small", wrap=True)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


@app.command()
def scale(
    bundle: BundleOption,
    engine: Annotated[str, typer.Option("--engine", help="Engine that runs the graphs.")] = "onnxruntime",
    precision: Annotated[str, typer.Option("--precision", help=f"One of {', '.join(PRECISIONS)}.")] = "f32",
    sizes: Annotated[str, typer.Option("--sizes", help="Heights x widths in pixels.")] = _SIZES,
    batches: Annotated[str, typer.Option("--batches", help="Images in a batch, at the smallest size.")] = "1,2,4,8",
    threads: Annotated[str, typer.Option("--threads", help="At the smallest size; all: 1, 2, 4 and so on.")] = "all",
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG of latency over megapixels.")] = None,
    bpp: Annotated[float, typer.Option("--bpp", help="Bits per pixel that the symbols are drawn at.")] = 0.03,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Timed runs of each point.")] = 5,
    max_seconds: Annotated[float, typer.Option("--max-seconds", min=0, help="What takes longer is left out.")] = 600,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Latency and memory over image sizes, batches and threads, with the exponent that latency grows by."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    if plot is not None:
        require_place(plot)
    most = available_threads()
    doubled = [*(1 << power for power in range((most - 1).bit_length())), most]
    try:
        shapes = [(height, width) for height, width in parse_numbers(sizes, 2, DEFAULT_MAX_PIXELS)]
        counts = doubled if threads == "all" else [count for (count,) in parse_numbers(threads, 1, most)]
        images = [count for (count,) in parse_numbers(batches, 1, 1024)]
        first = Point(str(bundle), engine, precision, bpp, repetitions, "size", *min(shapes, key=math.prod), 1, most)
        rows, left_out = measure_scale(first, shapes, images, counts, max_seconds)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    fits, label = fit_rows(rows), Bundle.open(bundle).manifest.label
    if plot is not None and fits:
        write_file(plot, plot_png(rows, fits, label))
    notes = (
        *(f"fitted: {fit.what} {fit.at_1_mp_ms:.0f} ms * megapixels ^ {fit.exponent:.3f}" for fit in fits),
        *(*left_out, *_noise(rows), *(["no plot: fewer than two sizes"] if plot is not None and not fits else [])),
        f"medians of {repetitions} repetitions, each point in a fresh process; memory is its peak, with interpreter",
        f"symbols are drawn at {bpp:g} bpp in place of the networks' (all networks run); images are noise",
    )
    headings = ("varied", "engine", "size", "batch", "threads", "enc ms", "dec ms", "enc MP/s", "dec MP/s", "peak MiB")
    table = Table(f"Scaling: {label}", headings, [_cells(row) for row in rows], notes)
    show("scale", [table], [*rows, *fits], style, device_card())


def _cells(row: ScaleRow) -> tuple[str, ...]:
    what = (row.varied, f"{row.engine} {row.precision}", f"{row.height}x{row.width}", str(row.batch), str(row.threads))
    times = (f"{row.encode_ms:.1f}", f"{row.decode_ms:.1f}")
    speeds = (f"{1e3 * row.megapixels / ms:.3f}" for ms in (row.encode_ms, row.decode_ms))
    return (*what, *times, *speeds, f"{row.peak_memory_bytes / 2**20:.0f}")


def _noise(rows: Iterable[ScaleRow]) -> list[str]:
    """How far a point that is in two sweeps was from itself."""
    off, seen = list[float](), dict[tuple[int, ...], ScaleRow]()
    for row in rows:
        before = seen.setdefault((row.height, row.width, row.batch, row.threads), row)
        if before is not row:
            off += [row.encode_ms / before.encode_ms, row.decode_ms / before.decode_ms]
    most = max((max(ratio, 1 / ratio) - 1 for ratio in off), default=0.0)
    verdict = "THE MACHINE WAS TOO NOISY, smaller differences mean nothing: " if most > AGREEMENT else ""
    return [f"{verdict}points measured again are up to {most:.1%} apart"] if off else []
