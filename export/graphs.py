"""The networks cut where the entropy coder needs them: one torch module for each ONNX graph (docs/bundle.md).

    analysis         image, q_row              -> y, z_indices
    hyper_prior      z_indices                 -> scale_indices, means (part 0), quant_step, context
    spatial_prior_k  y_hat, context            -> scale_indices, means (part k = 1, 2, 3)
    synthesis        y_hat, q_row              -> image

Only `hyper_prior` and `spatial_prior_k` decide what a bitstream means. `FloatHyperPrior` and `FloatSpatialPrior`
compute them as published, `glc.export.exact_graphs` in integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glc.export.config import ModelConfig
from glc.export.model import MIN_QUANT_STEP, GlcModel
from glc.export.onnx_graph import GraphInput
from glc.runtime.scale_table import ScaleGrid
from glc.runtime.spatial_walk import PART_OFFSETS
from glc.runtime.transforms import ANALYSIS, SYNTHESIS, own_name


def interpolated_row(rows: Tensor, quality: float) -> Tensor:
    """Row (1, N, 1, 1) of q_enc or q_dec (Q, N, 1, 1) at a quality 0..Q-1, linear between rows."""
    last = rows.shape[0] - 1
    if not 0 <= quality <= last:
        raise ValueError(f"quality {quality} is out of range 0..{last}")
    low = min(int(quality), max(last - 1, 0))
    high = min(low + 1, last)
    return torch.lerp(rows[low : low + 1], rows[high : high + 1], quality - low)


class Analysis(nn.Module):
    """Latent encoder, analysis transform, hyper analysis, codebook search."""

    def __init__(self, model: GlcModel) -> None:
        super().__init__()
        self.encoder = model.vqgan.encoder
        self.enc = model.enc
        self.hyper_enc = model.hyper_enc
        self.z_vq = model.z_vq
        self.multiple = model.config.padding_multiple

    def forward(self, image: Tensor, q_row: Tensor) -> tuple[Tensor, Tensor]:
        """Image to latent.

        Args:
            image: (1, h, w, 3) uint8.
            q_row: (1, N, 1, 1) float32, the row of q_enc.

        Returns:
            y (1, N, H/f, W/f) float32 and z indices (1, H/4f, W/4f) int32, where H and W are h and w rounded up
            to multiples of 4f.
        """
        return self.coded(self.latent(image), q_row)

    def latent(self, image: Tensor) -> Tensor:
        """(1, h, w, 3) uint8 -> l (1, N, H/f, W/f) float32."""
        height, width = image.shape[1:3]
        x = image.to(self.z_vq.embedding.weight.dtype).permute(0, 3, 1, 2).contiguous() * (2 / 255) - 1
        # Replication padding as a gather: the padded size is then visibly a multiple of 4f, which keeps every
        # size that follows from it simple.
        x = x.index_select(2, self._rows(height)).index_select(3, self._rows(width))
        latent: Tensor = self.encoder(x)
        return latent

    def coded(self, latent: Tensor, q_row: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and z indices of a latent, as `forward` does."""
        y = self.enc(latent, q_row)
        return y, self.z_vq.nearest(self.hyper_enc(y))

    def _rows(self, size: int) -> Tensor:
        padded = (size + self.multiple - 1) // self.multiple * self.multiple
        return torch.arange(padded).clamp(max=size - 1)


