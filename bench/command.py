"""The command `glc-bench`: tables on stdout, one JSON document as the last line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from glc.bench.exact import PairRow, measure_pairs
from glc.bench.rate import RateRow, measure_rate
from glc.bench.startup import StartupRow, measure_startup
from glc.export.checkpoint import load_checkpoint
from glc.export.synthetic import CONFIGS, synthetic_model
from glc.runtime.bundle import Bundle
from glc.runtime.terminal import new_app, results_console, run

app = new_app("Measure files and start-up.")

BundlePath = Annotated[Path, typer.Option("--bundle", "-b", envvar="GLC_BUNDLE", help="Bundle of the same model.")]


@app.command()
def rate(
    images: Annotated[list[Path], typer.Argument(help="Photographs.")],
    bundle: BundlePath,
    checkpoint: Annotated[Path | None, typer.Option("--ckpt", help="Checkpoint that the bundle comes from.")] = None,
    synthetic: Annotated[str | None, typer.Option("--synthetic", help=f"One of {', '.join(CONFIGS)}.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of synthetic weights.")] = 0,
) -> None:
    """Bits of real files beside the ideal cost and the published estimate."""
    if checkpoint is not None and synthetic is None:
        model = load_checkpoint(checkpoint)
    elif synthetic in CONFIGS and checkpoint is None:
        model = synthetic_model(CONFIGS[synthetic], seed)
    else:
        raise typer.BadParameter(f"give either --ckpt, or --synthetic with one of {', '.join(CONFIGS)}")
    rows = measure_rate(model, bundle, images)
    table = Table(title="Rate: published estimate, ideal cost under the scale table, file")
    headings = ("image", "quality", "published bits", "ideal bits", "vs published", "payload bits", "vs ideal")
    for heading in (*headings, "file bytes", "bpp", "nonzero at index 0", "changed", "within 1/255 of x_hat"):
        table.add_column(heading, justify="left" if heading == "image" else "right")
    for row in rows:
        table.add_row(
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
    results_console().print(table)
    _print_json(rows)


@app.command()
def startup(
    bundle: BundlePath,
    image: Annotated[Path, typer.Option("--image", help="Photograph for the first image.")],
    repetitions: Annotated[int, typer.Option("--repetitions", "-n", min=1, help="Timed runs of each command.")] = 9,
) -> None:
    """Time from the start of a process to its result."""
    rows = measure_startup(bundle, image, repetitions)
    table = Table(title="Start-up, fresh processes")
    for heading in ("what", "median ms", "largest ms"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for row in rows:
        table.add_row(row.what, f"{row.median_ms:.0f}", f"{row.largest_ms:.0f}")
    results_console().print(table)
    _print_json(rows)


@app.command()
def exact(
    images: Annotated[list[Path], typer.Argument(help="Photographs that crops are cut from.")],
    bundle: Annotated[Path, typer.Option("--bundle", "-b", envvar="GLC_BUNDLE", help="Bundle, exact or float.")],
    crops: Annotated[int, typer.Option("--crops", min=1, help="Crops, each at one quality in turn.")] = 200,
) -> None:
    """Encode with every engine, decode with every other, and count the streams that come out otherwise."""
    opened = Bundle.open(bundle)
    rows = measure_pairs(opened, images, crops)
    table = Table(title=f"Streams in {opened.manifest.arithmetic} arithmetic that decode to another latent")
    for heading in ("encoder", "decoder", "streams", "differing", "garbled", "failed"):
        table.add_column(heading, justify="left" if heading in ("encoder", "decoder") else "right")
    for row in rows:
        table.add_row(row.encoder, row.decoder, str(row.streams), str(row.differing), str(row.garbled), str(row.failed))
    results_console().print(table)
    _print_json(rows)


def main() -> None:
    """Entry point of `glc-bench`."""
    run(app, "glc-bench")


def _print_json(rows: list[RateRow] | list[StartupRow] | list[PairRow]) -> None:
    print(json.dumps([dataclasses.asdict(row) for row in rows]))
