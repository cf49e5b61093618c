"""Analysis and synthesis cut at their GroupNorms: graphs that compute some rows of a level (docs/bundle.md, "Tiles").

    tile_analysis_start               image rows       -> features
    tile_analysis_<level>_<block>_1   features         -> hidden features of a residual block
    tile_analysis_<level>_<block>_2   hidden, features -> features
    tile_analysis_<level>_down        features         -> features of the next level
    tile_analysis_deepest             features, q_row  -> y, z_indices
    tile_synthesis_deepest            y_hat, q_row     -> features
    tile_synthesis_<level>_up         features         -> features of this level
    tile_synthesis_<level>_<block>_1, _2               as above
    tile_synthesis_end                features         -> image rows

A GroupNorm's statistics are those of the whole image, so they are inputs; each graph tells mean and length of every
row that it gives, from which the next statistics are made. The deepest level, 1/f^2 of the
positions, stays in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from glc.errors import ExportError
from glc.export.autoencoder import Downsample, ResidualBlock, Upsample
from glc.export.config import ModelConfig
from glc.export.graphs import Analysis
from glc.export.model import GlcModel
from glc.export.onnx_graph import GraphInput, to_onnx
from glc.export.tile_segments import conversion, down, end, first_half, second_half, start, up
from glc.runtime.tile_layout import NARROW, WIDEN
from glc.runtime.transforms import ANALYSIS, SYNTHESIS

_Module = TypeVar("_Module", bound=nn.Module)


def can_be_tiled(config: ModelConfig) -> bool:
    """Whether there are several levels, with attention at the deepest alone, as in all published models."""
    return config.downsampling > 1 and all(
        level == len(config.channel_multipliers) - 1 for level in config.attention_levels
    )


def tile_graphs(model: GlcModel) -> Iterator[tuple[str, bytes]]:
    """Graph name -> serialised graph, one after the other: together they weigh as much as both transforms.

    Raises:
        ExportError: the model cannot be tiled.
    """
    for transform in (ANALYSIS, SYNTHESIS):
        yield from transform_tiles(model, transform)
    for name in (NARROW, WIDEN):
        yield name, conversion(name)


def transform_tiles(model: GlcModel, transform: str) -> Iterator[tuple[str, bytes]]:
    """Those of `ANALYSIS` or `SYNTHESIS` alone; see `tile_graphs`."""
    if not can_be_tiled(model.config):
        raise ExportError("attention above the deepest level cannot be computed in tiles")
    yield from _analysis(model) if transform == ANALYSIS else _synthesis(model)


def _analysis(model: GlcModel) -> Iterator[tuple[str, bytes]]:
    config = model.config
    blocks = iter(model.vqgan.encoder.blocks)
    yield "tile_analysis_start", start("tile_analysis_start", _taken(blocks, nn.Conv2d))
    channels = config.base_channels
    for level in range(len(config.channel_multipliers) - 1):
        yield from _residual(f"tile_analysis_{level}", blocks, config.encoder_blocks)
        convolution = _taken(blocks, Downsample).conv
        channels = convolution.out_channels
        yield f"tile_analysis_{level}_down", down(f"tile_analysis_{level}_down", convolution)
    rows, columns = config.ragged_latent
    inputs = (GraphInput("features", torch.zeros((1, rows, columns, channels)), (1, 2)), _q_row(config))
    yield "tile_analysis_deepest", to_onnx(_DeepestAnalysis(model, list(blocks)), inputs, ("y", "z_indices"))


def _synthesis(model: GlcModel) -> Iterator[tuple[str, bytes]]:
    config = model.config
    modules = list(model.vqgan.generator.blocks)
    cut = next(n for n, module in enumerate(modules) if isinstance(module, Upsample))
    rows, columns = config.ragged_latent
    y_hat = GraphInput("y_hat", torch.zeros((1, config.latent_channels, rows, columns)), (2, 3))
    yield (
        "tile_synthesis_deepest",
        to_onnx(_DeepestSynthesis(model, modules[:cut]), (y_hat, _q_row(config)), ("result",)),
    )
    blocks = iter(modules[cut:])
    for level in reversed(range(len(config.channel_multipliers) - 1)):
        name = f"tile_synthesis_{level}_up"
        yield name, up(name, _taken(blocks, Upsample).conv)
        yield from _residual(f"tile_synthesis_{level}", blocks, config.decoder_blocks)
    norm = _taken(blocks, nn.GroupNorm)
    *swish, convolution = blocks
    if not isinstance(convolution, nn.Conv2d):
        raise ExportError(f"the decoder ends with {type(convolution).__name__}; expected a convolution")
    yield "tile_synthesis_end", end("tile_synthesis_end", norm, convolution, swish)


def _residual(prefix: str, blocks: Iterator[nn.Module], count: int) -> Iterator[tuple[str, bytes]]:
    for number in range(count):
        block = _taken(blocks, ResidualBlock)
        yield f"{prefix}_{number}_1", first_half(f"{prefix}_{number}_1", block)
        yield f"{prefix}_{number}_2", second_half(f"{prefix}_{number}_2", block)


def _taken(blocks: Iterator[nn.Module], kind: type[_Module]) -> _Module:
    block = next(blocks)
    if not isinstance(block, kind):
        raise ExportError(f"the auto-encoder has a {type(block).__name__} where {kind.__name__} is expected")
    return block


class _DeepestAnalysis(nn.Module):
    """Features of the deepest level to what `Analysis` gives."""

    def __init__(self, model: GlcModel, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.quant_conv = model.vqgan.encoder.quant_conv
        self.analysis = Analysis(model)

    def forward(self, features: Tensor, q_row: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.blocks(features.permute(0, 3, 1, 2))
        return self.analysis.coded(latent if self.quant_conv is None else self.quant_conv(latent), q_row)


class _DeepestSynthesis(nn.Module):
    """What `Synthesis` takes, to features of the deepest level."""

    def __init__(self, model: GlcModel, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.dec = model.dec
        self.post_quant_conv = model.vqgan.generator.post_quant_conv
        self.blocks = nn.Sequential(*blocks)

    def forward(self, y_hat: Tensor, q_row: Tensor) -> Tensor:
        latent = self.dec(y_hat, q_row)
        features: Tensor = self.blocks(latent if self.post_quant_conv is None else self.post_quant_conv(latent))
        return features.permute(0, 2, 3, 1)


def _q_row(config: ModelConfig) -> GraphInput:
    return GraphInput("q_row", torch.ones((1, config.latent_channels, 1, 1)))
