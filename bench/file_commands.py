"""`glc-bench rate`, `exact`, `cut` and `startup`: what files take, where they decode, how processes start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glc.bench.app import BundleOption, app
from glc.bench.cut import CutCounts, CutReport, measure_cuts
from glc.bench.device import device_card
from glc.bench.exact import available_loaders, measure_pairs
from glc.bench.output import CsvOption, LatexOption, MarkdownOption, Table, chosen_style, show
from glc.bench.rate import measure_rate
from glc.bench.startup import measure_startup
from glc.bench.torch_engine import exact_reference
from glc.export.model_options import CheckpointOption, SeedOption, SyntheticOption, chosen_model
from glc.runtime.bundle import Bundle


@app.command()
def rate(
    images: Annotated[list[Path], typer.Argument(help="Photographs.")],
    bundle: BundleOption,
    checkpoint: CheckpointOption = None,
    synthetic: SyntheticOption = None,
    seed: SeedOption = 0,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Bits of real files beside the ideal cost and the published estimate."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    model, _ = chosen_model(checkpoint, synthetic, seed)
    rows = measure_rate(model, bundle, images)
    headings = ("image", "quality", "published bits", "ideal bits", "vs published", "payload bits", "vs ideal")
    table = Table(
        "Rate: published estimate, ideal cost under the scale table, file",
        (*headings, "file bytes", "bpp", "nonzero at index 0", "changed", "within 1/255 of x_hat"),
        [
            (
                row.image,
                str(row.quality),
                f"{row.published_bits:.0f}",
                f"{row.ideal_bits:.0f}",
                f"{row.ideal_over_published:+.2%}",
                str(row.payload_bits),
                f"{row.payload_over_ideal:+.2%}",
                str(row.file_bytes),
                f"{row.bpp:.4f}",
                f"{row.nonzero_at_index_0} of {row.nonzero}",
                str(row.changed),
                f"{row.within_one:.4%}",
            )
            for row in rows
        ],
    )
    show("rate", [table], rows, style, None)


@app.command()
def startup(
    bundle: BundleOption,
    image: Annotated[Path, typer.Option("--image", help="Photograph for the first image.")],
    repetitions: Annotated[int, typer.Option("--repetitions", "-n", min=1, help="Timed runs of each command.")] = 9,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Time from the start of a process to its result."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    rows = measure_startup(bundle, image, repetitions)
    cells = [(row.what, f"{row.median_ms:.0f}", f"{row.largest_ms:.0f}") for row in rows]
    table = Table("Start-up, fresh processes", ("what", "median ms", "largest ms"), cells)
    show("startup", [table], rows, style, device_card())


@app.command()
def exact(
    images: Annotated[list[Path], typer.Argument(help="Photographs that crops are cut from.")],
    bundle: BundleOption,
    crops: Annotated[int, typer.Option("--crops", min=1, help="Crops, each at one quality in turn.")] = 200,
    checkpoint: CheckpointOption = None,
    synthetic: SyntheticOption = None,
    seed: SeedOption = 0,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Encode with every engine, decode with every other, and count the streams that come out otherwise.

    With the weights that the bundle was exported from, torch in float64 takes part too.
    """
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    opened = Bundle.open(bundle)
    loaders, missing = available_loaders(opened)
    if checkpoint is None and synthetic is None:
        missing["torch float64"] = "give the weights by --ckpt or --synthetic"
    else:
        model, _ = chosen_model(checkpoint, synthetic, seed)
        loaders.append(exact_reference(model, opened))
    rows = measure_pairs(opened, loaders, images, crops)
    table = Table(
        f"Streams in {opened.manifest.arithmetic} arithmetic that decode to another latent",
        ("encoder", "decoder", "streams", "differing", "garbled", "failed"),
        [
            (row.encoder, row.decoder, str(row.streams), str(row.differing), str(row.garbled), str(row.failed))
            for row in rows
        ],
        tuple(f"not compared: {name}: {reason}" for name, reason in missing.items()),
    )
    show("exact", [table], rows, style, device_card())


@app.command()
def cut(
    images: Annotated[list[Path], typer.Argument(help="Photographs that crops are cut from.")],
    bundle: BundleOption,
    streams: Annotated[int, typer.Option("--streams", min=1, help="Streams, each at one quality in turn.")] = 20,
    progressive: Annotated[bool, typer.Option("--progressive", help="Streams that never show less.")] = False,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Cut streams at every byte: what is refused, what is shown, and whether more bytes ever show less."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    report = measure_cuts(Bundle.open(bundle), images, streams, progressive=progressive)
    show("cut", _cut_tables(report), report.rows, style, None, total=report.total, curve=report.curve)


def _cut_tables(report: CutReport) -> list[Table]:
    falls = ("falls", "most dB", "lag dB")
    headings = ("image", "quality", "pixels", "bytes", "cuts", "refused", "shown")
    rows = [
        (row.image, str(row.quality), f"{row.width}x{row.height}", str(row.stream_bytes), *_counts(row.counts))
        for row in report.rows
    ]
    total = ("all", "", "", str(sum(row.stream_bytes for row in report.rows)), *_counts(report.total))
    curve = []
    for at in report.curve:
        means = (f"{at.symbols:.1%}", f"{at.latent_error:.1%}", f"{at.psnr_db:.2f}") if at.shown else ("", "", "")
        curve.append((f"{at.payload_percent} %", str(at.shown), *means))
    return [
        Table(
            "Streams cut at every byte: falls are steps to a larger error, lag is behind the best before",
            (*headings, *(f"{what} {heading}" for what in ("image", "latent") for heading in falls)),
            [*rows, total],
            (f"raised anything else: {report.total.failed}; taken for whole: {report.total.passed}",),
        ),
        Table(
            "Means over the streams that show an image at a share of the payload",
            ("payload", "streams", "symbols", "latent error", "PSNR dB"),
            curve,
        ),
    ]


def _counts(counts: CutCounts) -> tuple[str, ...]:
    image = (str(counts.image_falls), f"{counts.image_fall_db:.3f}", f"{counts.image_lag_db:.3f}")
    latent = (str(counts.latent_falls), f"{counts.latent_fall_db:.3f}", f"{counts.latent_lag_db:.3f}")
    return (str(counts.cuts), str(counts.refused), str(counts.shown), *image, *latent)
