"""What an image is compared by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from examples.train_demo.metrics import ms_ssim
from examples.train_demo.recipe import Recipe
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Distortion:
    """Distortion of each picture of a batch."""

    total: Tensor
    """(B,): the weighted sum, in units of squared 8-bit levels."""
    squared_error: Tensor
    """(B,): mean squared error in squared 8-bit levels."""
    structure: Tensor | None
    """(B,): 1 - MS-SSIM; None where it has no weight, since it takes time."""

    def numbers(self) -> dict[str, float]:
        """Columns of the log."""
        structure = {} if self.structure is None else {"structure": float(self.structure.mean())}
        return {"psnr": psnr_of(self.squared_error)} | structure


class ImageDistortion:
    """Squared error, and structure where it has a weight."""

    def __init__(self, recipe: Recipe) -> None:
        self._structure_weight = recipe.structure_weight

    def __call__(self, x_hat: Tensor, x: Tensor) -> Distortion:
        """x_hat, x (B, 3, H, W) in [-1, 1]."""
        squared_error = ((x_hat - x) * 127.5).square().mean((1, 2, 3))
        total, structure = squared_error, None
        if self._structure_weight > 0:
            structure = 1 - ms_ssim((x_hat + 1) * 127.5, (x + 1) * 127.5)
            total = total + self._structure_weight * structure
        return Distortion(total, squared_error.detach(), None if structure is None else structure.detach())


def psnr_of(squared_error: Tensor) -> float:
    """Mean PSNR in dB of mean squared errors (B,) in squared 8-bit levels."""
    return float((10 * torch.log10(255**2 / squared_error.clamp(min=1e-3))).mean())
