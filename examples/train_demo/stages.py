"""The three stages: what a step computes, and which weights it moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from examples.train_demo.codebook import Quantised, TrainedCodebook
from examples.train_demo.fast_norm import use_fast_norms
from examples.train_demo.losses import Distortion, ImageDistortion
from examples.train_demo.recipe import Recipe
from examples.train_demo.walk import part_masks, walk
from torch import Tensor, nn

from glc.export.blocks import Codebook
from glc.export.model import GlcModel


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """What a step gives."""

    loss: Tensor
    """(): what is minimised."""
    numbers: dict[str, float]
    """Columns of the log."""


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A latent after transform coding."""

    latent: Tensor
    """(B, N, h, w): l_hat, as the decoder of pictures gets it."""
    bits: Tensor
    """(B,): estimated rate of the symbols."""
    hyper_bits: Tensor
    """(B,): what the rate would be from the hyper latent alone (`Walked`)."""
    z: Quantised
    """The hyper latent."""


class Training(nn.Module, ABC):
    """The model with what every kind of training needs: its parts with gradients, its hyper codebook's averages.

    A subclass says which weights a stage moves and what a step computes.
    """

    def __init__(self, model: GlcModel, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.hyper_vq = TrainedCodebook(model.z_vq)
        self._recipe = recipe
        self._masks = lru_cache(maxsize=8)(part_masks)
        # Convolutions in bfloat16 train faster on channels_last; the transform coding stays as it is.
        use_fast_norms(model.vqgan)
        model.vqgan.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @abstractmethod
    def trained(self, stage: int) -> list[nn.Parameter]:
        """Parameters that a stage moves."""

    @abstractmethod
    def step(self, stage: int, x: Tensor) -> StepResult:
        """Compute the loss of one batch x (B, 3, H, W) in [-1, 1]."""

    def _draw_qualities(self, count: int) -> Tensor:
        # A permutation a batch: every quality is seen as often, and the loss fluctuates less.
        qualities = self.model.config.qualities
        return torch.cat([torch.randperm(qualities) for _ in range(-(-count // qualities))])[:count]

    def _encode(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            latent: Tensor = self.model.vqgan.encoder(x.contiguous(memory_format=torch.channels_last))
        return latent.float().contiguous()

    def _generate(self, latent: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            x_hat: Tensor = self.model.vqgan.generator(latent.contiguous(memory_format=torch.channels_last))
        return x_hat.float().contiguous()

    def _code(self, latent: Tensor, quality: Tensor) -> Coded:
        """Transform coding in float32: it is a hundredth of the work, and the rate is sensitive."""
        model = self.model
        y = model.enc(latent, model.q_enc[quality])
        z = self.hyper_vq(model.hyper_enc(y), self._recipe.commitment)
        params = model.y_prior_fusion(model.hyper_dec(z.values))
        walked = walk(model, params, y, self._masks(*y.shape[1:]))
        l_hat = model.dec(walked.y_hat, model.q_dec[quality])
        return Coded(l_hat, walked.bits, walked.hyper_bits, z)


class Stages(Training):
    """A new model from nothing: adds the latent codebook and what predicts it."""

    def __init__(self, model: GlcModel, recipe: Recipe) -> None:
        super().__init__(model, recipe)
        self._distortion = ImageDistortion(recipe)
        self.latent_codebook = Codebook(recipe.latent_codebook_entries, model.config.latent_channels)
        self.latent_vq = TrainedCodebook(self.latent_codebook)
        self.code_predictor = _code_predictor(model.config.latent_channels, recipe.latent_codebook_entries)

    def trained(self, stage: int) -> list[nn.Parameter]:
        """Parameters that a stage moves; codebooks follow their averages instead of gradients."""
        names = [name for name, _ in self.model.named_parameters() if not name.startswith("z_vq.")]
        if stage != 3:
            names = [name for name in names if name.startswith("vqgan.") == (stage == 1)]
        parameters = dict(self.model.named_parameters())
        predictor = list(self.code_predictor.parameters()) if stage == 2 else []
        return [parameters[name] for name in names] + predictor

    def step(self, stage: int, x: Tensor) -> StepResult:
        """Compute the loss of one batch x (B, 3, H, W) in [-1, 1]."""
        return (self._autoencoder, self._transform_coding, self._everything)[stage - 1](x)

    def _autoencoder(self, x: Tensor) -> StepResult:
        latent = self._encode(x)
        if self._recipe.codebook_share == 0:
            distortion = self._distortion(self._generate(latent), x)
            loss = distortion.total.mean() / 100
            return StepResult(loss, {"loss": float(loss.detach())} | distortion.numbers())
        quantised = self.latent_vq(latent, self._recipe.commitment)
        from_codebook = torch.rand(len(x), 1, 1, 1) < self._recipe.codebook_share
        distortion = self._distortion(self._generate(torch.where(from_codebook, quantised.values, latent)), x)
        loss = distortion.total.mean() / 100 + self._recipe.codebook_share * quantised.commitment
        return StepResult(loss, {"loss": float(loss.detach())} | distortion.numbers())

    def _transform_coding(self, x: Tensor) -> StepResult:
        with torch.no_grad():
            latent = self._encode(x)
        quality = self._draw_qualities(len(x))
        coded = self._code(latent, quality)
        bpp = coded.bits / (x.shape[2] * x.shape[3])
        error = (coded.latent - latent).square().mean((1, 2, 3)) / latent.var()
        # The codebook follows the fixed latent; which entry stands where must be readable from the decoded one.
        codes = self.latent_vq(latent, self._recipe.commitment).indices.long()
        missed = F.cross_entropy(self.code_predictor(coded.latent), codes, reduction="none").mean((1, 2))
        lambdas = torch.tensor(self._recipe.latent_lambdas)[quality]
        loss = (bpp + lambdas * (error + self._recipe.code_weight * missed)).mean() + self._hyper_loss(coded, x)
        return StepResult(
            loss,
            {
                "loss": float(loss.detach()),
                "bpp": float(bpp.detach().mean()),
                "latent_error": float(error.detach().mean()),
                "entropy_z": float(coded.z.entropy.detach()),
                "code_nats": float(missed.detach().mean()),
            },
        )

    def _everything(self, x: Tensor) -> StepResult:
        latent = self._encode(x)
        quality = self._draw_qualities(len(x))
        coded = self._code(latent, quality)
        distortion = self._distortion(self._generate(coded.latent), x)
        result = self._rate_and_distortion(coded, distortion, quality, x)
        loss = result.loss + self._hyper_loss(coded, x)
        more = {"loss": float(loss.detach()), "entropy_z": float(coded.z.entropy.detach())}
        return StepResult(loss, result.numbers | more)

    def _rate_and_distortion(self, coded: Coded, distortion: Distortion, quality: Tensor, x: Tensor) -> StepResult:
        """What a picture costs, in bits and in errors: the published objective, by the image lambdas."""
        bpp = coded.bits / (x.shape[2] * x.shape[3])
        lambdas = torch.tensor(self._recipe.image_lambdas)[quality]
        # Divided by the root of lambda: otherwise the highest quality's gradients drown the lowest's.
        loss = ((bpp + lambdas * distortion.total) * (lambdas.mean() / lambdas).sqrt()).mean()
        numbers = {"loss": float(loss.detach()), "bpp": float(bpp.detach().mean())}
        return StepResult(loss, numbers | distortion.numbers())

    def _hyper_loss(self, coded: Coded, x: Tensor) -> Tensor:
        """What makes the hyper latent tell all that it can: its rate is fixed, and the preview shows nothing else."""
        hyper_bpp = coded.hyper_bits.mean() / (x.shape[2] * x.shape[3])
        # Without a floor the hyper latent shrinks to a point: at first its noise costs more than it tells.
        kept = coded.z.commitment + coded.z.shortfall
        return self._recipe.hyper_weight * hyper_bpp + self._recipe.hyper_commitment * kept


def _code_predictor(channels: int, entries: int) -> nn.Module:
    """Latent (B, N, h, w) -> log-odds of every entry of the latent codebook (B, entries, h, w)."""
    width = 4 * channels
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, entries, 1))


def average_weights(average: dict[str, Tensor], model: GlcModel, decay: float) -> None:
    """Move a running average of the model's weights towards them, in place."""
    names = list(average)
    weights = dict(model.named_parameters())
    current: Sequence[Tensor] = [weights[name].detach() for name in names]
    torch._foreach_lerp_([average[name] for name in names], list(current), 1 - decay)
