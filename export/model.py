"""The GLC model in torch, under the names of the released state dicts.

image -> vqgan.encoder -> l -> enc -> y -> hyper_enc -> z -> z_vq -> z indices
z indices -> hyper_dec -> y_prior_fusion -> params -> four parts -> y_hat -> dec -> l_hat -> vqgan.generator
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from glc.export.autoencoder import AutoEncoder
from glc.export.blocks import Codebook, DepthConvBlock, QualityTransform, SubpixelUpsample
from glc.export.config import ModelConfig

MIN_QUANT_STEP = 0.5
"""Lower bound of quant_step (GLC.md, "Four-part spatial prior")."""


class GlcModel(nn.Module):
    """All networks that inference needs; the forward passes live in `reference` and `graphs`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        n = config.latent_channels
        self.q_enc = nn.Parameter(Tensor(config.qualities, n, 1, 1).fill_(1.0))
        self.q_dec = nn.Parameter(Tensor(config.qualities, n, 1, 1).fill_(1.0))
        self.enc = QualityTransform("enc", n)
        self.hyper_enc = nn.Sequential(
            DepthConvBlock(n, n),
            nn.Conv2d(n, n, 3, stride=2, padding=1),
            nn.LeakyReLU(0.01),
            nn.Conv2d(n, n, 3, stride=2, padding=1),
        )
        self.hyper_dec = nn.Sequential(SubpixelUpsample(n), SubpixelUpsample(n), DepthConvBlock(n, n))
        self.y_prior_fusion = nn.Sequential(DepthConvBlock(n, 2 * n), DepthConvBlock(2 * n, 3 * n))
        self.y_spatial_prior_reduction = nn.Conv2d(3 * n, n, 1)
        self.y_spatial_prior_adaptor_1 = DepthConvBlock(2 * n, 2 * n)
        self.y_spatial_prior_adaptor_2 = DepthConvBlock(2 * n, 2 * n)
        self.y_spatial_prior_adaptor_3 = DepthConvBlock(2 * n, 2 * n)
        self.y_spatial_prior = nn.Sequential(*(DepthConvBlock(2 * n, 2 * n) for _ in range(3)))
        self.dec = QualityTransform("dec", n)
        self.vqgan = AutoEncoder(config)
        self.z_vq = Codebook(config.codebook_entries, n)

    @property
    def spatial_adaptors(self) -> tuple[DepthConvBlock, DepthConvBlock, DepthConvBlock]:
        """Adaptors of parts 1, 2 and 3."""
        return self.y_spatial_prior_adaptor_1, self.y_spatial_prior_adaptor_2, self.y_spatial_prior_adaptor_3


def with_attention_patch(model: GlcModel, patch: int) -> GlcModel:
    """The same weights with another side of attention patches, in latent positions; `GLOBAL_ATTENTION` for one patch.

    Decoders must use the patch of the encoder's model: it changes the image, though not what the payload means.
    """
    with torch.device("meta"):
        changed = GlcModel(replace(model.config, attention_patch=patch))
    changed.load_state_dict(model.state_dict(), assign=True)
    return changed.eval().requires_grad_(False)
