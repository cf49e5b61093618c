"""Photographs as quality is measured on them: scaled, made noisy, denoised.

file -> scaled: the original that is compared with -> noise -> denoiser -> what codecs are given
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glc.runtime.codec import DEFAULT_MAX_PIXELS
from glc.runtime.images import read_image
from glc.runtime.terminal import requires_extra


class Denoiser(enum.StrEnum):
    """What may come before a codec that was not trained on noise."""

    NLM = "nlm"
    """Non-local means of scikit-image, which is told the deviation of the noise."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is done to photographs before they are measured."""

    max_side: int | None = None
    """Longer images are scaled down to so many pixels, before anything else."""
    noise_sigma: float = 0
    """Standard deviation of Gaussian noise, in 8-bit levels, on what is encoded."""
    seed: int = 0
    """Of the noise, with which that of an image depends on nothing but the image."""
    denoiser: Denoiser | None = None
    """Applied to the noisy image; needs noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One photograph."""

    name: str
    """Of its file."""
    clean: NDArray[np.uint8]
    """(H, W, 3): the original that decoded images are compared with."""
    given: NDArray[np.uint8]
    """(H, W, 3): what is encoded; `clean` itself where there is no noise."""
    pixels_id: str
    """Start of the SHA-256 of the size and of `clean`: the same in two runs on the same pixels."""


def load_picture(path: Path, conditions: Conditions) -> Picture:
    """Read a photograph and prepare it.

    Raises:
        ImageUnreadable: not an image that can be read.
        ValueError: a denoiser without noise.
        MissingExtra: the denoiser is not installed.
    """
    clean = read_image(path, DEFAULT_MAX_PIXELS).pixels
    if conditions.max_side is not None and max(clean.shape[:2]) > conditions.max_side:
        ratio = conditions.max_side / max(clean.shape[:2])
        height, width = (max(1, round(ratio * side)) for side in clean.shape[:2])
        clean = np.asarray(Image.fromarray(clean).resize((width, height), Image.Resampling.LANCZOS))
    digest = hashlib.sha256(repr(clean.shape).encode() + clean.tobytes()).hexdigest()[:16]
    given = clean
    if conditions.noise_sigma:
        noise = np.random.default_rng([conditions.seed, int(digest, 16)]).normal(0, conditions.noise_sigma, clean.shape)
        given = rounded(clean + noise)
    if conditions.denoiser is Denoiser.NLM:
        given = non_local_means(given, conditions.noise_sigma)
    return Picture(path.name, clean, given, digest)


def non_local_means(noisy: NDArray[np.uint8], sigma: float, strength: float = 0.8) -> NDArray[np.uint8]:
    """Denoise (H, W, 3) by non-local means of scikit-image.

    Args:
        noisy: the picture.
        sigma: standard deviation of its noise, in 8-bit levels.
        strength: of the filter, in units of sigma.

    Raises:
        ValueError: sigma is not positive.
        MissingExtra: scikit-image is not installed.
    """
    if sigma <= 0:
        raise ValueError("a denoiser needs the deviation of the noise")
    with requires_extra("bench"):
        from skimage.restoration import denoise_nl_means
    scaled = sigma / 255
    denoised = denoise_nl_means(
        (noisy / 255).astype(np.float32),
        patch_size=5,
        patch_distance=6,
        h=strength * scaled,
        sigma=scaled,
        fast_mode=True,
        channel_axis=-1,
    )
    return rounded(255 * np.asarray(denoised))


def rounded(pixels: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Levels as a file holds them."""
    levels: NDArray[np.uint8] = np.rint(pixels).clip(0, 255).astype(np.uint8)
    return levels
