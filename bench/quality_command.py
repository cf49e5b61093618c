"""`glc-bench quality`: rate and quality of real files, curves, and how far they are from those of other codecs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from glc.bench.app import app
from glc.bench.earlier_run import read_run
from glc.bench.image_codecs import FORMATS, Contender, folder_contender, pillow_contender
from glc.bench.image_metrics import OF_IMAGES, OF_SETS, Metric
from glc.bench.output import CsvOption, LatexOption, MarkdownOption, Table, chosen_style, show
from glc.bench.perceptual import open_networks
from glc.bench.pictures import Conditions, Denoiser
from glc.bench.quality import PointRow, QualityRow, glc_contender, measure_quality
from glc.bench.rd_curves import METHOD, BdRow, Results, compare_codecs, plot_png
from glc.runtime.codec import Codec
from glc.runtime.command import BundlePath, Decoder, Encoder, EngineName, Precision, Threads
from glc.runtime.files import require_place, write_file
from glc.runtime.images import images_in
from glc.runtime.terminal import progress_bar
from glc.runtime.transforms import OWN

_AGAINST = f"Another codec; may be repeated: {', '.join(FORMATS)}, a folder of its results, or the JSON of another run."


@app.command()
def quality(
    data: Annotated[Path, typer.Option("--data", help="Folder of photographs.", exists=True, file_okay=False)],
    bundle: BundlePath = None,
    name: Annotated[str, typer.Option("--name", help="Of this codec, in tables and plots.")] = "GLC",
    encoder: Encoder = OWN,
    decoder: Decoder = OWN,
    qualities: Annotated[
        list[float] | None,
        typer.Option("--quality", "-q", min=0, help="May be repeated; all whole ones without.", show_default=False),
    ] = None,
    against: Annotated[list[str] | None, typer.Option("--against", help=_AGAINST, show_default=False)] = None,
    max_side: Annotated[
        int | None, typer.Option("--max-side", min=1, help="Scale longer photographs down to so many pixels.")
    ] = None,
    noise: Annotated[
        float, typer.Option("--noise", min=0, max=255, help="Gaussian noise on what is encoded: sigma, of 0..255.")
    ] = 0,
    denoiser: Annotated[
        Denoiser | None, typer.Option("--denoise", help="Denoise before encoding; needs --noise.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the noise.")] = 0,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Folder of the networks' weights; torch's own without.", file_okay=False),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG of the curves.")] = None,
    engine: EngineName = None,
    precision: Precision = None,
    threads: Threads = None,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """PSNR, MS-SSIM, LPIPS, DISTS, FID and KID over the bits of real files, and BD-rates against other codecs."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    if denoiser is not None and noise == 0:
        raise typer.BadParameter("--denoise is told the deviation of the noise; give --noise too")
    if plot is not None:
        require_place(plot)
    conditions = Conditions(max_side, noise, seed, denoiser)
    images = images_in(data)
    others, earlier, absent = _others(against or [], [path.name for path in images])
    networks = open_networks(weights)
    with Codec.open(bundle, engine=engine, precision=precision, threads=threads) as codec:
        chosen = qualities or range(codec.qualities)
        label, on = codec.bundle.manifest.label, codec.engine
        contenders = [glc_contender(codec, name, list(dict.fromkeys(chosen)), encoder, decoder), *others]
        names = [contender.name for contender in contenders] + [run.points[0].codec for run in earlier]
        if doubled := sorted({one for one in names if names.count(one) > 1}):
            raise typer.BadParameter(f"two codecs are called {doubled[0]!r}; --name names this one")
        try:
            with progress_bar("coding") as report:
                measured = measure_quality(contenders, images, conditions, networks, report)
        except ValueError as error:  # a quality above the model's, an encoder that it has not
            raise typer.BadParameter(str(error)) from error
    results = Results(
        (*measured.rows, *(row for run in earlier for row in run.rows)),
        (*measured.points, *(point for run in earlier for point in run.points)),
    )
    differences = [row for anchor in names[1:] for row in compare_codecs(results, name, anchor)]
    notes = (
        f"{name}: {label}; {on}{_ways(encoder, decoder)}",
        f"{len(images)} images of {data}{_in_words(conditions)}; bytes are of whole files, headers included",
        *absent,
        *measured.notes,
    )
    if plot is not None:
        write_file(plot, plot_png(results, f"{label}; means over {len(images)} images"))
    tables = [_means(results.points, notes), _images([row for row in measured.rows if row.codec == name])]
    if names[1:]:
        tables.append(_differences(differences, names[1:]))
    show("quality", tables, results.rows, style, None, points=list(results.points), bd=differences, codec=name)


