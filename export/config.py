"""Configuration of a GLC model, read from the shapes of a checkpoint's tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from glc.errors import CheckpointMismatch

Shape = tuple[int, ...]

GROUPS = 32
"""Groups of every GroupNorm."""


GLOBAL_ATTENTION = 1 << 20
"""Side of an attention patch that no latent reaches: attention over the whole latent."""

_LARGEST_EXAMPLE = 64
"""Latents larger than this are not computed at export."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that tells one GLC model from another."""

    latent_channels: int
    """N: channels of the latent and the hyper latent, and length of a codebook entry."""
    base_channels: int
    """nf: channels of the auto-encoder at full resolution; a multiple of 32."""
    channel_multipliers: tuple[int, ...]
    """Channels of each level as a multiple of `base_channels`, from full resolution down."""
    encoder_blocks: int
    """Residual blocks a level in the latent encoder."""
    decoder_blocks: int
    """Residual blocks a level in the latent decoder."""
    attention_levels: tuple[int, ...]
    """Levels whose residual blocks are each followed by patch attention."""
    codebook_entries: int
    """M: entries of the hyper codebook."""
    qualities: int
    """Q: rows of q_enc and q_dec."""
    swish_before_last: bool
    """Whether a swish stands before the last convolution of encoder and decoder."""
    quant_conv: bool
    """Whether 1x1 convolutions stand between auto-encoder and transform coding."""
    attention_patch: int = 32
    """Side of an attention patch in latent positions; no shape tells it."""

    @property
    def ragged_latent(self) -> tuple[int, int]:
        """Height and width of a latent of more than one attention patch and no whole number of them."""
        patch = min(self.attention_patch, _LARGEST_EXAMPLE)
        return patch + 4, patch + 8

    @property
    def downsampling(self) -> int:
        """f: pixels per latent position along each axis."""
        return int(2 ** (len(self.channel_multipliers) - 1))

    @property
    def padding_multiple(self) -> int:
        """4f: the padded height and width are multiples of this many pixels."""
        return 4 * self.downsampling


@dataclass(frozen=True, slots=True)
class _Level:
    residual: int
    attention: int
    channels: int


def read_config(shapes: Mapping[str, Shape]) -> ModelConfig:
    """Read the configuration from the shapes of an inference state dict (GLC.md, "Modules").

    Only what identifies the architecture is looked at; that every tensor is there with its shape is
    checked when the weights are loaded.

    Args:
        shapes: state-dict name -> shape, without wrapper prefixes and training-only tensors.

    Raises:
        CheckpointMismatch: a tensor that the configuration is read from is missing or impossible.
    """
    base = _shape(shapes, "vqgan.encoder.blocks.0.weight", 4)[0]
    if base % GROUPS:
        raise CheckpointMismatch(
            f"vqgan.encoder.blocks.0.weight has {base} output channels; expected a multiple of {GROUPS}"
        )
    encoder = _levels(shapes, "vqgan.encoder.blocks")
    decoder = _levels(shapes, "vqgan.generator.blocks")
    for number, level in enumerate(encoder):
        if level.channels % base:
            raise CheckpointMismatch(
                f"level {number} of vqgan.encoder has {level.channels} channels; expected a multiple of {base}"
            )
    last = len(encoder) - 1
    # The middle (residual, attention, residual) stands at the deepest level, last in the encoder and first
    # in the decoder; its blocks are not the level's own.
    attention = tuple(i for i, level in enumerate(encoder) if level.attention > (1 if i == last else 0))
    codebook = _shape(shapes, "z_vq.embedding.weight", 2)
    if codebook[1] % 4:
        raise CheckpointMismatch(f"z_vq.embedding.weight has {codebook[1]} columns; expected a multiple of 4")
    return ModelConfig(
        latent_channels=codebook[1],
        base_channels=base,
        channel_multipliers=tuple(level.channels // base for level in encoder),
        encoder_blocks=encoder[0].residual - (2 if last == 0 else 0),
        decoder_blocks=decoder[-1].residual - (2 if len(decoder) == 1 else 0),
        attention_levels=attention,
        codebook_entries=codebook[0],
        qualities=_shape(shapes, "q_enc", 4)[0],
        swish_before_last=_ends_with_swish(shapes, "vqgan.encoder.blocks"),
        quant_conv=any(name.startswith("vqgan.encoder.quant_conv.") for name in shapes),
    )


def _shape(shapes: Mapping[str, Shape], name: str, rank: int) -> Shape:
    if name not in shapes:
        raise CheckpointMismatch(f"missing tensor {name}: the model's configuration is read from its shape")
    shape = shapes[name]
    if len(shape) != rank or 0 in shape:
        raise CheckpointMismatch(f"tensor {name} has shape {list(shape)}; expected {rank} dimensions, none of them 0")
    return shape


def _members(shapes: Mapping[str, Shape], prefix: str) -> dict[int, set[str]]:
    """Numbered children of a sequence: index -> names of their first level."""
    members: dict[int, set[str]] = {}
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.(\w+)")
    for name in shapes:
        if match := pattern.match(name):
            members.setdefault(int(match[1]), set()).add(match[2])
    if not members:
        raise CheckpointMismatch(f"no tensor is named {prefix}.<number>...: this is not a GLC checkpoint")
    return members


def _levels(shapes: Mapping[str, Shape], prefix: str) -> list[_Level]:
    """Count the blocks between the resampling layers, in the order of the sequence."""
    levels = [_Level(0, 0, 0)]
    for index, names in sorted(_members(shapes, prefix).items()):
        level = levels[-1]
        if names & {"conv1", "conv2", "norm1", "norm2"}:
            channels = next(
                (shapes[n][0] for s in ("conv2.weight", "norm2.weight") if (n := f"{prefix}.{index}.{s}") in shapes),
                level.channels,
            )
            levels[-1] = _Level(level.residual + 1, level.attention, channels)
        elif names & {"q", "k", "v", "norm", "proj_out"}:
            levels[-1] = _Level(level.residual, level.attention + 1, level.channels)
        elif names == {"conv"}:
            levels.append(_Level(0, 0, 0))
    for number, level in enumerate(levels):
        if level.residual == 0 or level.channels == 0:
            raise CheckpointMismatch(f"{prefix}: level {number} holds no whole residual block")
    return levels


def _ends_with_swish(shapes: Mapping[str, Shape], prefix: str) -> bool:
    """Whether a swish, which has no tensors but a number, stands with a GroupNorm before the last convolution.

    The GroupNorm is looked past: the graphs of a bundle do not hold it under its name.
    """
    members = _members(shapes, prefix)
    block = max(number for number, names in members.items() if names - {"weight", "bias"})
    return max(members) - block == 3
