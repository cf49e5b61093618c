"""Rate and distortion in real file bytes, beside JPEG and WebP.

python -m examples.train_demo.evaluate MODEL --data FOLDER [--json FILE] [--pictures FOLDER]
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated

import numpy as np
import torch
import typer
from examples.train_demo.data import image_files, read_rgb
from examples.train_demo.metrics import ms_ssim, psnr
from examples.train_demo.other_codecs import at_size, rivals
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

import glc
from glc.export import export_bundle, load_checkpoint

OURS = "GLC"


@dataclass(frozen=True, slots=True)
class Measured:
    """One picture, coded once."""

    image: str
    """File name."""
    quality: int
    """Ours: the rival's file is the smallest that is not smaller than ours at this quality."""
    codec: str
    """`OURS`, or a rival's name."""
    size_bytes: int
    """Of the file."""
    bpp: float
    """Bits of the file per pixel of the picture."""
    psnr: float
    """dB."""
    ms_ssim: float
    """Averaged over colour channels; 1 for equal pictures."""


def evaluate(
    model: Annotated[Path, typer.Argument(help="A bundle, or a checkpoint, which is exported to a temporary one.")],
    data: Annotated[Path, typer.Option(help="Folder of pictures.", exists=True, file_okay=False)],
    largest: Annotated[int, typer.Option(help="Pictures longer than this are halved until they are not.")] = 1500,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every measurement here.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Write original and decoded pictures side by side here.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine.")] = None,
) -> None:
    """Encode and decode every picture of a folder at every quality."""
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        bundle = model
        if model.suffix in (".pth", ".safetensors"):
            bundle = Path(temporary) / "model.glcb"
            export_bundle(load_checkpoint(model), bundle, label=model.name)
        measured: list[Measured] = []
        with glc.Codec.open(bundle, threads=threads) as codec:
            for path in track(image_files(data), "evaluate", console=Console(stderr=True), transient=True):
                pixels = np.asarray(read_rgb(path, largest))
                measured += _measure(codec, path, pixels, pictures)
    _print(measured)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(m) for m in measured], indent=1) + "\n")


def _measure(codec: glc.Codec, path: Path, pixels: NDArray[np.uint8], pictures: Path | None) -> list[Measured]:
    measured: list[Measured] = []
    row = [pixels]

    def add(quality: int, name: str, size_bytes: int, decoded: NDArray[np.uint8]) -> None:
        original, other = (torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() for p in (pixels, decoded))
        bpp = 8 * size_bytes / (pixels.shape[0] * pixels.shape[1])
        similarity = float(ms_ssim(original, other))
        measured.append(Measured(path.name, quality, name, size_bytes, bpp, psnr(original, other), similarity))

    for quality in range(codec.qualities):
        data = codec.encode(pixels, quality)
        decoded = codec.decode(data)
        if quality == 0:
            row.append(codec.preview(data))
        row.append(decoded)
        add(quality, OURS, len(data), decoded)
        for rival in rivals():
            answer = at_size(rival, pixels, len(data))
            add(quality, rival.name, answer.size_bytes, answer.pixels)
    if pictures is not None:
        Image.fromarray(np.concatenate(row, axis=1)).save(pictures / f"{path.stem}.png")
    return measured


def _print(measured: list[Measured]) -> None:
    """A table of ours for every picture, then the means of all, with wins and losses."""
    console = Console(width=200)
    ours = [m for m in measured if m.codec == OURS]
    of_image: dict[str, list[Measured]] = defaultdict(list)
    for m in ours:
        of_image[m.image].append(m)
    table = Table(title="bytes, bpp, PSNR dB, MS-SSIM at each quality")
    table.add_column("image", no_wrap=True)
    for m in of_image[ours[0].image]:
        table.add_column(f"quality {m.quality}", justify="right", no_wrap=True)
    table.add_column("increasing")
    for image, rows in of_image.items():
        cells = [f"{m.size_bytes:6d} {m.bpp:.4f} {m.psnr:5.2f} {m.ms_ssim:.4f}" for m in rows]
        table.add_row(image[:24], *cells, "yes" if _increasing(rows) else "NO")
    console.print(table)
    summary = Table(title="means over the pictures; ours against each: pictures on which our value is higher")
    for column in ("quality", "codec", "bytes", "bpp", "PSNR dB", "MS-SSIM", "our PSNR higher", "our MS-SSIM higher"):
        summary.add_column(column, justify="left" if column == "codec" else "right")
    groups: dict[tuple[int, str], list[Measured]] = defaultdict(list)
    for m in measured:
        groups[m.quality, m.codec].append(m)
    for (quality, name), group in groups.items():
        mine = groups[quality, OURS]
        wins = [
            sum(a > b for a, b in zip(_values(mine, f), _values(group, f), strict=True)) for f in ("psnr", "ms_ssim")
        ]
        means = [fmean(_values(group, field)) for field in ("size_bytes", "bpp", "psnr", "ms_ssim")]
        against = ("", "") if name == OURS else tuple(f"{won} of {len(group)}" for won in wins)
        formats = ("{:.0f}", "{:.4f}", "{:.2f}", "{:.4f}")
        numbers = (form.format(mean) for form, mean in zip(formats, means, strict=True))
        summary.add_row(str(quality), name, *numbers, *against)
    console.print(summary)


def _values(rows: list[Measured], field: str) -> list[float]:
    return [float(getattr(row, field)) for row in rows]


def _increasing(rows: list[Measured]) -> bool:
    """Whether bpp, PSNR and MS-SSIM all rise strictly with quality."""
    columns = [_values(rows, field) for field in ("bpp", "psnr", "ms_ssim")]
    return all(low < high for column in columns for low, high in pairwise(column))


if __name__ == "__main__":
    typer.run(evaluate)
