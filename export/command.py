"""The command `glc-export`: checkpoint to bundle."""

from __future__ import annotations

import dataclasses
import enum
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from glc.engines import trt_sdk
from glc.engines.cuda import device_capability
from glc.engines.trt_builder import builder_for
from glc.export.bundle_writer import EXPORT_STEPS, export_bundle, require_checkpoint
from glc.export.config import GLOBAL_ATTENTION
from glc.export.exact_report import RoundingReport
from glc.export.further_transforms import TransformFile, add_transforms, load_transforms, require_free
from glc.export.graph_files import GraphReport
from glc.export.int8_transforms import INT8, INT8_STEPS, add_int8
from glc.export.model import with_attention_patch
from glc.export.model_options import CheckpointOption, SeedOption, SyntheticName, SyntheticOption, chosen_model
from glc.export.targets import EngineReport, ImageSizes, compile_target
from glc.export.transform_options import DecoderOption, EncoderOption, IntoOption, transform_files
from glc.export.transform_weights import KINDS, weights_of_bundle, weights_of_model
from glc.runtime.bundle import Bundle
from glc.runtime.codec import DEFAULT_MAX_PIXELS
from glc.runtime.files import require_place, write_file
from glc.runtime.images import images_in, read_image
from glc.runtime.terminal import new_app, parsed_size, results_console, run
from glc.runtime.transforms import transforms

_Library = enum.StrEnum("_Library", {name.upper(): name for name in trt_sdk.LIBRARIES})  # type: ignore[misc]

app = new_app("Export a GLC checkpoint as a bundle of ONNX graphs and tables.")


class _Arithmetic(enum.StrEnum):
    EXACT = "exact"
    FLOAT = "float"


class _Container(enum.StrEnum):
    DIRECTORY = "directory"
    ZIP = "zip"


class _Precision(enum.StrEnum):
    F16 = "f16"
    F32 = "f32"


