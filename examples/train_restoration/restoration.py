"""What a step of restoration computes: the latent encoder of a trained model learns to see through noise.

noisy picture -> vqgan.encoder (trained) -> l -> the rest of the model (frozen) -> bits and picture, which stands beside
the clean one

Everything behind the latent encoder stays as it is, so that any decoder of the model reads the streams.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from examples.train_demo.recipe import Recipe
from examples.train_demo.stages import StepResult, Training
from torch import Tensor, nn

from glc.export.model import GlcModel

TRAINED = "vqgan.encoder."
"""Prefix of the tensors that training moves."""


class Restoration(Training):
    """Stage 1: the latent of the clean picture. Stage 2: rate, and distortion against the clean picture."""

    def __init__(self, model: GlcModel, recipe: Recipe, sigma: float) -> None:
        """Begin with a trained model.

        Args:
            model: whose latent encoder is trained; a copy of it as it is now sets the target of stage 1.
            recipe: image lambdas, structure weight, settings of the stages.
            sigma: standard deviation of the noise in 8-bit levels.
        """
        super().__init__(model, recipe)
        self.clean_encoder = copy.deepcopy(model.vqgan.encoder)
        self._sigma = sigma

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the hyper codebook stays in evaluation, where its entries do not move."""
        super().train(mode)
        self.hyper_vq.eval()
        return self

    def trained(self, stage: int) -> list[nn.Parameter]:
        """Parameters of the latent encoder, in both stages."""
        if stage not in (1, 2):
            raise ValueError(f"restoration has stages 1 and 2; got {stage}")
        return list(self.model.vqgan.encoder.parameters())

    def step(self, stage: int, x: Tensor) -> StepResult:
        """Compute the loss of one batch x (B, 3, H, W) in [-1, 1], clean."""
        noisy = with_noise(x, self._sigma)
        return self._latents(x, noisy) if stage == 1 else self._pictures(x, noisy)

    def _latents(self, x: Tensor, noisy: Tensor) -> StepResult:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            wanted = self.clean_encoder(x.contiguous(memory_format=torch.channels_last)).float()
        loss = (self._encode(noisy) - wanted).square().mean() / wanted.var()
        error = float(loss.detach())
        return StepResult(loss, {"loss": error, "latent_error": error})

    def _pictures(self, x: Tensor, noisy: Tensor) -> StepResult:
        quality = self._draw_qualities(len(x))
        coded = self._code(self._encode(noisy), quality)
        distortion = self._distortion(self._generate(coded.latent), x)
        return self._rate_and_distortion(coded, distortion, quality, x)


def with_noise(x: Tensor, sigma: float) -> Tensor:
    """Pictures in [-1, 1] with Gaussian noise of sigma 8-bit levels, clipped and rounded as a file's would be."""
    levels = (x + 1) * 127.5 + sigma * torch.randn_like(x)
    return levels.round().clamp(0, 255) / 127.5 - 1
