"""Image files to RGB arrays and back, through Pillow."""

from __future__ import annotations

import io
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from glc.errors import ImageUnreadable, TooManyPixels
from glc.runtime.files import read_at_most, write_file

STANDARD_STREAM = Path("-")
"""Stands for standard input or output."""

_SRGB_NAMES = ("sRGB", "sRGB built-in", "sRGB IEC61966-2.1")
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


_PILLOW_LIMIT = threading.Lock()
"""Guards Pillow's process-wide limit on pixels while it is set aside."""

_WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".webp": ("WEBP", {"lossless": True}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".jpeg": ("JPEG", {"quality": 95}),
}
"""Ending -> Pillow's format and options: formats that keep every pixel where it is, and JPEG for those who ask."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedImage:
    """An image as the codec takes it."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    notes: tuple[str, ...]
    """What was changed on the way, for the user to read."""


def read_bytes(path: Path, most_bytes: int = 1 << 30) -> bytes:
    """Read a file, or standard input for "-".

    Raises:
        ImageUnreadable: it cannot be read, or is larger than `most_bytes`.
    """
    try:
        if path == STANDARD_STREAM:
            data = read_at_most(sys.stdin.buffer, most_bytes)
        else:
            with path.open("rb") as file:
                data = read_at_most(file, most_bytes)
    except OSError as error:
        raise ImageUnreadable(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > most_bytes:
        raise ImageUnreadable(f"{path} is larger than {most_bytes} bytes")
    return data


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or none; "-" is standard output.

    Raises:
        OutputNotWritable: the place cannot be written.
    """
    if path == STANDARD_STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_file(path, data)


def read_image(path: Path, max_pixels: int) -> LoadedImage:
    """Read an image file as 8-bit sRGB, the way people expect to see it.

    Args:
        path: a file, or "-" for standard input.
        max_pixels: larger images are refused before they are unpacked.

    Raises:
        ImageUnreadable: not an image, or damaged.
        TooManyPixels: too large.
    """
    return decode_image(read_bytes(path), str(path), max_pixels)


def decode_image(data: bytes, name: str, max_pixels: int, formats: tuple[str, ...] | None = None) -> LoadedImage:
    """Unpack the bytes of an image file as 8-bit sRGB, the way people expect to see it.

    Orientation tags are applied, embedded colour profiles converted, alpha is composited on white, 16 bits become 8.

    Args:
        data: the whole file.
        name: what messages call it.
        max_pixels: larger images are refused before they are unpacked.
        formats: Pillow's names of the formats that are tried; None for all.

    Raises:
        ImageUnreadable: not an image, or damaged.
        TooManyPixels: too large.
    """
    if not data:
        raise ImageUnreadable(f"{name} is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning: the limit below is ours
            with _opened(data, formats) as image:
                if image.width * image.height > max_pixels:
                    raise TooManyPixels(f"{name} has {image.width}x{image.height} pixels; the limit is {max_pixels}")
                image.load()
                return _converted(image)
    except UnidentifiedImageError as error:
        raise ImageUnreadable(f"{name} is not an image that Pillow can read") from error
    except (ImageUnreadable, MemoryError):
        raise
    except Exception as error:  # Pillow's formats raise whatever their parser meets in a damaged file
        raise ImageUnreadable(f"{name} cannot be read: {_printable(str(error))}") from error


def images_in(folder: Path) -> list[Path]:
    """Files directly in a folder whose ending is that of an image, in the order of their names.

    Raises:
        ImageUnreadable: there is none, or the folder cannot be read.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _WRITTEN)
    except OSError as error:
        raise ImageUnreadable(f"cannot read {folder}: {error.strerror}") from error
    if not paths:
        raise ImageUnreadable(f"no image in {folder}; expected files that end in {', '.join(_WRITTEN)}")
    return paths


def encode_image(pixels: NDArray[np.uint8], path: Path) -> bytes:
    """Pack (H, W, 3) uint8 in the format that the name's ending tells; PNG for "-".

    Raises:
        ValueError: no format has this ending.
    """
    kind, options = image_format(path)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def image_format(path: Path) -> tuple[str, dict[str, Any]]:
    """Pillow's format and options for a file's name.

    Raises:
        ValueError: no format has this ending, or one that would change the picture.
    """
    suffix = ".png" if path == STANDARD_STREAM else path.suffix.lower()
    if suffix not in _WRITTEN:
        raise ValueError(f"no image format is written with the ending {suffix!r}; choose one of {', '.join(_WRITTEN)}")
    return _WRITTEN[suffix]


def _opened(data: bytes, formats: tuple[str, ...] | None) -> Image.Image:
    """Open with Pillow's own limit set aside: the caller's counts."""
    with _PILLOW_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _converted(image: Image.Image) -> LoadedImage:
    notes: list[str] = []
    if getattr(image, "n_frames", 1) > 1:
        notes.append("took the first of several frames")
    upright = ImageOps.exif_transpose(image)
    if image.getexif().get(0x0112) in range(2, 9):
        notes.append("turned upright by its EXIF orientation")
    flat = upright
    if upright.mode == "F":
        raise ValueError("its samples are floating-point numbers; convert it to 8 or 16 bits")
    if upright.mode in _SIXTEEN_BIT_MODES:
        flat = Image.fromarray((np.asarray(upright).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
        notes.append("reduced 16 bits to 8")
    elif upright.mode in _ALPHA_MODES or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        if np.asarray(rgba)[..., 3].min() < 255:
            notes.append("composited alpha on white")
    if flat.mode in ("RGBA", "P"):
        flat = flat.convert("RGB")
    flat = _in_srgb(flat, image.info.get("icc_profile"), notes)
    if flat.mode != "RGB":
        if flat.mode not in ("1", "L"):
            notes.append(f"converted {flat.mode} to RGB")
        flat = flat.convert("RGB")
    return LoadedImage(np.asarray(flat), tuple(notes))


def _in_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Apply an embedded profile; one that does not fit the pixels is passed over and said so."""
    if profile is None or image.mode not in ("RGB", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(source).strip()
        if name in _SRGB_NAMES:
            return image
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        notes.append(f"ignored its colour profile: {error}")
        return image
    notes.append(f"converted from {_printable(name)} to sRGB")
    return converted if converted is not None else image
