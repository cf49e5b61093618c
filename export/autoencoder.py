"""The VQGAN auto-encoder: latent encoder and latent decoder (GLC.md, "Modules").

Attribute names and block numbers are those of the released state dicts, and may not change.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glc.export.config import GROUPS, ModelConfig


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """GroupNorm, swish, conv3x3, twice; plus identity."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = _norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.conv_out = None if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h, w)."""
        branch = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        identity = x if self.conv_out is None else self.conv_out(x)
        return identity + branch


class Downsample(nn.Module):
    """One row and column of zeros at the bottom and right, conv3x3 with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h/2, w/2), h and w even."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbour x2, conv3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class PatchAttention(nn.Module):
    """Self-attention within patches of `patch` x `patch` positions, cut from the top left corner.

    Patches at the right and bottom edge may be smaller. All of them are computed at once: the latent is padded
    to whole patches and the padding's keys get a score that softmax turns into zero.
    """

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        batch, channels, height, width = x.shape
        # Never -(-n // patch): ONNX divides integers towards zero.
        rows, columns = (height + self.patch - 1) // self.patch, (width + self.patch - 1) // self.patch
        # A latent smaller than a patch is one patch of its own size: no work is spent on padding.
        patch_h = torch.sym_min(self.patch, height)  # type: ignore[no-untyped-call]
        patch_w = torch.sym_min(self.patch, width)  # type: ignore[no-untyped-call]
        pad_h, pad_w = rows * patch_h - height, columns * patch_w - width

        def to_patches(t: Tensor) -> Tensor:
            t = F.pad(t, (0, pad_w, 0, pad_h))
            t = t.reshape(batch, t.shape[1], rows, patch_h, columns, patch_w).permute(0, 2, 4, 3, 5, 1)
            return t.reshape(batch * rows * columns, patch_h * patch_w, t.shape[-1])

        normed = self.norm(x)
        q, k, v = (to_patches(conv(normed)) for conv in (self.q, self.k, self.v))
        # -1e4 rather than -inf fits float16; every patch has a valid key, so that it never wins.
        valid = to_patches(torch.ones_like(x[:, :1]))
        bias = (valid.transpose(1, 2) - 1) * 1e4
        scores = (q * channels**-0.5) @ k.transpose(1, 2) + bias
        mixed = torch.softmax(scores, dim=-1) @ v
        mixed = mixed.reshape(batch, rows, columns, patch_h, patch_w, channels).permute(0, 5, 1, 3, 2, 4)
        mixed = mixed.reshape(batch, channels, rows * patch_h, columns * patch_w)[:, :, :height, :width]
        return x + self.proj_out(mixed)


class LatentEncoder(nn.Module):
    """`vqgan.encoder`: image to latent."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.base_channels
        blocks: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
        deepest = len(config.channel_multipliers) - 1
        for level, multiplier in enumerate(config.channel_multipliers):
            blocks += _level(config, level, channels, config.encoder_blocks)
            channels = config.base_channels * multiplier
            if level != deepest:
                blocks.append(Downsample(channels))
        blocks += _middle(config, channels)
        blocks += _ending(config, channels, config.latent_channels)
        self.blocks = nn.Sequential(*blocks)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1) if config.quant_conv else None

    def forward(self, x: Tensor) -> Tensor:
        """X (B, 3, H, W) in [-1, 1], H and W multiples of f -> l (B, N, H/f, W/f)."""
        latent = self.blocks(x)
        return latent if self.quant_conv is None else self.quant_conv(latent)


class LatentDecoder(nn.Module):
    """`vqgan.generator`: latent to image."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.base_channels * config.channel_multipliers[-1]
        latent_channels = config.latent_channels
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1) if config.quant_conv else None
        blocks: list[nn.Module] = [nn.Conv2d(latent_channels, channels, 3, padding=1)]
        blocks += _middle(config, channels)
        for level in reversed(range(len(config.channel_multipliers))):
            blocks += _level(config, level, channels, config.decoder_blocks)
            channels = config.base_channels * config.channel_multipliers[level]
            if level != 0:
                blocks.append(Upsample(channels))
        blocks += _ending(config, channels, 3)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, latent: Tensor) -> Tensor:
        """l_hat (B, N, h, w) -> x_hat (B, 3, f h, f w), nominally in [-1, 1] but not clamped."""
        if self.post_quant_conv is not None:
            latent = self.post_quant_conv(latent)
        return self.blocks(latent)


class AutoEncoder(nn.Module):
    """`vqgan`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = LatentEncoder(config)
        self.generator = LatentDecoder(config)


def _level(config: ModelConfig, level: int, channels_in: int, count: int) -> list[nn.Module]:
    channels = config.base_channels * config.channel_multipliers[level]
    blocks: list[nn.Module] = []
    for _ in range(count):
        blocks.append(ResidualBlock(channels_in, channels))
        channels_in = channels
        if level in config.attention_levels:
            blocks.append(PatchAttention(channels, config.attention_patch))
    return blocks


def _middle(config: ModelConfig, channels: int) -> list[nn.Module]:
    return [
        ResidualBlock(channels, channels),
        PatchAttention(channels, config.attention_patch),
        ResidualBlock(channels, channels),
    ]


def _ending(config: ModelConfig, channels: int, channels_out: int) -> list[nn.Module]:
    swish = [nn.SiLU()] if config.swish_before_last else []
    return [_norm(channels), *swish, nn.Conv2d(channels, channels_out, 3, padding=1)]
