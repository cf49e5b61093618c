"""What is trained and how: everything that a run's options can change, in one frozen record a concern."""

from __future__ import annotations

from dataclasses import dataclass, field

from glc.export.config import ModelConfig

DEMO = ModelConfig(
    latent_channels=32,
    base_channels=32,
    # 64 channels at full resolution: with 32, each of the 32 groups of the last GroupNorm is one channel, and the
    # mean colour of the picture is normalised away.
    channel_multipliers=(2, 1, 3, 4),
    encoder_blocks=1,
    decoder_blocks=1,
    attention_levels=(3,),
    codebook_entries=256,
    qualities=4,
    swish_before_last=True,
    quant_conv=True,
)
"""The configuration of the embedded default: f = 8, less than 4 M parameters."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One stretch of training: a stage for a time."""

    stage: int
    """1: auto-encoder, 2: transform coding, 3: everything."""
    minutes: float
    """Computing time that the leg's learning-rate schedule is laid out for."""


@dataclass(frozen=True, slots=True)
class StageSettings:
    """Batches and steps of one stage."""

    crop: int
    """Side of a training crop in pixels; a multiple of 4f."""
    batch: int
    """Crops a step."""
    learning_rate: float
    """Peak of the schedule: linear warm-up, then a cosine down to a twentieth."""


DEFAULT_STAGES = {
    1: StageSettings(crop=128, batch=4, learning_rate=2e-4),
    2: StageSettings(crop=192, batch=4, learning_rate=5e-4),
    3: StageSettings(crop=128, batch=4, learning_rate=1e-4),
}
"""For a processor with few cores: small crops where the gradient passes the full resolution."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of all stages. A list of numbers a quality must be as long as the model's qualities."""

    stages: dict[int, StageSettings] = field(default_factory=lambda: dict(DEFAULT_STAGES))
    """Stage number -> its batches and steps."""
    latent_lambdas: tuple[float, ...] = (0.12, 0.3, 0.7, 1.6)
    """Stage II: weight of the latent's squared error, relative to its variance, against bits per pixel."""
    code_weight: float = 0.02
    """Stage II: weight of the code prediction's cross-entropy in nats beside the latent's relative error."""
    image_lambdas: tuple[float, ...] = (0.0001, 0.0006, 0.0025, 0.008)
    """Stage III: weight of the image distortion against bits per pixel."""
    structure_weight: float = 800.0
    """1 - MS-SSIM against the mean squared error in units of 8-bit levels."""
    codebook_share: float = 0.25
    """Stage I: share of crops that are decoded from the quantised latent."""
    latent_codebook_entries: int = 1024
    """Entries of the latent codebook, which is used in training alone."""
    commitment: float = 0.25
    """Beta of the codebook losses."""
    hyper_weight: float = 0.3
    """Weight of the rate from the hyper latent alone against bits per pixel: a training aid."""
    hyper_commitment: float = 0.1
    """Weight of the hyper codebook's commitment, and of the floor under its input's spread, against bits per pixel."""
    warmup_steps: int = 50
    """Steps over which each leg's learning rate rises."""
    gradient_clip: float = 1.0
    """Largest norm of a step's gradient."""
    average_decay: float = 0.998
    """Decay of the running average of the weights, which is what gets exported."""


def parse_plan(text: str) -> tuple[Leg, ...]:
    """Read "1:15,2:10,3:20": stage and minutes of each leg.

    Raises:
        ValueError: not of that form, or no such stage.
    """
    legs = []
    for item in text.split(","):
        stage, _, minutes = item.partition(":")
        leg = Leg(int(stage), float(minutes))
        if leg.stage not in (1, 2, 3) or leg.minutes <= 0:
            raise ValueError(f"{item!r}: expected STAGE:MINUTES with a stage from 1 to 3")
        legs.append(leg)
    return tuple(legs)