def _others(against: Sequence[str], images: Sequence[str]) -> tuple[list[Contender], list[Results], list[str]]:
    """Codecs to measure, earlier runs, and what is not there and why."""
    contenders, earlier, absent = list[Contender](), list[Results](), list[str]()
    for one in dict.fromkeys(against):
        if one in FORMATS:
            try:
                contenders.append(pillow_contender(one))
            except ModuleNotFoundError as error:
                absent.append(f"not compared: {error}")
        elif Path(one).is_dir():
            contenders.append(folder_contender(Path(one), images))
        elif Path(one).is_file():
            try:
                earlier.append(read_run(Path(one)))
            except ValueError as error:
                raise typer.BadParameter(str(error)) from error
        else:
            raise typer.BadParameter(f"--against {one}: expected one of {', '.join(FORMATS)}, a folder or a file")
    return contenders, earlier, absent


def _ways(encoder: str, decoder: str) -> str:
    return "".join(f"; {kind} {one}" for kind, one in (("encoder", encoder), ("decoder", decoder)) if one != OWN)


def _in_words(conditions: Conditions) -> str:
    words = ""
    if conditions.max_side is not None:
        words += f", scaled down to {conditions.max_side} pixels at most"
    if conditions.noise_sigma:
        words += f", encoded with noise of sigma {conditions.noise_sigma:g} (seed {conditions.seed})"
        words += "" if conditions.denoiser is None else f" after the denoiser {conditions.denoiser.value}"
        words += ", compared with the clean ones"
    return words


def _shown(rows: Sequence[PointRow] | Sequence[QualityRow]) -> list[Metric]:
    """Metrics that have a value in a row."""
    return [m for m in (*OF_IMAGES, *OF_SETS) if any(getattr(row, m.field, None) is not None for row in rows)]


def _cell(row: PointRow | QualityRow, metric: Metric) -> str:
    value = getattr(row, metric.field)
    return "" if value is None else format(value, metric.form)


def _means(points: Sequence[PointRow], notes: tuple[str, ...]) -> Table:
    metrics = _shown(points)
    patched = any(point.patches for point in points)
    headings = ("codec", "point", "images", "bpp", *(m.title for m in metrics), *(["patches"] if patched else []))
    cells = [
        (
            point.codec,
            point.point,
            str(point.images),
            f"{point.bpp:.4f}",
            *(_cell(point, metric) for metric in metrics),
            *([str(point.patches)] if patched else []),
        )
        for point in points
    ]
    return Table("Rate and quality of real files, means over the images", headings, cells, notes)


def _images(rows: Sequence[QualityRow]) -> Table:
    metrics = _shown(rows)
    headings = ("image", "size", "point", "bytes", "bpp", *(metric.title for metric in metrics))
    cells = [
        (
            row.image,
            f"{row.height}x{row.width}",
            row.point,
            str(row.file_bytes),
            f"{row.bpp:.4f}",
            *(_cell(row, metric) for metric in metrics),
        )
        for row in sorted(rows, key=lambda row: row.key)
    ]
    return Table(f"{rows[0].codec}, each image", headings, cells)


def _differences(rows: Sequence[BdRow], anchors: Sequence[str]) -> Table:
    titles = {metric.field: metric for metric in (*OF_IMAGES, *OF_SETS)}
    headings = ("against", "metric", "images", "BD-rate", "of the range", "BD-metric", "of the range", "remark")
    cells = [
        (
            row.anchor,
            titles[row.metric].title,
            str(row.images),
            "" if row.rate_percent is None else f"{row.rate_percent:+.1f} %",
            f"{row.rate_shared:.0%}",
            "" if row.difference is None else f"{row.difference:+{titles[row.metric].form}}",
            f"{row.difference_shared:.0%}",
            row.why,
        )
        for row in rows
    ]
    lacking = [f"no image in common with {one}" for one in anchors if one not in {row.anchor for row in rows}]
    notes = (
        "BD-rate below 0: fewer bits than the other codec at the same quality; BD-metric: difference at the same rate",
        f"curves are of means of bpp and metric over the images that both codecs have; {METHOD} interpolation",
        "of the range: how much of what both curves cover they cover both; a small part says little",
        *lacking,
    )
    return Table("BD-rate and BD-metric (package bjontegaard)", headings, cells, notes)
