"""Where training starts: a stable model, and a rotated latent for the transform coding."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from glc.export.autoencoder import Downsample, ResidualBlock, Upsample
from glc.export.config import ModelConfig
from glc.export.model import GlcModel

_RESIDUAL_GAIN = 0.3
_NOISE_GAIN = 0.3
_LAST_OF_BRANCH = ("out_conv.weight", "conv_out.weight", "block.0.conv2.weight")
_FIRST_SCALE = 0.7
_FIRST_ROWS = (0.5, 1.5)
"""q_enc of the lowest and the highest quality, in standard deviations of the latent."""


def new_model(config: ModelConfig) -> GlcModel:
    """Draw a model from torch's generator: small residual branches, scales near one, no means.

    The auto-encoder's trunk starts as a pyramid of averages, so that the first steps already show a blurred picture
    instead of learning to pass one through a dozen random convolutions.
    """
    model = GlcModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(_LAST_OF_BRANCH) and not name.startswith("vqgan."):
                parameter.mul_(_RESIDUAL_GAIN)
        for module in model.vqgan.modules():
            if isinstance(module, ResidualBlock):
                module.conv2.weight.mul_(_RESIDUAL_GAIN)
                if module.conv_out is not None:
                    nn.init.orthogonal_(module.conv_out.weight)
            elif isinstance(module, Downsample):
                _start_as_identity(module.conv, slice(0, 2))  # a 2x2 average, as the zeros stand right and below
            elif isinstance(module, Upsample):
                _start_as_identity(module.conv, slice(1, 2))
        n = config.latent_channels
        _last_bias(model.y_prior_fusion).copy_(_constants(n, (1.0, _FIRST_SCALE, 0.0)))
        _last_bias(model.y_spatial_prior).copy_(_constants(n, (_FIRST_SCALE, 0.0)))
        low, high = _FIRST_ROWS
        rows = low * (high / low) ** torch.linspace(0, 1, config.qualities).view(-1, 1, 1, 1)
        model.q_enc.copy_(rows.expand_as(model.q_enc))
        model.q_dec.copy_((1 / rows).expand_as(model.q_dec))
    return model


@torch.no_grad()
def rotate_latent(model: GlcModel, batches: Iterable[Tensor]) -> None:
    """Turn the latent to its principal axes, with zero mean and unit mean variance, leaving the picture as it is.

    The rotation is folded into quant_conv and its inverse into post_quant_conv. Transform coding then starts from
    the best linear transform: its identity path meets channels of falling variance and no correlation.

    Args:
        model: with quant_conv; its auto-encoder is trained.
        batches: a few batches of crops (B, 3, H, W).
    """
    encoder, generator = model.vqgan.encoder, model.vqgan.generator
    if encoder.quant_conv is None or generator.post_quant_conv is None:
        return
    latents = torch.cat([encoder(x).permute(0, 2, 3, 1).flatten(0, 2) for x in batches]).double()
    mean = latents.mean(0)
    values, axes = torch.linalg.eigh(torch.cov((latents - mean).t()))
    axes = _spread_over_quarters(axes.flip(1))
    scale = values.mean().sqrt()
    _compose(encoder.quant_conv, (axes / scale).t(), -(axes / scale).t() @ mean, after=True)
    _compose(generator.post_quant_conv, axes * scale, mean, after=False)


def _spread_over_quarters(axes: Tensor) -> Tensor:
    """Deal the axes, strongest first, to the four quarters of the channels, which are coded at different places."""
    n = axes.shape[1]
    order = torch.arange(n).view(n // 4, 4).t().reshape(-1)
    return axes[:, order]


def _compose(conv: nn.Conv2d, matrix: Tensor, offset: Tensor, *, after: bool) -> None:
    """Put x -> matrix x + offset behind or before a 1x1 convolution."""
    assert conv.bias is not None  # noqa: S101 - every convolution of the model has one
    weight, bias = conv.weight[:, :, 0, 0].double(), conv.bias.double()
    new_bias = matrix @ bias + offset if after else weight @ offset + bias
    conv.weight.copy_((matrix @ weight if after else weight @ matrix)[:, :, None, None])
    conv.bias.copy_(new_bias)


def _start_as_identity(conv: nn.Conv2d, taps: slice) -> None:
    """Average each channel over a square of taps; a little of torch's own start lets channels differ."""
    conv.weight.mul_(_NOISE_GAIN)
    channels = torch.arange(conv.out_channels)
    square = conv.weight[:, :, taps, taps]
    square[channels, channels] += 1 / (square.shape[2] * square.shape[3])


def _last_bias(prior: nn.Module) -> Tensor:
    return dict(prior.named_parameters())[max(n for n, _ in prior.named_parameters() if n.endswith("conv_out.bias"))]


def _constants(count: int, values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).repeat_interleave(count)
