"""How far a decoded image is from the original, by the measures that need no trained network, and names of all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from glc.runtime.demo import psnr_db
from glc.runtime.terminal import MissingExtra, requires_extra

MS_SSIM_SIDE = 176
"""Pixels, the least that both sides must have: at the smallest of five scales, 1/16, a window of 11x11 must fit."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of quality."""

    field: str
    """Its name in rows and JSON."""
    title: str
    """Its name in tables and plots."""
    higher_is_better: bool
    form: str
    """Format of its values, as `format` takes it."""


PSNR = Metric("psnr_db", "PSNR dB", True, ".2f")
MS_SSIM = Metric("ms_ssim", "MS-SSIM", True, ".4f")
LPIPS_ALEX = Metric("lpips_alex", "LPIPS (AlexNet)", False, ".4f")
LPIPS_VGG = Metric("lpips_vgg", "LPIPS (VGG16)", False, ".4f")
DISTS = Metric("dists", "DISTS", False, ".4f")
FID = Metric("fid", "FID", False, ".2f")
KID = Metric("kid", "KID", False, ".5f")

OF_IMAGES = (PSNR, MS_SSIM, LPIPS_ALEX, LPIPS_VGG, DISTS)
"""Have a value for each image, and are averaged."""

OF_SETS = (FID, KID)
"""Have one value for all images together."""


def finite_psnr_db(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float | None:
    """PSNR in dB over all samples of two (H, W, 3) images; None where they are equal and it would be infinite."""
    found = psnr_db(original, decoded)
    return found if math.isfinite(found) else None


def ms_ssim(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float | None:
    """MS-SSIM of two (H, W, 3) images by torchmetrics, on RGB with a data range of 255; 1 for equal images.

    Returns:
        None where a side has fewer than `MS_SSIM_SIDE` pixels.

    Raises:
        MissingExtra: torchmetrics is not installed, or cannot be imported.
    """
    if min(original.shape[:2]) < MS_SSIM_SIDE:
        return None
    require_torchmetrics()
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    with torch.inference_mode():
        images = [as_batch(image).float() for image in (decoded, original)]
        return float(multiscale_structural_similarity_index_measure(images[0], images[1], data_range=255.0))


def as_batch(image: NDArray[np.uint8]) -> torch.Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) uint8."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


def require_torchmetrics() -> None:
    """Import torchmetrics, which imports torchvision where that is installed.

    Raises:
        MissingExtra: it is not installed, or a torchvision that does not fit this torch keeps it from being imported.
    """
    with requires_extra("bench"):
        try:
            import torchmetrics.functional.image
        except RuntimeError as error:  # torchvision's operators are compiled for one build of torch
            words = "torchvision does not load beside this torch; install the build that matches it, or remove it"
            raise MissingExtra(f"{words} ({' '.join(str(error).split())[:80]})") from error
        del torchmetrics
