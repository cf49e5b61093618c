"""The published model's forward pass in float32, for parity: what the bitstream must reproduce.

Written from GLC.md with full-size masks, as the authors do it; the graphs and the runtime use compact parts
instead, so that comparing the two checks both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glc.export.graphs import interpolated_row
from glc.export.model import MIN_QUANT_STEP, GlcModel

_MASKS = ("abcd", "dcba", "cdab", "badc")
"""Part -> position in the 2x2 cell (a b / c d) for each quarter of the channels (GLC.md)."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What the published model computes for one image; names as in GLC.md, batch axis dropped.

    H, W are the padded size, h, w the image's, f the downsampling, N the latent channels.
    """

    l: NDArray[np.float32]  # noqa: E741 - the name in GLC.md
    """(N, H/f, W/f): latent after quant_conv."""
    y: NDArray[np.float32]
    """(N, H/f, W/f): transformed latent, before division by quant_step."""
    z_indices: NDArray[np.int32]
    """(H/4f, W/4f): hyper codebook indices."""
    params: NDArray[np.float32]
    """(3N, H/f, W/f): quant_step (before its clamp), scales and means of part 0."""
    scales: NDArray[np.float32]
    """(N, H/f, W/f): scales, assembled over the four parts."""
    y_q: NDArray[np.int16]
    """(N, H/f, W/f): symbols, assembled over the four parts."""
    y_hat: NDArray[np.float32]
    """(N, H/f, W/f): decoded latent, after multiplication by quant_step."""
    l_hat: NDArray[np.float32]
    """(N, H/f, W/f): input of the latent decoder."""
    x_hat: NDArray[np.float32]
    """(3, h, w): decoded image in [-1, 1]."""
    x_hat_z_only: NDArray[np.float32]
    """(3, h, w): image decoded from the z indices alone, in [-1, 1]."""
    bit_y: float
    """Bits of the symbols, as the authors estimate them."""
    bit_z: float
    """Bits of the z indices: their number times log2 M."""


@torch.inference_mode()
def reference(model: GlcModel, image: NDArray[np.uint8], quality: float) -> Reference:
    """Run the published model on one image.

    Args:
        model: float32 model.
        image: (h, w, 3) uint8 RGB.
        quality: 0..Q-1, fractions interpolate.

    Raises:
        ValueError: image or quality out of range.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image must be (h, w, 3) uint8 and not empty; got {image.shape} {image.dtype}")
    height, width = image.shape[:2]
    multiple = model.config.padding_multiple
    # Contiguous NCHW: torch's GroupNorm on the CPU is 300 times less accurate on channels_last.
    x = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() * (2 / 255) - 1
    x = F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")

    latent = model.vqgan.encoder(x)
    y = model.enc(latent, interpolated_row(model.q_enc, quality))
    z_indices = model.z_vq.nearest(model.hyper_enc(y))
    params = model.y_prior_fusion(model.hyper_dec(model.z_vq.lookup(z_indices)))

    y_hat, y_q, scales = _four_parts(model, params, y)
    y_hat_z_only, _, _ = _four_parts(model, params, None)
    q_dec = interpolated_row(model.q_dec, quality)
    l_hat = model.dec(y_hat, q_dec)

    def image_of(latent: Tensor) -> NDArray[np.float32]:
        decoded = model.vqgan.generator(latent).clamp(-1, 1)[0, :, :height, :width]
        array: NDArray[np.float32] = decoded.contiguous().numpy()
        return array

    return Reference(
        l=latent[0].numpy(),
        y=y[0].numpy(),
        z_indices=z_indices[0].numpy(),
        params=params[0].numpy(),
        scales=scales[0].numpy(),
        y_q=y_q[0].to(torch.int16).numpy(),
        y_hat=y_hat[0].numpy(),
        l_hat=l_hat[0].numpy(),
        x_hat=image_of(l_hat),
        x_hat_z_only=image_of(model.dec(y_hat_z_only, q_dec)),
        bit_y=estimated_bits(y_q, scales),
        bit_z=z_indices.numel() * float(np.log2(model.config.codebook_entries)),
    )


def estimated_bits(y_q: Tensor, scales: Tensor) -> float:
    """The authors' estimate of the symbols' rate in bits (GLC.md, "Rate, as the authors report it")."""
    s = scales.clamp(min=1e-5)
    probability = torch.special.ndtr((y_q + 0.5) / s) - torch.special.ndtr((y_q - 0.5) / s)
    return float((-torch.log2(probability + 1e-5)).clamp(min=0).sum())


def _four_parts(model: GlcModel, params: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Code y in four parts; without y every symbol is zero. Returns y_hat, y_q and scales, assembled."""
    quant_step, scales, means = params.chunk(3, dim=1)
    quant_step = quant_step.clamp(min=MIN_QUANT_STEP)
    common = model.y_spatial_prior_reduction(params)
    target = None if y is None else y / quant_step
    y_hat, y_q, all_scales = (torch.zeros_like(means) for _ in range(3))
    for part in range(4):
        if part > 0:
            adapted = model.spatial_adaptors[part - 1](torch.cat((y_hat, common), dim=1))
            scales, means = model.y_spatial_prior(adapted).chunk(2, dim=1)
        mask = _mask(part, means)
        symbols = torch.zeros_like(means) if target is None else torch.round((target - means) * mask)
        y_hat = y_hat + (symbols + means) * mask
        y_q = y_q + symbols
        all_scales = all_scales + scales * mask
    return y_hat * quant_step, y_q, all_scales


def _mask(part: int, like: Tensor) -> Tensor:
    mask = torch.zeros_like(like)
    quarter = like.shape[1] // 4
    for j, position in enumerate(_MASKS[part]):
        row, column = divmod("abcd".index(position), 2)
        mask[:, j * quarter : (j + 1) * quarter, row::2, column::2] = 1
    return mask
