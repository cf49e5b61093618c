"""Noisy pictures through a restoring encoder, in real file bytes, beside the plain one with and without a denoiser.

python -m examples.train_restoration.evaluate BUNDLE --data PHOTOS [--sigma 20] [--json FILE] [--pictures FOLDER]
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import numpy as np
import torch
import typer
from examples.train_demo.data import image_files, read_rgb
from examples.train_demo.metrics import ms_ssim, psnr
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

import glc
from glc.bench.pictures import non_local_means, rounded

CLEAN = "plain encoder, clean picture"
PLAIN = "plain encoder"
RESTORING = "restoring encoder"

_STRENGTH = 0.6
"""Of the denoiser's filter, as the model card was measured."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Way:
    """How a file is made."""

    name: str
    encoder: str
    """As `Codec.encode` takes it."""
    prepare: Callable[[Pixels, Pixels], Pixels]
    """Clean and noisy picture -> what is encoded."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One picture, coded once."""

    image: str
    """File name."""
    quality: int
    way: str
    size_bytes: int
    """Of the file."""
    psnr: float
    """dB, against the clean picture."""
    ms_ssim: float
    """Against the clean picture, averaged over colour channels."""


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle with the restoring encoder.", exists=True)],
    data: Annotated[Path, typer.Option(help="Folder of clean pictures.", exists=True, file_okay=False)],
    encoder: Annotated[str, typer.Option(help="The restoring encoder's name in the bundle.")] = "restore",
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise in 8-bit levels.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    largest: Annotated[int, typer.Option(help="Pictures longer than this are halved until they are not.")] = 1500,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every measurement here.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Write clean, noisy, plainly coded and restored pictures side by side here.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine.")] = None,
) -> None:
    """Add noise to every picture of a folder and code it at every quality, each way."""
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    ways = (
        Way(CLEAN, "default", lambda clean, _: clean),
        Way(PLAIN, "default", lambda _, noisy: noisy),
        Way("non-local means, plain encoder", "default", lambda _, noisy: non_local_means(noisy, sigma, _STRENGTH)),
        Way(RESTORING, encoder, lambda _, noisy: noisy),
    )
    random = np.random.default_rng(seed)
    measured: list[Measured] = []
    with glc.Codec.open(bundle, threads=threads) as codec:
        for path in track(image_files(data), "evaluate", console=Console(stderr=True), transient=True):
            clean = np.asarray(read_rgb(path, largest))
            noisy = noisy_picture(clean, sigma, random)
            row = [clean, noisy]
            for way in ways:
                prepared = way.prepare(clean, noisy)
                for quality in range(codec.qualities):
                    data_bytes = codec.encode(prepared, quality, encoder=way.encoder)
                    decoded = codec.decode(data_bytes)
                    measured.append(_compare(path.name, quality, way.name, len(data_bytes), clean, decoded))
                if way.name in (PLAIN, RESTORING):
                    row.append(decoded)
            if pictures is not None:
                Image.fromarray(np.concatenate(row, axis=1)).save(pictures / f"{path.stem}.png")
    _print(measured)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(m) for m in measured], indent=1) + "\n")


def noisy_picture(pixels: Pixels, sigma: float, random: np.random.Generator) -> Pixels:
    """Gaussian noise of sigma 8-bit levels, clipped and rounded, on a picture (H, W, 3)."""
    return rounded(pixels + random.normal(0, sigma, pixels.shape))


def _compare(image: str, quality: int, way: str, size_bytes: int, clean: Pixels, decoded: Pixels) -> Measured:
    original, other = (torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() for p in (clean, decoded))
    return Measured(image, quality, way, size_bytes, psnr(original, other), float(ms_ssim(original, other)))


def _print(measured: list[Measured]) -> None:
    """Means over the pictures, and on how many a way has fewer bytes and a higher PSNR than the plain encoder."""
    groups: dict[tuple[int, str], list[Measured]] = defaultdict(list)
    for m in measured:
        groups[m.quality, m.way].append(m)
    table = Table(title="means over the pictures, PSNR and MS-SSIM against the clean ones")
    for column in ("quality", "way", "bytes", "PSNR dB", "MS-SSIM", "fewer bytes", "higher PSNR"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for (quality, way), group in sorted(groups.items(), key=lambda item: item[0][0]):
        plain = groups[quality, PLAIN]
        fewer = sum(a.size_bytes < b.size_bytes for a, b in zip(group, plain, strict=True))
        higher = sum(a.psnr > b.psnr for a, b in zip(group, plain, strict=True))
        against = ("", "") if way == PLAIN else (f"{fewer} of {len(group)}", f"{higher} of {len(group)}")
        size = f"{fmean(m.size_bytes for m in group):.0f}"
        similarity = f"{fmean(m.ms_ssim for m in group):.4f}"
        table.add_row(str(quality), way, size, f"{fmean(m.psnr for m in group):.2f}", similarity, *against)
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(evaluate)
