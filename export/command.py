"""The command `glc-export`: checkpoint to bundle."""

from __future__ import annotations

import dataclasses
import enum
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from glc.export.bundle_writer import EXPORT_STEPS, GraphReport, export_bundle
from glc.export.exact_report import RoundingReport
from glc.export.model_options import CheckpointOption, SeedOption, SyntheticOption, chosen_model
from glc.runtime.codec import DEFAULT_MAX_PIXELS
from glc.runtime.files import require_place, write_file
from glc.runtime.images import images_in, read_image
from glc.runtime.terminal import new_app, results_console, run

app = new_app("Export a GLC checkpoint as a bundle of ONNX graphs and tables.")


class _Arithmetic(enum.StrEnum):
    EXACT = "exact"
    FLOAT = "float"


class _Container(enum.StrEnum):
    DIRECTORY = "directory"
    ZIP = "zip"


@app.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="Bundle to write, by custom *.glcb.")],
    checkpoint: CheckpointOption = None,
    synthetic: SyntheticOption = None,
    seed: SeedOption = 0,
    label: Annotated[
        str | None, typer.Option("--label", help="One line on the weights' origin; by default the file's name.")
    ] = None,
    arithmetic: Annotated[
        _Arithmetic,
        typer.Option(
            "--arithmetic",
            help="exact: streams decode on every engine. float: as published; they decode where they were made.",
        ),
    ] = _Arithmetic.EXACT,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            exists=True,
            file_okay=False,
            help="Images for the ranges of exact arithmetic; some are built in.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="JSON file to write: ranges, saturation and added rate of each layer in exact arithmetic.",
            show_default=False,
        ),
    ] = None,
    container: Annotated[
        _Container, typer.Option("--container", help="Write a directory, or the same files in one zip.")
    ] = _Container.DIRECTORY,
) -> None:
    """Export a checkpoint: glc-export --ckpt model.pth -o model.glcb."""
    if label is not None and not label.isprintable():
        raise typer.BadParameter("the label must be one line of printable text")
    exact = arithmetic is _Arithmetic.EXACT
    if not exact and (calibrate is not None or report is not None):
        raise typer.BadParameter("--calibrate and --report belong to --arithmetic exact")
    if report is not None:
        require_place(report)
    images = None if calibrate is None else [read_image(p, DEFAULT_MAX_PIXELS).pixels for p in images_in(calibrate)]
    graphs: list[GraphReport] = []
    rounding: list[RoundingReport] = []
    log = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=log, transient=True) as progress:
        task = progress.add_task("load weights", total=EXPORT_STEPS)

        def on_step(description: str) -> None:
            progress.update(task, description=description, advance=1)

        model, origin = chosen_model(checkpoint, synthetic, seed)
        bundle = export_bundle(
            model,
            output,
            label=origin if label is None else label,
            arithmetic=arithmetic.value,
            calibrate=images,
            container=container.value,
            on_step=on_step,
            on_graph=graphs.append,
            on_rounding=rounding.append,
            layers=report is not None,
        )
    results_console().print(_table(graphs))
    for effect in rounding:
        print(
            f"exact arithmetic on the {effect.images} images of calibration: {effect.added_rate:+.3%} of rate, "
            f"{effect.saturated:.4%} of values saturated"
        )
        if report is not None:
            write_file(report, json.dumps(dataclasses.asdict(effect), indent=1).encode())
    manifest = bundle.manifest
    total_bytes = sum(entry.size_bytes for entry in manifest.files())
    print(f"{output}: model {manifest.model_id[:8]}, {manifest.parameters:,} parameters, {total_bytes:,} bytes")


def _table(reports: list[GraphReport]) -> Table:
    table = Table(title="Graphs, compared with torch at three sizes")
    for column in ("graph", "parameters", "bytes", "largest float difference", "integers changed"):
        table.add_column(column, justify="left" if column == "graph" else "right")
    for report in reports:
        difference = report.difference
        table.add_row(
            report.name,
            f"{report.parameters:,}",
            f"{report.size_bytes:,}",
            f"{difference.largest:.1e}" if difference.floats else "no floats",
            f"{difference.changed} of {difference.integers:,}",
        )
    return table


def main() -> None:
    """Entry point of `glc-export`."""
    run(app, "glc-export")
