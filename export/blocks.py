"""Blocks of the transform coding and the prior networks (GLC.md, "Modules").

Attribute names are those of the released state dicts, and may not change.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthConv(nn.Module):
    """conv1x1, LeakyReLU, depthwise 3x3, conv1x1; plus identity."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(channels_in, channels_in, 1), nn.LeakyReLU(0.01))
        self.depth_conv = nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in)
        self.conv2 = nn.Conv2d(channels_in, channels_out, 1)
        self.adaptor = _adaptor(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h, w)."""
        return _adapted(x, self.adaptor) + self.conv2(self.depth_conv(self.conv1(x)))


class DepthConv2(nn.Module):
    """The gated form: (conv1x1, LeakyReLU, depthwise 3x3) times conv1x1, then conv1x1; plus identity."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(channels_in, channels_in, 1),
            nn.LeakyReLU(0.01),
            nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in),
        )
        self.conv2 = nn.Conv2d(channels_in, channels_in, 1)
        self.out_conv = nn.Conv2d(channels_in, channels_out, 1)
        self.adaptor = _adaptor(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h, w)."""
        return _adapted(x, self.adaptor) + self.out_conv(self.conv1(x) * self.conv2(x))


class ConvFFN(nn.Module):
    """conv1x1 to 4c split in halves u, v; conv1x1 of u * LeakyReLU_0.1(v); plus identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 1)
        self.conv_out = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> the same shape."""
        u, v = self.conv(x).chunk(2, dim=1)
        return x + self.conv_out(u * F.leaky_relu(v, 0.1))


class DepthConvBlock(nn.Module):
    """DepthConv, ConvFFN."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.block = nn.Sequential(DepthConv(channels_in, channels_out), ConvFFN(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h, w)."""
        return self.block(x)


class DepthConvBlock2(nn.Module):
    """DepthConv2, ConvFFN."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.block = nn.Sequential(DepthConv2(channels_in, channels_out), ConvFFN(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels_out, h, w)."""
        return self.block(x)


class QualityTransform(nn.Module):
    """`enc` and `dec`: two gated blocks, the q row, two gated blocks."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        # The released names repeat the module's own: enc.enc_1, dec.dec_1.
        stages = OrderedDict(
            (
                f"{name}_{i}",
                nn.Sequential(DepthConvBlock2(channels, channels), DepthConvBlock2(channels, channels)),
            )
            for i in (1, 2)
        )
        for stage_name, stage in stages.items():
            self.add_module(stage_name, stage)
        self._names = tuple(stages)

    def forward(self, x: Tensor, q_row: Tensor) -> Tensor:
        """X (B, N, h, w), q_row (1, N, 1, 1) -> (B, N, h, w)."""
        first, second = (self.get_submodule(name) for name in self._names)
        return second(first(x) * q_row)


class SubpixelUpsample(nn.Module):
    """Upsampling block of the hyper decoder: twice the height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.subpel_conv = nn.Sequential(nn.Conv2d(channels, 4 * channels, 1), nn.PixelShuffle(2))
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = nn.Sequential(nn.Conv2d(channels, 4 * channels, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, h, w) -> (B, N, 2h, 2w)."""
        main = F.leaky_relu(self.conv(F.leaky_relu(self.subpel_conv(x), 0.01)), 0.1)
        return main + self.upsample(x)


class Codebook(nn.Module):
    """`z_vq`: M entries of N numbers."""

    def __init__(self, entries: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, channels)

    def nearest(self, z: Tensor) -> Tensor:
        """Index of the entry with the least squared distance, the lowest one on ties.

        Args:
            z: (B, N, h, w) float; searched in float32 at least, since entries lie close together.

        Returns:
            (B, h, w) int32.
        """
        precision = torch.promote_types(z.dtype, torch.float32)
        entries = self.embedding.weight.to(precision)
        # |z|^2 is the same for every entry; leaving it out keeps the digits that tell entries apart.
        scores = entries.square().sum(1) - 2 * z.to(precision).permute(0, 2, 3, 1) @ entries.t()
        return scores.argmin(dim=-1).to(torch.int32)

    def lookup(self, indices: Tensor) -> Tensor:
        """(B, h, w) int32 -> (B, N, h, w) float32."""
        return self.embedding(indices).permute(0, 3, 1, 2).contiguous()


def _adaptor(channels_in: int, channels_out: int) -> nn.Conv2d | None:
    return None if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)


def _adapted(x: Tensor, adaptor: nn.Module | None) -> Tensor:
    return x if adaptor is None else adaptor(x)
