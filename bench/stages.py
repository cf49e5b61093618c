"""`glc-bench stages`: what each stage of encoding and decoding takes, and what part of its ceilings it reaches.

ceilings -> encode and decode in turn, repeated -> ceilings again -> rows of both directions -> table, waterfall
"""

from __future__ import annotations

import dataclasses
import io
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glc.bench.app import BundleOption, SizeOption, app
from glc.bench.ceiling import COPY, Ceiling, CeilingProbe, CeilingRow, ProbeSizes, ceiling_row, ceiling_table
from glc.bench.cost import GraphCost, bundle_cost
from glc.bench.device import device_card
from glc.bench.drawn import drawn_codec, symbol_bits
from glc.bench.output import CsvOption, LatexOption, MarkdownOption, Table, chosen_style, show
from glc.bench.timing import AGREEMENT, Spread, disagreement, take_turns
from glc.engines import GPU_ENGINES, PRECISIONS, engine_loader
from glc.engines.processor import available_threads
from glc.engines.protocol import HostLoader
from glc.runtime.bitstream import inspect
from glc.runtime.bundle import Bundle
from glc.runtime.files import require_place, write_file
from glc.runtime.signatures import EXACT_GRAPHS, signatures
from glc.runtime.terminal import parsed_size

LARGEST = ProbeSizes()
"""What the command measures ceilings with."""

REST = "rest"
"""Stage of what no other stage covers: copies and Python."""

TOTAL = "total"

DIRECTIONS = ("encode", "decode")

_ADDS_UP = 0.03
"""Medians of the stages may miss the median of the whole by this much."""

_FLOAT_BYTES = {"f32": 4, "f16": 2, "bf16": 2}

_ROOM = 1.6
"""Width of the picture over that of its bars, for what is written behind them."""

