"""`glc demo`: photographs at every quality, as a table and a comparison sheet."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from glc.runtime.bitstream import inspect
from glc.runtime.codec import Codec
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

_TILE_WIDTH = 360
_CAPTION_HEIGHT = 34


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    """One picture of the sheet."""

    pixels: NDArray[np.uint8]
    caption: str


def run_demo(
    bundle: Path, images: list[Path], output: Path, *, engine: str, threads: int | None, max_pixels: int
) -> None:
    """Encode and decode, print the table to stdout and write the sheet.

    Raises:
        GlcError: a bundle, engine, image or output cannot be used.
    """
    times: dict[str, float] = defaultdict(float)

    def on_stage(name: str, duration_ms: float) -> None:
        times[name] += duration_ms

    codec = Codec.open(bundle, engine=engine, threads=threads, max_pixels=max_pixels, on_stage=on_stage)
    log = Console(stderr=True)
    table = Table(title=f"{codec.bundle.manifest.label}\n{codec.engine}")
    for column in ("image", "size", "quality", "bytes", "bpp", "PSNR dB", *(f"{c} ms" for c in _STAGES)):
        table.add_column(column, justify="left" if column == "image" else "right", no_wrap=True)
    rows: list[list[_Tile]] = []
    with codec, Progress(console=log, transient=True) as progress:
        task = progress.add_task("encode and decode", total=len(images) * codec.qualities)
        codec.warm_up()
        for path in images:
            image = read_image(path, max_pixels)
            for note in image.notes:
                _logger.info("%s: %s", path, note)
            pixels = image.pixels
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            tiles = [_Tile(pixels, f"{path.name}, original\n{size}")]
            for quality in range(codec.qualities):
                times.clear()
                data = codec.encode(pixels, quality)
                decoded = codec.decode(data)
                bpp = inspect(data).bpp
                if quality == 0:
                    tiles.append(_Tile(codec.preview(data), "preview\nfrom the z indices of quality 0"))
                tiles.append(_Tile(decoded, f"quality {quality}\n{len(data)} bytes, {bpp:.4f} bpp"))
                stage_ms = [f"{sum(times[s] for s in stages):.1f}" for stages in _STAGES.values()]
                table.add_row(
                    path.name,
                    size,
                    str(quality),
                    str(len(data)),
                    f"{bpp:.4f}",
                    f"{_psnr(pixels, decoded):.2f}",
                    *stage_ms,
                )
                progress.advance(task)
            rows.append(tiles)
    write_bytes(output, encode_image(_sheet(rows, codec.bundle.manifest.label), output))
    results_console().print(table)
    print(f"comparison sheet: {output}")


def _psnr(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
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
