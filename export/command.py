"""The command `glc-export`: checkpoint to bundle."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from glc.export.bundle_writer import EXPORT_STEPS, GraphReport, export_bundle
from glc.export.checkpoint import load_checkpoint
from glc.export.synthetic import CONFIGS, synthetic_model
from glc.runtime.codec import DEFAULT_MAX_PIXELS
from glc.runtime.images import images_in, read_image
from glc.runtime.terminal import new_app, results_console, run

app = new_app("Export a GLC checkpoint as a bundle of ONNX graphs and tables.")


class _Arithmetic(enum.StrEnum):
    EXACT = "exact"
    FLOAT = "float"


class _Container(enum.StrEnum):
    DIRECTORY = "directory"
    ZIP = "zip"


_Synthetic = enum.StrEnum("_Synthetic", {name.upper(): name for name in CONFIGS})  # type: ignore[misc]


@app.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="Bundle to write, by custom *.glcb.")],
    checkpoint: Annotated[
        Path | None, typer.Option("--ckpt", help="Checkpoint, .pth or .safetensors.", show_default=False)
    ] = None,
    synthetic: Annotated[
        _Synthetic | None,
        typer.Option("--synthetic", help="Synthetic weights for this configuration instead of a checkpoint."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of synthetic weights.")] = 0,
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
    container: Annotated[
        _Container, typer.Option("--container", help="Write a directory, or the same files in one zip.")
    ] = _Container.DIRECTORY,
) -> None:
    """Export a checkpoint: glc-export --ckpt model.pth -o model.glcb."""
    if label is not None and not label.isprintable():
        raise typer.BadParameter("the label must be one line of printable text")
    if calibrate is not None and arithmetic is not _Arithmetic.EXACT:
        raise typer.BadParameter("--calibrate belongs to --arithmetic exact")
    images = None if calibrate is None else [read_image(p, DEFAULT_MAX_PIXELS).pixels for p in images_in(calibrate)]
    reports: list[GraphReport] = []
    log = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=log, transient=True) as progress:
        task = progress.add_task("load weights", total=EXPORT_STEPS)

        def on_step(description: str) -> None:
            progress.update(task, description=description, advance=1)

        if checkpoint is not None and synthetic is None:
            model, origin = load_checkpoint(checkpoint), ascii(checkpoint.name)[1:-1]
        elif synthetic is not None and checkpoint is None:
            model = synthetic_model(CONFIGS[synthetic.value], seed)
            origin = f"{synthetic.value} with synthetic weights, seed {seed}: shows no picture"
        else:
            raise typer.BadParameter("give either --ckpt or --synthetic")
        bundle = export_bundle(
            model,
            output,
            label=origin if label is None else label,
            arithmetic=arithmetic.value,
            calibrate=images,
            container=container.value,
            on_step=on_step,
            on_graph=reports.append,
        )
    results_console().print(_table(reports))
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
