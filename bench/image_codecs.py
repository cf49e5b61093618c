"""Codecs that quality is compared with: those of Pillow, made on the spot, and what another codec left in a folder.

A codec is a contender: points on its curve, each of which turns a picture into a file's size and its decoded image.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glc.bench.pictures import Picture
from glc.errors import ImageUnreadable
from glc.runtime.codec import DEFAULT_MAX_PIXELS
from glc.runtime.images import read_image


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """What came of a picture."""

    size_bytes: int
    """Of the whole file, headers and all."""
    pixels: NDArray[np.uint8]
    """(H, W, 3): what the file decodes to."""


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of a codec."""

    label: str
    """For tables: a quality, or the name of a folder."""
    code: Callable[[Picture], Coded]
    """Encodes and decodes."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A codec with the settings that it is measured at."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class _Format:
    title: str
    pillow: str
    """Pillow's name."""
    plugin: str | None
    """Module that adds the format to Pillow when it is imported."""
    missing: str
    """What to do where Pillow does not write it."""
    qualities: tuple[int, ...]
    options: Callable[[int], dict[str, Any]]
    """Quality -> options of `Image.save`."""


_FORMATS = {
    "jpeg": _Format(
        "JPEG",
        "JPEG",
        None,
        "this Pillow was built without JPEG",
        (1, 5, 10, 20, 30, 50),
        lambda quality: {"quality": quality, "optimize": True, "progressive": True},
    ),
    "webp": _Format(
        "WebP",
        "WEBP",
        None,
        "this Pillow was built without WebP",
        (0, 5, 10, 20, 40, 60),
        lambda quality: {"quality": quality, "method": 6},
    ),
    "avif": _Format(
        "AVIF",
        "AVIF",
        None,
        "this Pillow does not write it; run: pip install 'pillow>=11.3'",
        (0, 5, 10, 20, 30, 45),
        lambda quality: {"quality": quality, "speed": 4},
    ),
    "jxl": _Format(
        "JPEG XL",
        "JXL",
        "pillow_jxl",
        "pillow-jxl-plugin is not installed; run: pip install 'glc-deploy[jxl]'",
        (0, 10, 20, 30, 45, 60),
        lambda quality: {"quality": quality, "effort": 7},
    ),
}

FORMATS = tuple(_FORMATS)
"""What `pillow_contender` takes."""


def pillow_contender(name: str) -> Contender:
    """A codec of Pillow, one of `FORMATS`.

    Raises:
        ModuleNotFoundError: Pillow lacks it; the message says what to do.
    """
    form = _FORMATS[name]
    if form.plugin is not None:
        try:
            importlib.import_module(form.plugin)
        except ImportError as error:
            raise ModuleNotFoundError(f"{form.title}: {form.missing}") from error
    Image.init()
    if form.pillow not in Image.SAVE or form.pillow not in Image.OPEN:
        raise ModuleNotFoundError(f"{form.title}: {form.missing}")
    return Contender(form.title, tuple(_pillow_point(form, quality) for quality in form.qualities))


def _pillow_point(form: _Format, quality: int) -> Point:
    def code(picture: Picture) -> Coded:
        buffer = io.BytesIO()
        Image.fromarray(picture.given).save(buffer, form.pillow, **form.options(quality))
        with Image.open(io.BytesIO(buffer.getvalue()), formats=[form.pillow]) as decoded:
            return Coded(len(buffer.getvalue()), np.asarray(decoded.convert("RGB")))

    return Point(str(quality), code)


SIZES_NAME = "bytes.csv"
"""File of a folder of results that gives the sizes where the coded files are not at hand."""


def folder_contender(folder: Path, images: Sequence[str]) -> Contender:
    """What another codec left: a folder for each rate, in which each image has a coded file and STEM.png.

    Without the coded files, `bytes.csv` in the folder of the rate has the columns `image` (the stem) and `bytes`.

    Args:
        folder: its name becomes the codec's.
        images: names of the originals, each of which must be there at every rate.

    Raises:
        ImageUnreadable: there is no rate, or an image lacks its coded file or its decoded one; both are looked for
            now, so that nothing is measured in vain.
    """
    stems = [Path(name).stem for name in images]
    if doubled := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ImageUnreadable(f"two originals are called {doubled[0]}; {folder} cannot tell them apart, rename one")
    rates = sorted(path for path in folder.iterdir() if path.is_dir())
    if not rates:
        raise ImageUnreadable(f"no rate in {folder}; expected a folder for each, with coded files and decoded PNGs")
    return Contender(folder.resolve().name, tuple(_folder_point(rate, stems) for rate in rates))


def _folder_point(rate: Path, stems: Sequence[str]) -> Point:
    listed = _listed_bytes(rate / SIZES_NAME)
    sizes: dict[str, int] = {}
    for stem in stems:
        if not (rate / f"{stem}.png").is_file():
            raise ImageUnreadable(f"{rate} has no {stem}.png; expected the decoded image of every original")
        if listed is not None and stem not in listed:
            raise ImageUnreadable(f"{rate / SIZES_NAME} does not name {stem}")
        sizes[stem] = _coded_bytes(rate, stem) if listed is None else listed[stem]

    def code(picture: Picture) -> Coded:
        stem = Path(picture.name).stem
        decoded = read_image(rate / f"{stem}.png", DEFAULT_MAX_PIXELS).pixels
        if decoded.shape != picture.clean.shape:
            found, wanted = (f"{shape[1]}x{shape[0]}" for shape in (decoded.shape, picture.clean.shape))
            raise ImageUnreadable(f"{rate}/{stem}.png is {found}; the original is measured at {wanted}")
        return Coded(sizes[stem], decoded)

    return Point(rate.name, code)


def _coded_bytes(rate: Path, stem: str) -> int:
    found = [path for path in rate.iterdir() if path.stem == stem and path.suffix.lower() != ".png"]
    if len(found) != 1:
        raise ImageUnreadable(f"{rate} has {len(found)} coded files of {stem}; expected one beside {stem}.png")
    return found[0].stat().st_size


def _listed_bytes(path: Path) -> dict[str, int] | None:
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            found = {Path(row["image"]).stem: int(row["bytes"]) for row in csv.DictReader(file)}
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ImageUnreadable(f"{path} is no table of sizes; expected the columns image and bytes") from error
    if any(size < 1 for size in found.values()):
        raise ImageUnreadable(f"{path} has a size below 1 byte")
    return found
