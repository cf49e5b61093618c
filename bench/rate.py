"""How many bits files take, beside the ideal cost under the scale table and the authors' estimate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from glc.errors import ModelMismatch
from glc.export import GlcModel, reference
from glc.export.bundle_writer import checkpoint_id
from glc.export.graphs import interpolated_row
from glc.export.model import MIN_QUANT_STEP
from glc.export.scale_levels import DEFAULT_GRID, level_of
from glc.runtime.bitstream import inspect
from glc.runtime.codec import DEFAULT_MAX_PIXELS, Codec
from glc.runtime.entropy import ESCAPE_WIDTHS
from glc.runtime.images import read_image
from glc.runtime.scale_table import PROBABILITY_BITS, ScaleTable


@dataclass(frozen=True, slots=True)
class RateRow:
    """One image at one quality."""

    image: str
    quality: int
    published_bits: float
    """bit_y + bit_z as the authors estimate them."""
    ideal_bits: float
    """Cost of the reference's symbols and indices under the tables."""
    payload_bits: int
    """What the range coder wrote."""
    file_bytes: int
    header_bytes: int
    bpp: float
    """Bits per pixel of the whole file."""
    nonzero_at_index_0: int
    """Nonzero symbols where the scale index is 0."""
    nonzero: int
    """Nonzero symbols in all."""
    changed: int
    """Elements of the decoded latent that are off the reference's by half a step or more: symbols that float
    rounding on another engine tipped over, and what followed from them."""
    within_one: float
    """Part of the decoded values within 1/255 of the x_hat that torch makes of the same decoded latent."""

    @property
    def payload_over_ideal(self) -> float:
        """Excess of the payload over the ideal cost, as a part of it."""
        return self.payload_bits / self.ideal_bits - 1

    @property
    def ideal_over_published(self) -> float:
        """Excess of the ideal cost under the tables over the authors' estimate, as a part of it."""
        return self.ideal_bits / self.published_bits - 1


def measure_rate(model: GlcModel, bundle: Path, images: list[Path]) -> list[RateRow]:
    """Encode and decode each image at every quality and compare with the reference.

    Raises:
        ModelMismatch: the bundle is not an export of this model.
        GlcError: a bundle or an image cannot be used.
    """
    rows: list[RateRow] = []
    with Codec.open(bundle, engine="onnxruntime") as codec:
        table = codec.bundle.tables().scales
        if codec.bundle.manifest.checkpoint_id != checkpoint_id(model):
            raise ModelMismatch(f"{bundle} was not exported from this model; export it again")
        for path in images:
            pixels = read_image(path, DEFAULT_MAX_PIXELS).pixels
            rows += [_row(model, codec, table, path.name, pixels, quality) for quality in range(codec.qualities)]
    return rows


def ideal_bits(symbols: NDArray[np.int16], scale_indices: NDArray[np.uint8], table: ScaleTable) -> float:
    """Cost of symbols under a scale table; an escape costs its own probability, its width and its bits."""
    bits = 0.0
    for index in np.unique(scale_indices).tolist():
        values = symbols[scale_indices == index].astype(np.int64)
        reach = int(table.reach[index])
        excess = np.abs(values) - reach
        coded = np.where(excess > 0, 2 * reach + 1, values + reach)
        bits += float((PROBABILITY_BITS - np.log2(table.frequencies[index][coded])).sum())
        escaped = excess[excess > 0]
        bits += float((np.log2(ESCAPE_WIDTHS) + np.floor(np.log2(escaped)) + 1).sum())
    return bits


def _row(
    model: GlcModel, codec: Codec, table: ScaleTable, name: str, pixels: NDArray[np.uint8], quality: int
) -> RateRow:
    expected = reference(model, pixels, quality)
    scale_indices = level_of(expected.scales, DEFAULT_GRID)
    data = codec.encode(pixels, quality)
    info = inspect(data)
    y_hat = codec.decode_latent(data)
    quant_step = np.maximum(expected.params[: len(y_hat)], MIN_QUANT_STEP)
    height, width = pixels.shape[:2]
    with torch.inference_mode():
        l_hat = model.dec(torch.from_numpy(y_hat)[None], interpolated_row(model.q_dec, quality))
        x_hat = model.vqgan.generator(l_hat).clamp(-1, 1)[0, :, :height, :width].permute(1, 2, 0).double().numpy()
    at_index_0 = expected.y_q[scale_indices == 0]
    return RateRow(
        image=name,
        quality=quality,
        published_bits=expected.bit_y + expected.bit_z,
        ideal_bits=ideal_bits(expected.y_q, scale_indices, table) + expected.bit_z,
        payload_bits=8 * info.payload_bytes,
        file_bytes=len(data),
        header_bytes=info.header_bytes,
        bpp=info.bpp,
        nonzero_at_index_0=int(np.count_nonzero(at_index_0)),
        nonzero=int(np.count_nonzero(expected.y_q)),
        changed=int(np.count_nonzero(np.abs(y_hat - expected.y_hat) >= quant_step / 2)),
        within_one=float((np.abs(codec.decode(data) - 255 * (x_hat / 2 + 0.5)) <= 1).mean()),
    )
