"""Where training starts: a stable model, and a rotated latent for the transform coding."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glc.export.autoencoder import Downsample, ResidualBlock, Upsample
from glc.export.blocks import DepthConv, SubpixelUpsample
from glc.export.config import GROUPS, ModelConfig
from glc.export.model import GlcModel

_REFERENCE_GROUP = 3
_REFERENCE = 1.0
BELOW_EPS = 1e-3
"""Factor of weights that start below a norm's eps, and of their learning rate."""
_RESIDUAL_GAIN = 0.3
_RIDGE = 1e-4
_NOISE_GAIN = 0.3
_PRIOR_GAIN = 0.2
_LIFT = 12.0
"""Above what the latent reaches, so that a LeakyReLU is the identity."""
_LAST_OF_BRANCH = ("out_conv.weight", "conv_out.weight", "block.0.conv2.weight", "subpel_conv.0.weight")
_FIRST_SCALE = 0.7
_FIRST_ROWS = (0.3, 2.0)
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
            if name.endswith("proj_out.weight"):
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
        _open_last_norms(model)
        n = config.latent_channels
        _last_bias(model.y_prior_fusion).copy_(_constants(n, (1.0, _FIRST_SCALE, 0.0)))
        _last_bias(model.y_spatial_prior).copy_(_constants(n, (_FIRST_SCALE, 0.0)))
        low, high = _FIRST_ROWS
        rows = low * (high / low) ** torch.linspace(0, 1, config.qualities).view(-1, 1, 1, 1)
        model.q_enc.copy_(rows.expand_as(model.q_enc))
        model.q_dec.copy_((1 / rows).expand_as(model.q_dec))
    return model


