"""`glc demo`: photographs at every quality, as a table, a comparison sheet and a rate-distortion plot."""

from __future__ import annotations

import io
import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from glc.runtime.bitstream import inspect
from glc.runtime.codec import Codec
from glc.runtime.files import require_place
from glc.runtime.images import encode_image, read_image, write_bytes
from glc.runtime.terminal import results_console

_logger = logging.getLogger(__name__)

_STAGES = {
    "analysis": ("analysis",),
    "priors": ("hyper_prior", "spatial_prior_1", "spatial_prior_2", "spatial_prior_3"),
    "entropy": ("entropy_coding",),
    "synthesis": ("synthesis",),
}
"""Columns of the table, and the stages that each adds up."""

_JPEG_QUALITIES = (1, 3, 5, 8, 12)

_TILE_WIDTH = 360
_CAPTION_HEIGHT = 34


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    """One picture of the sheet."""

    pixels: NDArray[np.uint8]
    caption: str


@dataclass(frozen=True, slots=True)
class _Curve:
    """One line of the rate-distortion plot."""

    name: str
    points: list[tuple[float, float]]
    """bpp of the file, and PSNR in dB."""


def run_demo(
    bundle: Path | None,
    images: list[Path],
    output: Path,
    *,
    engine: str | None,
    threads: int | None,
    precision: str | None,
    max_pixels: int,
) -> None:
    """Encode and decode, print the table to stdout, write the sheet and beside it the plot.

    Raises:
        GlcError: a bundle, engine, image or output cannot be used.
    """
    times: dict[str, float] = defaultdict(float)

    def on_stage(name: str, duration_ms: float) -> None:
        times[name] += duration_ms

    codec = Codec.open(
        bundle, engine=engine, threads=threads, precision=precision, max_pixels=max_pixels, on_stage=on_stage
    )
    label = codec.bundle.manifest.label
    plot = output.with_name(f"{output.stem}-rd.png")
    require_place(plot)
    table = Table(title=f"{label}\n{codec.engine}")
    for column in ("image", "size", "quality", "bytes", "bpp", "PSNR dB", *(f"{c} ms" for c in _STAGES)):
        table.add_column(column, justify="left" if column == "image" else "right", no_wrap=True)
    rows: list[list[_Tile]] = []
    curves: list[_Curve] = []
    with codec, Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("encode and decode", total=len(images) * codec.qualities)
        codec.warm_up()
        for path in images:
            image = read_image(path, max_pixels)
            for note in image.notes:
                _logger.info("%s: %s", path, note)
            pixels = image.pixels
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            tiles = [_Tile(pixels, f"{path.name}, original\n{size}")]
            ours, jpeg = _Curve(path.name, []), _Curve(f"{path.name}, JPEG", _jpeg_points(pixels))
            for quality in range(codec.qualities):
                times.clear()
                data = codec.encode(pixels, quality)
                decoded = codec.decode(data)
                stage_ms = [f"{sum(times[s] for s in stages):.1f}" for stages in _STAGES.values()]
                bpp, psnr = inspect(data).bpp, psnr_db(pixels, decoded)
                if quality == 0:
                    tiles.append(_Tile(codec.preview(data), "preview\nfrom the z indices of quality 0"))
                tiles.append(_Tile(decoded, f"quality {quality}\n{len(data)} bytes, {bpp:.4f} bpp, {psnr:.1f} dB"))
                ours.points.append((bpp, psnr))
                table.add_row(path.name, size, str(quality), str(len(data)), f"{bpp:.4f}", f"{psnr:.2f}", *stage_ms)
                progress.advance(task)
            rows.append(tiles)
            curves += [ours, jpeg]
    write_bytes(output, encode_image(_sheet(rows, label), output))
    write_bytes(plot, _plot(curves, label))
    results_console().print(table)
    print(f"comparison sheet: {output}\nrate-distortion plot: {plot}")


def _jpeg_points(pixels: NDArray[np.uint8]) -> list[tuple[float, float]]:
    """JPEG's lowest qualities, which say where its files begin."""
    points = []
    for quality in _JPEG_QUALITIES:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True)
        with Image.open(buffer) as decoded:
            psnr = psnr_db(pixels, np.asarray(decoded))
        points.append((8 * len(buffer.getvalue()) / (pixels.shape[0] * pixels.shape[1]), psnr))
    return points


def _plot(curves: list[_Curve], label: str) -> bytes:
    """A PNG: PSNR over bpp, ours solid and JPEG dashed in the same colour."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        bpp, psnr = zip(*curve.points, strict=True)
        axes.plot(bpp, psnr, "o-" if number % 2 == 0 else "x--", color=f"C{number // 2}", label=curve.name)
    axes.set(xscale="log", xlabel="bits per pixel, whole file", ylabel="PSNR in dB")
    axes.set_title(label, fontsize="small")
    for labels in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        labels("{x:.2g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def psnr_db(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """PSNR of one image to another, in decibels; infinite where they are equal."""
    error = float(np.mean((original.astype(np.float64) - decoded) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def _sheet(rows: list[list[_Tile]], label: str) -> NDArray[np.uint8]:
    """One row of tiles an image."""
    tiles = [[_scaled(tile.pixels) for tile in row] for row in rows]
    heights = [max(tile.height for tile in row) + _CAPTION_HEIGHT for row in tiles]
    sheet = Image.new("RGB", (max(map(len, rows)) * (_TILE_WIDTH + 8), sum(heights) + _CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 4), label, fill="black")
    top = _CAPTION_HEIGHT
    for row, scaled, height in zip(rows, tiles, heights, strict=True):
        for column, (tile, picture) in enumerate(zip(row, scaled, strict=True)):
            left = column * (_TILE_WIDTH + 8)
            draw.multiline_text((left + 4, top), tile.caption, fill="black")
            sheet.paste(picture, (left, top + _CAPTION_HEIGHT - 4))
        top += height
    return np.asarray(sheet)


def _scaled(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(pixels)
    height = max(1, round(image.height * _TILE_WIDTH / image.width))
    return image.resize((_TILE_WIDTH, height), Image.Resampling.LANCZOS)
