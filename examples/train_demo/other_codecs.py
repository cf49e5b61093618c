"""JPEG and WebP at the size of a file of ours."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_JPEG_QUALITIES = range(1, 96)
_WEBP_QUALITIES = range(101)


@dataclass(frozen=True, slots=True)
class Rival:
    """A codec to compare with, at one reduction of the picture before coding."""

    name: str
    """For the table: codec, and the reduction where there is one."""
    encode: Callable[[Image.Image, int], bytes]
    """Picture and quality -> file."""
    qualities: range
    """What `encode` takes; the files grow with it, but for a few bytes here and there."""
    reduction: int
    """1, 2 or 4: the picture is made so many times smaller and scaled back up after decoding."""


@dataclass(frozen=True, slots=True, eq=False)
class Rivalled:
    """What a rival makes of a picture."""

    size_bytes: int
    """Of its file."""
    quality: int
    """That was chosen."""
    pixels: NDArray[np.uint8]
    """(H, W, 3): decoded, at the full size."""


def rivals() -> tuple[Rival, ...]:
    """JPEG and WebP, each whole and on a picture reduced 2 and 4 times."""
    return tuple(
        Rival(name if reduction == 1 else f"{name} /{reduction}", encode, qualities, reduction)
        for name, encode, qualities in (("JPEG", _jpeg, _JPEG_QUALITIES), ("WebP", _webp, _WEBP_QUALITIES))
        for reduction in (1, 2, 4)
    )


def at_size(rival: Rival, pixels: NDArray[np.uint8], least_bytes: int) -> Rivalled:
    """Code a picture with the rival's smallest file that has at least so many bytes.

    Where all of its files are larger that is its smallest one; where all are smaller, its largest.
    """
    picture = Image.fromarray(pixels)
    small = picture
    if rival.reduction > 1:
        size = (max(1, round(picture.width / rival.reduction)), max(1, round(picture.height / rival.reduction)))
        small = picture.resize(size, Image.Resampling.LANCZOS)
    low, high = 0, len(rival.qualities) - 1
    while low < high:
        middle = (low + high) // 2
        if len(rival.encode(small, rival.qualities[middle])) >= least_bytes:
            high = middle
        else:
            low = middle + 1
    quality = rival.qualities[low]
    data = rival.encode(small, quality)
    decoded = Image.open(io.BytesIO(data)).convert("RGB")
    if rival.reduction > 1:
        decoded = decoded.resize(picture.size, Image.Resampling.LANCZOS)
    return Rivalled(len(data), quality, np.asarray(decoded))


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _webp(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()
