"""What a step of restoration computes: the analysis side of a trained model learns to see through noise.

noisy picture -> vqgan.encoder, enc, hyper_enc, q_enc (trained) -> y, z -> the rest of the model (frozen) -> bits and
picture, which stands beside the clean one

Codebook, priors and synthesis stay as they are, so that any decoder of the model reads the streams.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from examples.train_demo.losses import psnr_of
from examples.train_demo.recipe import Recipe
from examples.train_demo.stages import StepResult, Training
from torch import Tensor, nn

from glc.export.model import GlcModel
from glc.export.transform_weights import REPLACED
from glc.runtime.transforms import ANALYSIS

TRAINED = REPLACED[ANALYSIS]
"""Beginnings of the names of the tensors that training moves: all that another encoder of a bundle may replace."""

_LATENT_ENCODER = "vqgan.encoder."
_LEAST_ERROR = 40.0
"""Squared 8-bit levels added before the logarithm: a crop of plain sky does not outweigh all others of a batch."""


class Restoration(Training):
    """Stage 1: the latent of the clean picture. Stage 2: rate, and distortion against the clean picture."""

    def __init__(self, model: GlcModel, recipe: Recipe, sigma: float) -> None:
        """Begin with a trained model.

        Args:
            model: whose analysis side is trained; a copy of its latent encoder as it is now sets the target of stage 1.
            recipe: image lambdas, weight of the hyper latent's commitment, settings of the stages.
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
        """Parameters of the latent encoder in stage 1, of the whole analysis side in stage 2."""
        if stage not in (1, 2):
            raise ValueError(f"restoration has stages 1 and 2; got {stage}")
        moved = _LATENT_ENCODER if stage == 1 else TRAINED
        return [parameter for name, parameter in self.model.named_parameters() if name.startswith(moved)]

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
        error = ((self._generate(coded.latent) - x) * 127.5).square().mean((1, 2, 3))
        bpp = coded.bits / (x.shape[2] * x.shape[3])
        # In decibels, as the mean of pictures is taken: a smooth picture counts as much as one full of detail, and a
        # quality as much as any other.
        lost = 10 * torch.log10(error + _LEAST_ERROR)
        spent = bpp / torch.tensor(self._recipe.image_lambdas)[quality]
        # The priors know the codebook's entries alone: a hyper latent that leaves them behind is lost.
        loss = (spent + lost).mean() + self._recipe.hyper_commitment * coded.z.commitment
        numbers = {"loss": float(loss.detach()), "bpp": float(bpp.detach().mean()), "psnr": psnr_of(error.detach())}
        return StepResult(loss, numbers | {"entropy_z": float(coded.z.entropy.detach())})


def with_noise(x: Tensor, sigma: float) -> Tensor:
    """Pictures in [-1, 1] with Gaussian noise of sigma 8-bit levels, clipped and rounded as a file's would be."""
    levels = (x + 1) * 127.5 + sigma * torch.randn_like(x)
    return levels.round().clamp(0, 255) / 127.5 - 1