class FloatHyperPrior(nn.Module):
    """Codebook lookup, hyper synthesis and prior fusion, in float32 as published."""

    def __init__(self, model: GlcModel, grid: ScaleGrid) -> None:
        super().__init__()
        self.z_vq = model.z_vq
        self.hyper_dec = model.hyper_dec
        self.fusion = model.y_prior_fusion
        self.reduction = model.y_spatial_prior_reduction
        self.grid = grid

    def forward(self, z_indices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Hyper latent to the prior of part 0.

        Args:
            z_indices: (1, h/4, w/4) int32.

        Returns:
            scale indices (1, N, h/2, w/2) uint8 and means of the same shape, float32, both of part 0; quant_step
            (1, N, h, w) float32, >= 0.5; context (1, N, h, w) float32.
        """
        params = self.fusion(self.hyper_dec(self.z_vq.lookup(z_indices)))
        quant_step, scales, means = params.chunk(3, dim=1)
        return (
            scale_indices(compact_part(scales, 0), self.grid),
            compact_part(means, 0),
            quant_step.clamp(min=MIN_QUANT_STEP),
            self.reduction(params),
        )


class FloatSpatialPrior(nn.Module):
    """Adaptor of one part and the shared spatial prior, in float32 as published."""

    def __init__(self, model: GlcModel, part: int, grid: ScaleGrid) -> None:
        super().__init__()
        self.adaptor = model.spatial_adaptors[part - 1]
        self.prior = model.y_spatial_prior
        self.part = part
        self.grid = grid

    def forward(self, y_hat: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Decoded parts to the prior of the next one.

        Args:
            y_hat: (1, N, h, w) float32 in units of quant_step, zero where not decoded yet.
            context: (1, N, h, w) float32.

        Returns:
            scale indices (1, N, h/2, w/2) uint8 and means of the same shape, float32.
        """
        scales, means = self.prior(self.adaptor(torch.cat((y_hat, context), dim=1))).chunk(2, dim=1)
        return scale_indices(compact_part(scales, self.part), self.grid), compact_part(means, self.part)


class Synthesis(nn.Module):
    """Synthesis transform and latent decoder."""

    def __init__(self, model: GlcModel) -> None:
        super().__init__()
        self.dec = model.dec
        self.generator = model.vqgan.generator

    def forward(self, y_hat: Tensor, q_row: Tensor) -> Tensor:
        """Decoded latent to image.

        Args:
            y_hat: (1, N, h, w) float32, multiplied by quant_step.
            q_row: (1, N, 1, 1) float32, the row of q_dec.

        Returns:
            (1, f h, f w, 3) uint8, padding included.
        """
        x = self.generator(self.dec(y_hat, q_row)).clamp(-1, 1)
        return torch.round((x * 0.5 + 0.5) * 255).permute(0, 2, 3, 1).to(torch.uint8)


def compact_part(x: Tensor, part: int) -> Tensor:
    """Take one part (B, C, h/2, w/2) out of (B, C, h, w); `glc.runtime.spatial_walk.gather_part` in torch."""
    quarters = x.chunk(4, dim=1)
    places = enumerate(PART_OFFSETS[part])
    return torch.cat([quarters[number][:, :, row::2, column::2] for number, (row, column) in places], dim=1)


def scale_indices(scales: Tensor, grid: ScaleGrid) -> Tensor:
    """Nearest level of the scale table on a logarithmic axis, as uint8; scales may be negative."""
    position = torch.log(scales.clamp(min=1e-5) / grid.smallest) / math.log(grid.ratio)
    return torch.round(position).clamp(0, grid.levels - 1).to(torch.uint8)


@dataclass(frozen=True, slots=True)
class GraphSource:
    """A module with what it takes to export it."""

    name: str
    module: nn.Module
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]


def float_graphs(model: GlcModel, grid: ScaleGrid) -> tuple[GraphSource, ...]:
    """All graphs of a bundle in float arithmetic, in the order in which an image passes them."""
    return bundle_graphs(model, FloatHyperPrior(model, grid), [FloatSpatialPrior(model, k, grid) for k in (1, 2, 3)])


def bundle_graphs(model: GlcModel, hyper: nn.Module, spatial: Sequence[nn.Module]) -> tuple[GraphSource, ...]:
    """All graphs of a bundle around given modules for `hyper_prior` and `spatial_prior_1..3`."""
    rows, columns = model.config.ragged_latent
    indices = GraphInput("z_indices", torch.zeros((1, rows // 4, columns // 4), dtype=torch.int32), (1, 2))
    y_hat, context = (_latent(model.config, name) for name in ("y_hat", "context"))
    part = ("scale_indices", "means")
    return (
        transform_graph(model, ANALYSIS),
        GraphSource("hyper_prior", hyper, (indices,), (*part, "quant_step", "context")),
        *(
            GraphSource(f"spatial_prior_{k}", module, (y_hat, context), part)
            for k, module in enumerate(spatial, start=1)
        ),
        transform_graph(model, SYNTHESIS),
    )


def transform_graph(model: GlcModel, name: str) -> GraphSource:
    """The analysis or synthesis graph of a model, by its name in the bundle: `analysis`, `synthesis.scream`."""
    config = model.config
    q_row = GraphInput("q_row", torch.ones((1, config.latent_channels, 1, 1)))
    if own_name(name) == SYNTHESIS:
        return GraphSource(name, Synthesis(model), (_latent(config, "y_hat"), q_row), ("image",))
    rows, columns = (side * config.downsampling for side in config.ragged_latent)
    # No multiple of 4f, which would be taken for its padded size.
    image = GraphInput("image", torch.zeros((1, rows - 3, columns - 5, 3), dtype=torch.uint8), (1, 2))
    return GraphSource(name, Analysis(model), (image, q_row), ("y", "z_indices"))


def _latent(config: ModelConfig, name: str) -> GraphInput:
    # More than one attention patch; smaller examples that it is traced with are less than one.
    return GraphInput(name, torch.zeros((1, config.latent_channels, *config.ragged_latent)), (2, 3))
