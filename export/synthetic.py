"""Deterministic synthetic weights, made from tensor names and shapes alone.

No trained checkpoint can be had where this software is built, so tests, benchmarks and the embedded default run
on weights that anyone can make again. Each tensor is drawn from `numpy.random.RandomState` (a frozen stream),
seeded by its name and one integer. The gains keep activations of order one and the rate between 0.02 and 1.5 bpp.
They show nothing of the codec's quality: the decoded picture is noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from glc.export.config import ModelConfig, Shape
from glc.export.model import GlcModel

NATURAL = ModelConfig(
    latent_channels=256,
    base_channels=128,
    channel_multipliers=(1, 1, 2, 2, 4),
    encoder_blocks=2,
    decoder_blocks=3,
    attention_levels=(4,),
    codebook_entries=16384,
    qualities=4,
    swish_before_last=True,
    quant_conv=True,
)
"""The published model for natural images, f = 16."""

FACIAL = replace(
    NATURAL,
    base_channels=64,
    channel_multipliers=(1, 2, 2, 4, 4, 8),
    decoder_blocks=2,
    attention_levels=(5,),
    codebook_entries=1024,
    swish_before_last=False,
    quant_conv=False,
)
"""The published model for faces, f = 32."""

MINI = replace(NATURAL, latent_channels=32, base_channels=32, codebook_entries=256)
"""The natural model with 32 channels: not published, small enough for tests."""

F8 = replace(MINI, channel_multipliers=(1, 1, 2, 4), attention_levels=(), decoder_blocks=2)
"""A model with f = 8 and 256 codebook entries, as the paper mentions for about 0.12 bpp."""

CONFIGS = {"natural": NATURAL, "facial": FACIAL, "mini": MINI, "f8": F8}
"""Configurations by the names that the commands take."""

_LAST_OF_PRIOR = ("y_prior_fusion.1.block.1.conv_out", "y_spatial_prior.2.block.1.conv_out")
_RESIDUAL_BRANCH = ("conv_out", "out_conv", "proj_out", ".conv2.", "depth_conv")


def synthetic_model(config: ModelConfig, seed: int = 0) -> GlcModel:
    """Build a model of a configuration with synthetic weights, in evaluation mode."""
    with torch.device("meta"):
        model = GlcModel(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = {name: torch.from_numpy(array) for name, array in synthesize(shapes, seed).items()}
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def synthesize(shapes: Mapping[str, Shape], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Draw every tensor of a state dict.

    Args:
        shapes: state-dict name -> shape.
        seed: 0 for the reference vectors.

    Returns:
        Name -> float32 array of that shape.
    """
    return {name: _draw_tensor(name, shape, shapes, seed) for name, shape in shapes.items()}


def _draw_tensor(name: str, shape: Shape, shapes: Mapping[str, Shape], seed: int) -> NDArray[np.float32]:
    stream = np.random.RandomState((zlib.crc32(name.encode()) ^ (seed * 0x9E3779B1)) & 0xFFFFFFFF)
    draw = stream.standard_normal(shape).astype(np.float32)
    if name in ("q_enc", "q_dec"):  # a larger quality spends more bits
        rate = np.float32(1.4) ** np.arange(shape[0], dtype=np.float32).reshape(-1, 1, 1, 1)
        return np.asarray((rate if name == "q_enc" else 1.0 / rate) * np.exp(0.1 * draw), np.float32)
    if name.endswith("embedding.weight"):
        return np.asarray(0.2 * draw, np.float32)
    if len(shape) == 4:
        fan_in = shape[1] * shape[2] * shape[3]
        return np.asarray(draw * np.float32(_gain(name, shapes) / np.sqrt(fan_in)), np.float32)
    if name.endswith("bias") and len(shapes[name.removesuffix("bias") + "weight"]) == 4:
        return _convolution_bias(name, draw)
    return np.asarray(0.1 * draw if name.endswith("bias") else 1.0 + 0.1 * draw, np.float32)


def _gain(name: str, shapes: Mapping[str, Shape]) -> float:
    if name == _latent_projection(shapes):
        return 0.1
    if name.startswith(("y_spatial_prior_reduction", "y_prior_fusion.1.block.0.adaptor")):
        return 0.1
    # Damped residual branches keep activations of order one at any depth.
    if any(part in name for part in _RESIDUAL_BRANCH) and "vqgan" not in name:
        return 0.3
    return 1.0


def _latent_projection(shapes: Mapping[str, Shape]) -> str:
    """The encoder's last convolution: the 1x1 projection, or else the last block."""
    if "vqgan.encoder.quant_conv.weight" in shapes:
        return "vqgan.encoder.quant_conv.weight"
    blocks = [n for n in shapes if n.startswith("vqgan.encoder.blocks.") and len(shapes[n]) == 4]
    return max(blocks, key=lambda n: (int(n.split(".")[3]), n))


def _convolution_bias(name: str, draw: NDArray[np.float32]) -> NDArray[np.float32]:
    bias = 0.05 * draw
    if name.startswith(_LAST_OF_PRIOR):  # quant_step, scales, means; or scales, means
        parts = 3 if name.startswith("y_prior_fusion") else 2
        centre = (1.0, 0.12, 0.0)[-parts:]
        bias = bias + np.repeat(np.asarray(centre, np.float32), draw.size // parts)
    return np.asarray(bias, np.float32)