_COLOURS = {"network": "#2f6f9f", "entropy_coding": "#d98c3f", REST: "#9a9a9a"}


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of one direction, what is left over, or the whole."""

    direction: str
    """encode or decode."""
    stage: str
    """As the codec names it, with a number where it happens more than once; or `REST`, `TOTAL`."""
    stage_ms: float
    """Median."""
    share: float
    """Of the median of the whole."""
    stage_samples_ms: tuple[float, ...]
    precision: str | None = None
    """Of the graph; None where the stage is no graph, and so are the fields below."""
    dense_gflop: float | None = None
    """Convolutions and matrix products, a multiply-add counted as two, in 10^9."""
    traffic_mb: float | None = None
    """Weights read, and results of convolutions and matrix products written and read once, in 10^6 bytes."""
    gflop_s: float | None = None
    gb_s: float | None = None
    compute_fraction: float | None = None
    """Of the ceiling of convolutions at this precision."""
    copy_fraction: float | None = None
    """Of the ceiling of copies."""


@dataclass(frozen=True, slots=True)
class StageReport:
    """Everything that was measured."""

    engine: str
    """SDK, version, precision, threads and processor."""
    rows: tuple[StageRow, ...]
    ceilings: tuple[CeilingRow, ...]
    unavailable: Mapping[str, str]
    """Precision -> why it has no ceiling here."""
    file_bpp: float
    """Of the stream that was measured."""

    def sum_over_total(self, direction: str) -> float:
        """By how much the medians of the stages and of the rest exceed that of the whole, as a part of it."""
        rows = {row.stage: row.stage_ms for row in self.rows if row.direction == direction}
        return sum(rows.values()) / rows[TOTAL] - 2  # the whole itself is among the values


@dataclass(frozen=True, slots=True)
class Turn:
    """One call: its duration, and its stages as they ended."""

    total_ms: float
    stages: tuple[tuple[str, float], ...]

    def parts(self) -> dict[str, float]:
        """Stage -> milliseconds, in order, with numbers where a name comes again; last what they leave of the whole."""
        often, seen = Counter(name for name, _ in self.stages), Counter[str]()
        parts: dict[str, float] = {}
        for name, ms in self.stages:
            seen[name] += 1
            parts[f"{name} {seen[name]}" if often[name] > 1 else name] = ms
        return {**parts, REST: self.total_ms - sum(parts.values())}


def measure_stages(
    bundle: Bundle,
    engine: str,
    precision: str,
    height: int,
    width: int,
    *,
    threads: int | None = None,
    repetitions: int = 10,
    bpp: float = 0.03,
    sizes: ProbeSizes = LARGEST,
) -> StageReport:
    """Measure the ceilings, every stage, and the ceilings again.

    Args:
        bundle: exact or float.
        engine: as `engine_loader` takes it.
        precision: of the image graphs.
        height: of the image in pixels.
        width: likewise.
        threads: of engine and copies; None takes all that this process may use.
        repetitions: that count.
        bpp: rate of the payload at which symbols are drawn.
        sizes: what the ceilings are measured with.

    Raises:
        EngineUnavailable: the engine is not there, or cannot compute in this precision here.
        ValueError: symbols cannot be drawn at this rate, or a size is not positive.
        BundleError: a graph cannot be read or counted.
    """
    inner = engine_loader(engine, threads, precision)
    of_priors = precision
    if bundle.manifest.arithmetic == "exact" and isinstance(inner, HostLoader):
        of_priors = inner.exact_precision
    precisions = {
        name: of_priors if name in EXACT_GRAPHS else precision
        for name in signatures(bundle.manifest.config.latent_channels)
    }
    costs = bundle_cost(bundle, height, width, {name: _FLOAT_BYTES[value] for name, value in precisions.items()})
    bits = symbol_bits(bundle, height, width, bpp)
    stages: list[tuple[str, float]] = []
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)

    def turn(call: Callable[[], object]) -> Turn:
        stages.clear()
        start = time.perf_counter()
        call()
        return Turn(1e3 * (time.perf_counter() - start), tuple(stages))

    with (
        CeilingProbe(engine, threads, sizes) as probe,
        drawn_codec(bundle, inner, bits, on_stage=lambda name, ms: stages.append((name, ms))) as codec,
    ):
        data = codec.encode(image, 0)
        before = probe.measure()
        calls = {
            "encode": lambda: turn(lambda: codec.encode(image, 0)),
            "decode": lambda: turn(lambda: codec.decode(data)),
        }
        turns = take_turns(calls, repetitions)
        after = probe.measure()
        ceilings = {name: ceiling + after[name] for name, ceiling in before.items()}
        rows = [row for way in DIRECTIONS for row in stage_rows(way, turns[way], costs, precisions, ceilings)]
        both = tuple(ceiling_row(before[name], after[name]) for name in ceilings)
        return StageReport(codec.engine, tuple(rows), both, probe.unavailable, inspect(data).bpp)


def stage_rows(
    direction: str,
    turns: Sequence[Turn],
    costs: Mapping[str, GraphCost],
    precisions: Mapping[str, str],
    ceilings: Mapping[str, Ceiling],
) -> list[StageRow]:
    """Rows of one direction from its repetitions: stages in order, `REST`, `TOTAL`.

    Args:
        direction: encode or decode.
        turns: at least one, all with the same stages.
        costs: graph -> cost for the image.
        precisions: graph -> precision that it ran in.
        ceilings: precision or `COPY` -> ceiling; graphs in other precisions have no part of one.
    """
    whole = Spread(tuple(turn.total_ms for turn in turns))
    parts = [turn.parts() for turn in turns]
    spreads = {stage: Spread(tuple(part[stage] for part in parts)) for stage in parts[0]}
    # An engine may compute exact graphs in a precision that it has no ceiling of: openvino-amx has none in f32.
    floors_ns = {
        name: cost.total.dense_flops / ceilings[precisions[name]].median
        for name, cost in costs.items()
        if precisions[name] in ceilings
    }
    rows = []
    for stage, spread in {**spreads, TOTAL: whole}.items():
        ms = spread.median_ms
        row = StageRow(direction, stage, ms, ms / whole.median_ms, spread.samples_ms)
        graphs = [name for name in spreads if name in costs and stage in (name, TOTAL)]
        if graphs:
            totals = [costs[name].total for name in graphs]
            known = [floors_ns[name] for name in graphs if name in floors_ns]
            traffic = sum(total.weight_bytes + total.fused_bytes for total in totals)
            row = dataclasses.replace(
                row,
                precision="+".join(dict.fromkeys(precisions[name] for name in graphs)),
                dense_gflop=1e-9 * sum(total.dense_flops for total in totals),
                traffic_mb=1e-6 * traffic,
                gflop_s=1e-6 * sum(total.dense_flops for total in totals) / ms,
                gb_s=1e-6 * traffic / ms,
                compute_fraction=1e-6 * sum(known) / ms if known else None,
                copy_fraction=1e-6 * traffic / ms / ceilings[COPY].median,
            )
        rows.append(row)
    return rows


def waterfall_png(report: StageReport, title: str) -> bytes:
    """Stages one after another as bars, encoding above and decoding below, as a PNG file."""
    rows = {way: [row for row in report.rows if row.direction == way and row.stage != TOTAL] for way in DIRECTIONS}
    ends = {way: sum(row.stage_ms for row in rows[way]) for way in DIRECTIONS}
    heights = [len(rows[way]) for way in DIRECTIONS]
    figure = Figure(figsize=(10, 1.6 + 0.27 * sum(heights)), layout="constrained")
    panes = figure.subplots(len(DIRECTIONS), 1, sharex=True, height_ratios=heights)
    for way, axes in zip(DIRECTIONS, panes, strict=True):
        _draw(axes, rows[way])
        axes.set_title(f"{way}: {ends[way]:,.0f} ms", fontsize="small", loc="left")
    panes[-1].set(xlabel="ms", xlim=(0, _ROOM * max(ends.values())))
    figure.suptitle(textwrap.fill(title, 130), fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _draw(axes: Axes, rows: Sequence[StageRow]) -> None:
    start = 0.0
    for number, row in enumerate(rows):
        colour = _COLOURS.get(row.stage.partition(" ")[0], _COLOURS["network"])
        axes.barh(number, row.stage_ms, left=start, color=colour)
        start += row.stage_ms
        label = f" {_three_digits(row.stage_ms)} ms"
        if row.gflop_s is not None and row.compute_fraction is not None:
            label += f", {row.gflop_s:.3g} GFLOP/s, {row.compute_fraction:.0%} of the {row.precision} ceiling"
        axes.text(start, number, label, va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [row.stage for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


@app.command()
def stages(
    bundle: BundleOption,
    engine: Annotated[str, typer.Option("--engine", help="Engine that runs the graphs.")] = "onnxruntime",
    precision: Annotated[str, typer.Option("--precision", help=f"One of {', '.join(PRECISIONS)}.")] = "f32",
    size: SizeOption = "512x768",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="All that may be used by default.")] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Of each direction, one more dropped.")] = 10,
    bpp: Annotated[float, typer.Option("--bpp", help="Bits per pixel that the symbols are drawn at.")] = 0.03,
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG of the stages as a waterfall.")] = None,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Time of every stage, and what part of this device's measured ceilings it reaches."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    height, width = parsed_size(size)
    if plot is not None:
        require_place(plot)
    if engine in GPU_ENGINES:
        raise typer.BadParameter(f"{engine} is no engine on the CPU, whose ceilings this compares with; use table")
    opened, threads = Bundle.open(bundle), threads or available_threads()
    try:
        report = measure_stages(
            opened, engine, precision, height, width, threads=threads, repetitions=repetitions, bpp=bpp, sizes=LARGEST
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    title = f"Stages: {opened.manifest.label}, {size}, {report.engine}"
    if plot is not None:
        write_file(plot, waterfall_png(report, title))
    headings = ("", "stage", "ms", "share", "precision", "GFLOP", "MB", "GFLOP/s", "of ceiling", "GB/s", "of copy")
    notes = (
        *_remarks(report),
        f"medians of {repetitions} repetitions; symbols are drawn at {bpp:g} bpp in place of the networks' "
        f"(all networks run), the file has {report.file_bpp:.4f} bpp; the image is noise",
        "GFLOP: convolutions and matrix products, a multiply-add counted as two; MB: weights, and activations that "
        "convolutions and matrix products read and write; what stays in a cache can beat the copy ceiling",
        "fractions are of the median ceilings below; decoding, entropy_coding 1 is of z indices, 2 to 5 of parts",
    )
    table = Table(title, headings, [_cells(row) for row in report.rows], notes)
    ceilings = ceiling_table(report.ceilings, report.unavailable)
    of_run = {"height": height, "width": width, "threads": threads}  # by which `compare` tells runs apart
    found: tuple[StageRow | CeilingRow, ...] = (*report.rows, *report.ceilings)
    rows = [{**dataclasses.asdict(row), **of_run} for row in found]
    show("stages", [table, ceilings], rows, style, device_card(), engine=report.engine)


def _cells(row: StageRow) -> tuple[str, ...]:
    times = (row.direction, row.stage, f"{row.stage_ms:.2f}", f"{row.share:.1%}")
    amounts = (_cell(row.dense_gflop, ".2f"), _cell(row.traffic_mb, ".1f"), _cell(row.gflop_s, ".1f"))
    rates = (_cell(row.compute_fraction, ".0%"), _cell(row.gb_s, ".1f"), _cell(row.copy_fraction, ".0%"))
    return (*times, row.precision or "", *amounts, *rates)


def _three_digits(value: float) -> str:
    """Three digits at the least, never an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _remarks(report: StageReport) -> Iterator[str]:
    """What a reader must know of this very run: whether it adds up, agrees with itself, and used one precision."""
    for way in DIRECTIONS:
        excess = report.sum_over_total(way)
        verdict = "" if abs(excess) <= _ADDS_UP else f", over {_ADDS_UP:.0%}: the machine was too noisy"
        yield f"{way}: stages and rest differ from the total by {excess:+.1%}{verdict}"
    twice = [[row for row in report.rows if row.stage == name] for name in EXACT_GRAPHS]
    apart = max(disagreement(*(Spread(row.stage_samples_ms) for row in rows)) for rows in twice)
    if apart > AGREEMENT:
        yield f"priors of both directions differ by up to {apart:.1%}, over {AGREEMENT:.0%}: the machine was noisy"
    if len({row.precision for row in report.rows if row.precision in PRECISIONS}) > 1:
        yield (
            "exact graphs run at a precision of their own, whatever the others do, and are compared with its ceiling "
            "where the engine has one"
        )