@torch.no_grad()
def fit_ends(model: GlcModel, x: Tensor) -> None:
    """Set the last convolutions of encoder and decoder by least squares, so that a blurred picture comes out at once.

    The encoder's first latent channels become mean colours of the four quarters of a position's square, and the
    decoder's output the best linear picture of what its trunk then carries.

    Args:
        model: from `new_model`.
        x: (B, 3, H, W) in [-1, 1]: a few crops.
    """
    encoder, generator = model.vqgan.encoder, model.vqgan.generator
    for conv in (encoder.quant_conv, generator.post_quant_conv):
        if conv is not None:
            nn.init.dirac_(conv.weight)
            conv.bias.zero_()  # type: ignore[union-attr]
    quarters = F.pixel_unshuffle(F.avg_pool2d(x, model.config.downsampling // 2), 2)
    features = encoder.blocks[:-1](x)
    _fit(_convolution(encoder.blocks[-1]), features, quarters[:, : model.config.latent_channels])
    first = _convolution(generator.blocks[0])
    first.weight.mul_(_NOISE_GAIN)
    first.weight[:, :, 1, 1] += nn.init.orthogonal_(torch.empty(first.out_channels, first.in_channels))
    latent = encoder.blocks[-1](features)
    latent = latent if generator.post_quant_conv is None else generator.post_quant_conv(latent)
    _fit(_convolution(generator.blocks[-1]), generator.blocks[:-1](latent), x)


def _fit(conv: nn.Conv2d, features: Tensor, target: Tensor) -> None:
    """Regress the target on the features, position by position, and write that into the first output channels."""
    rows = _rows(features)
    rows = torch.cat((rows, torch.ones(len(rows), 1)), dim=1)
    wanted = _rows(target)
    ridge = _RIDGE * len(rows) * torch.eye(rows.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(rows.t() @ rows + ridge, rows.t() @ wanted).t()
    count = target.shape[1]
    conv.weight[:count] = 0
    conv.weight[:count, :, 1, 1] = solution[:, :-1].float()
    conv.bias[:count] = solution[:, -1].float()  # type: ignore[index]


def _convolution(module: nn.Module) -> nn.Conv2d:
    if not isinstance(module, nn.Conv2d):
        raise TypeError(f"expected a convolution, found {type(module).__name__}")
    return module


def rotate_latent(model: GlcModel, batches: Iterable[Tensor]) -> None:
    """Turn the latent to principal axes in which equal errors cost the picture equally, leaving the picture as it is.

    The map is folded into quant_conv and its inverse into post_quant_conv. The latent then has zero mean and unit
    mean variance, its squared error stands for the picture's, and the transform coding starts from the best linear
    transform: its identity path meets channels of falling variance and no correlation.

    Args:
        model: with quant_conv; its auto-encoder is trained.
        batches: a few batches of crops (B, 3, H, W).
    """
    encoder, generator = model.vqgan.encoder, model.vqgan.generator
    if encoder.quant_conv is None or generator.post_quant_conv is None:
        return
    latents, slopes = [], []
    for x in batches:
        with torch.no_grad():
            latent = encoder(x)
        latent.requires_grad_(True)
        picture = generator(latent)
        # A white picture pulled back: its outer products average to J^T J, what a change of the latent costs.
        (slope,) = torch.autograd.grad(picture, latent, torch.randn_like(picture))
        latents.append(_rows(latent.detach()))
        slopes.append(_rows(slope))
    rows, slope_rows = torch.cat(latents), torch.cat(slopes)
    mean = rows.mean(0)
    cost = slope_rows.t() @ slope_rows / len(slope_rows)
    cost += _RIDGE * cost.diagonal().mean() * torch.eye(len(cost), dtype=cost.dtype)
    values, vectors = torch.linalg.eigh(cost)
    root = vectors * values.sqrt() @ vectors.t()
    weighed = (rows - mean) @ root
    variances, axes = torch.linalg.eigh(weighed.t() @ weighed / len(weighed))
    axes = _spread_over_quarters(axes.flip(1)) / variances.mean().sqrt()
    there = axes.t() @ root
    with torch.no_grad():
        _compose(encoder.quant_conv, there, -there @ mean, after=True)
        _compose(generator.post_quant_conv, torch.linalg.inv(there), mean, after=False)


@torch.no_grad()
def start_priors(model: GlcModel) -> None:
    """Let the priors start from the local mean: z averages 4x4 positions of y, and every part's means repeat it.

    Branches that are not needed for it stay small and random. The preview from the z indices shows a mosaic of mean
    colours at once; from a random start z tells nothing for so long that its means are never used.

    Args:
        model: its latent has been turned by `rotate_latent`.
    """
    n = model.config.latent_channels
    for part in (
        model.hyper_enc,
        model.hyper_dec,
        model.y_prior_fusion,
        *model.spatial_adaptors,
        model.y_spatial_prior,
    ):
        for name, parameter in part.named_parameters():
            if name.endswith(_LAST_OF_BRANCH):
                parameter.mul_(_PRIOR_GAIN)
    for conv, sign in ((_convolution(model.hyper_enc[1]), 1), (_convolution(model.hyper_enc[3]), -1)):
        conv.weight.mul_(_PRIOR_GAIN)
        _start_as_identity(conv, slice(1, 3))
        # Lifted over the LeakyReLU between the two, and let down again.
        conv.bias.fill_(sign * _LIFT)  # type: ignore[union-attr]
    for module in model.hyper_dec.modules():
        if isinstance(module, SubpixelUpsample):
            repeated = _convolution(module.upsample[0]).weight
            repeated.mul_(_PRIOR_GAIN)
            repeated[:, :, 0, 0] += torch.eye(n).repeat_interleave(4, dim=0)
            module.conv.weight.mul_(_PRIOR_GAIN)
    widen, split = (_adaptor(block) for block in model.y_prior_fusion)
    _pass_on(widen, slice(n, 2 * n), slice(0, n))
    _pass_on(split, slice(2 * n, 3 * n), slice(n, 2 * n))
    _pass_on(model.y_spatial_prior_reduction, slice(0, n), slice(2 * n, 3 * n))
    for adaptor in model.spatial_adaptors:
        # y_hat stands where the scales come out: a branch takes it away, so that the scales start as a constant.
        branch = _depth_conv(adaptor)
        first, depth, last = _convolution(branch.conv1[0]), branch.depth_conv, branch.conv2
        channels = torch.arange(n)
        first.weight[:n] = 0
        first.weight[channels, channels] = 1
        first.bias[:n] = _LIFT  # type: ignore[index]
        depth.weight[:n] = 0
        depth.weight[:n, :, 1, 1] = 1
        depth.bias[:n] = -_LIFT  # type: ignore[index]
        last.weight[channels, channels] -= 1


def _rows(x: Tensor) -> Tensor:
    """(B, N, h, w) -> (B h w, N) float64."""
    return x.permute(0, 2, 3, 1).flatten(0, 2).double()


def _depth_conv(block: nn.Module) -> DepthConv:
    return next(m for m in block.modules() if isinstance(m, DepthConv))


def _adaptor(block: nn.Module) -> nn.Conv2d:
    return _convolution(_depth_conv(block).adaptor or block)


def _pass_on(conv: nn.Conv2d, out: slice, into: slice) -> None:
    """Hand channels on as they are; what else the 1x1 convolution does starts small."""
    conv.weight.mul_(_PRIOR_GAIN)
    conv.weight[out] = 0
    conv.weight[out, into, 0, 0] = torch.eye(out.stop - out.start)


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


def _open_last_norms(model: GlcModel) -> None:
    """Let mean colour and contrast through the norms at the ends of encoder and decoder.

    A group of three channels or more gets a reference: one channel starts at a constant and another at its negative,
    which fixes the group's variance, and the mean of the others survives. Two channels have no such place. There the
    whole group starts far below the norm's eps, where the norm is a fixed gain, and with opposite signs, so that
    nothing is subtracted. Without this, crops decode to the same grey for the first hour.
    """
    for part in (model.vqgan.encoder, model.vqgan.generator):
        block = _last_widening(part)
        if block is None or block.conv_out is None or block.conv_out.bias is None:
            continue
        group = block.conv_out.out_channels // GROUPS
        if group >= _REFERENCE_GROUP:
            bias = block.conv_out.bias.view(GROUPS, group)
            bias[:, 0], bias[:, 1] = _REFERENCE, -_REFERENCE
        elif group > 1:
            for parameter in below_eps(model):
                groups = parameter.view(GROUPS, group, -1)
                groups -= groups.mean(1, keepdim=True)
                parameter.mul_(BELOW_EPS)


def below_eps(model: GlcModel) -> list[nn.Parameter]:
    """Parameters that start below the last norm's eps; their learning rate is smaller by `BELOW_EPS` too."""
    block = _last_widening(model.vqgan.generator)
    if block is None or block.conv_out is None or block.conv_out.out_channels // GROUPS != _REFERENCE_GROUP - 1:
        return []
    return [*block.conv2.parameters(), *block.conv_out.parameters()]


def _last_widening(part: nn.Module) -> ResidualBlock | None:
    """The last residual block that changes the number of channels: where the last norm's channels come from."""
    blocks = [m for m in part.modules() if isinstance(m, ResidualBlock) and m.conv_out is not None]
    return blocks[-1] if blocks else None


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