@app.command()
def export(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Bundle to write, by custom *.glcb.", show_default=False)
    ] = None,
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
            help="Images for the ranges of exact arithmetic and of 8 bits; some are built in.",
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
    tiles: Annotated[
        bool,
        typer.Option("--tiles/--no-tiles", help="Write graphs for images in tiles too, which a limit on memory needs."),
    ] = True,
    patch: Annotated[
        str | None,
        typer.Option(
            "--attention-patch",
            help="Side of the attention's patches in latent positions, or `global`; as published 32.",
            show_default=False,
        ),
    ] = None,
    encoders: EncoderOption = None,
    decoders: DecoderOption = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Add an encoder and a decoder `int8`, whose residual blocks compute in 8 bits."),
    ] = False,
    into: IntoOption = None,
    existing: Annotated[
        Path | None,
        typer.Option("--bundle", help="Bundle to compile for --target, in place of an export.", show_default=False),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="Compute capability to compile for, such as sm80 (A100), or `here`; may be repeated.",
            show_default=False,
        ),
    ] = None,
    library: Annotated[
        _Library | None, typer.Option("--library", help="That compiles; by default what can.", show_default=False)
    ] = None,
    precision: Annotated[
        _Precision, typer.Option("--precision", help="Of compiled analysis and synthesis; the prior stays exact.")
    ] = _Precision.F16,
    typical: Annotated[
        str, typer.Option("--typical", help="Height x width for which compiled engines are made fastest.")
    ] = "512x768",
    largest: Annotated[
        str, typer.Option("--largest", help="Largest height x width that compiled engines take.")
    ] = "2048x2048",
) -> None:
    """Export a checkpoint: glc-export --ckpt model.pth -o model.glcb.

    With --target sm80 its graphs are also compiled for an A100. To compile a bundle that is there already:
    glc-export --bundle model.glcb --target sm80. To add an encoder to it:
    glc-export --into model.glcb --encoder restore=restore.pth. Or faster ones, in 8 bits: with --int8.
    """
    files = transform_files(encoders, decoders)
    attention_patch = None if patch is None else _parsed_patch(patch)
    sizes = ImageSizes(parsed_size(typical), parsed_size(largest))
    if any(t > most for t, most in zip(sizes.typical, sizes.largest, strict=True)):
        raise typer.BadParameter(f"--typical {typical} is larger than --largest {largest}")
    targets = [device_capability() if target == "here" else target for target in targets or ()]
    for target in targets:
        builder_for(target, library)  # before minutes of work
    if existing is not None:
        if any((checkpoint, synthetic, output, into, files, int8)) or not targets:
            raise typer.BadParameter("--bundle goes with --target, and without what is exported or added")
        _compile(existing, targets, library, precision, sizes)
        return
    if into is not None:
        if any(option is not None for option in (output, label, report, patch)) or not (files or int8):
            raise typer.BadParameter(
                "--into goes with --encoder, --decoder or --int8, and without --output, --label, --report and "
                "--attention-patch, which the bundle has"
            )
        if calibrate is not None and not int8:
            raise typer.BadParameter("--calibrate goes with --int8 here: the ranges of the prior are in the bundle")
        if files:
            _add(into, files, checkpoint, synthetic, seed)
        if int8:
            _add_int8(into, _images(calibrate))
        if targets:
            _compile(into, targets, library, precision, sizes)
        return
    if output is None:
        raise typer.BadParameter("name the bundle to write: --output model.glcb")
    if label is not None and not label.isprintable():
        raise typer.BadParameter("the label must be one line of printable text")
    exact = arithmetic is _Arithmetic.EXACT
    if not exact and report is not None:
        raise typer.BadParameter("--report belongs to --arithmetic exact")
    if not exact and not int8 and calibrate is not None:
        raise typer.BadParameter("--calibrate belongs to --arithmetic exact, or to --int8")
    if report is not None:
        require_place(report)
    images = _images(calibrate)
    graphs: list[GraphReport] = []
    rounding: list[RoundingReport] = []
    with _progress_bar() as progress:
        task = progress.add_task("load weights", total=EXPORT_STEPS + len(files))

        def on_step(description: str) -> None:
            progress.update(task, description=description, advance=1)

        model, origin = chosen_model(checkpoint, synthetic, seed)
        if attention_patch is not None:
            model = with_attention_patch(model, attention_patch)
        further = load_transforms(files, weights_of_model(model, origin))
        bundle = export_bundle(
            model,
            output,
            label=origin if label is None else label,
            arithmetic=arithmetic.value,
            calibrate=images,
            container=container.value,
            tiles=tiles,
            on_step=on_step,
            on_graph=graphs.append,
            on_rounding=rounding.append,
            layers=report is not None,
            further=further,
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
    if int8:
        _add_int8(output, images)
    if targets:
        _compile(output, targets, library, precision, sizes)


def _add(
    path: Path, files: list[TransformFile], checkpoint: Path | None, synthetic: SyntheticName | None, seed: int
) -> None:
    """Add encoders and decoders to a bundle, and say what came of it."""
    graphs: list[GraphReport] = []
    with _progress_bar() as progress:
        task = progress.add_task("load weights", total=2 + len(files))
        bundle = Bundle.open(path)
        require_free(bundle, [one.graph for one in files])
        if checkpoint is None and synthetic is None:
            known = weights_of_bundle(bundle)
        else:
            model, origin = chosen_model(checkpoint, synthetic, seed)
            require_checkpoint(bundle, model, origin)
            patch = bundle.manifest.config.attention_patch
            known = weights_of_model(with_attention_patch(model, patch), origin)
        bundle = add_transforms(
            bundle,
            load_transforms(files, known),
            on_step=lambda description: progress.update(task, description=description, advance=1),
            on_graph=graphs.append,
        )
    results_console().print(_table(graphs))
    for own, kind in KINDS.items():
        print(f"{path}: {kind}s {', '.join(transforms(bundle.manifest.graphs, own))}")


def _add_int8(path: Path, images: list[NDArray[np.uint8]] | None) -> None:
    """Add an encoder and a decoder in 8 bits to a bundle, and say what they cost."""
    with _progress_bar() as progress:
        task = progress.add_task("load NNCF", total=INT8_STEPS + 1)
        _, report = add_int8(
            Bundle.open(path),
            images,
            on_step=lambda description: progress.update(task, description=description, advance=1),
        )
    print(
        f"{path}: encoder and decoder {INT8}; on the {report.images} images of calibration "
        f"{report.bytes_int8 / report.bytes_own - 1:+.2%} of bytes, {report.psnr_int8_db - report.psnr_own_db:+.2f} dB"
    )


def _images(folder: Path | None) -> list[NDArray[np.uint8]] | None:
    """All images of a folder; None where none is named, for those that are built in."""
    return None if folder is None else [read_image(path, DEFAULT_MAX_PIXELS).pixels for path in images_in(folder)]


def _progress_bar() -> Progress:
    """On stderr, and gone when the work is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _parsed_patch(text: str) -> int:
    if text == "global":
        return GLOBAL_ATTENTION
    if not text.isdecimal() or not 1 <= int(text) <= GLOBAL_ATTENTION:
        raise typer.BadParameter(f"--attention-patch is {text!r}; expected latent positions, such as 32, or global")
    return int(text)


def _compile(
    path: Path, targets: list[str], library: _Library | None, precision: _Precision, sizes: ImageSizes
) -> None:
    """Compile a bundle for some targets, and say what came of it."""
    reports: list[EngineReport] = []
    with _progress_bar() as progress:
        bundle = Bundle.open(path)
        task = progress.add_task("compile", total=len(targets) * len(bundle.manifest.graphs))

        def on_engine(report: EngineReport) -> None:
            reports.append(report)
            progress.update(task, description=f"compiled {report.graph} for {report.target}", advance=1)

        for target in targets:
            bundle = compile_target(
                bundle, target, library=library, precision=precision.value, sizes=sizes, on_engine=on_engine
            )
    results_console().print(_engine_table(reports))
    rows, columns_ = sizes.largest
    print(f"{path}: compiled for {', '.join(map(str, (c.key for c in bundle.manifest.targets.values())))}; ", end="")
    print(f"images up to {rows}x{columns_}")


def _engine_table(reports: list[EngineReport]) -> Table:
    table = Table(title="Engines; memory of activations is that of the largest image, and runs share it")
    for column in ("target", "graph", "layers", "weights MB", "activations MB", "file MB", "build s"):
        table.add_column(column, justify="left" if column in ("target", "graph") else "right")
    for report in reports:
        engine = report.engine
        sizes = (engine.weights_bytes, engine.activation_bytes, len(engine.data))
        table.add_row(
            report.target,
            report.graph,
            str(engine.layers),
            *("not told" if size is None else f"{size / 1e6:.2f}" for size in sizes),
            f"{engine.build_s:.1f}",
        )
    return table


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
