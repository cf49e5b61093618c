"""Distortion of pictures: mean squared error, PSNR and MS-SSIM (Wang, Simoncelli and Bovik, 2003)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = 11
_SIGMA = 1.5


def psnr(x: Tensor, y: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images of the same shape, in units of 8-bit levels."""
    error = float((x.double() - y.double()).square().mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale structural similarity, averaged over colour channels.

    Pictures too small for five scales are compared on as many as fit, with weights that sum to one.

    Args:
        x: (B, C, H, W) float in units of 8-bit levels.
        y: the same shape.

    Returns:
        (B,): 1 for equal pictures.
    """
    smallest = min(x.shape[-2:])
    scales = min(len(_WEIGHTS), 1 + max(0, int(math.log2(smallest / _WINDOW))))
    weights = [weight / sum(_WEIGHTS[:scales]) for weight in _WEIGHTS[:scales]]
    result = torch.ones(x.shape[:2], device=x.device)
    for scale, weight in enumerate(weights):
        luminance, structure = _statistics(x, y)
        term = luminance * structure if scale == scales - 1 else structure
        # A negative covariance would have no real power; in training the floor also bounds the gradient.
        result = result * term.mean(dim=(2, 3)).clamp(min=1e-3) ** weight
        if scale < scales - 1:
            odd = (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)
            x, y = (F.avg_pool2d(F.pad(image, odd, mode="replicate"), 2) for image in (x, y))
    return result.mean(dim=1)


def _statistics(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure maps under a Gaussian window, without padding."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y, xx, yy, xy = _blur(torch.cat((x, y, x * x, y * y, x * y), dim=1)).chunk(5, dim=1)
    var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * cov + c2) / (var_x + var_y + c2)


def _blur(x: Tensor) -> Tensor:
    axis = torch.arange(_WINDOW, dtype=x.dtype) - _WINDOW // 2
    kernel = torch.exp(-(axis**2) / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    channels = x.shape[1]
    rows = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(x, rows, groups=channels), columns, groups=channels)
