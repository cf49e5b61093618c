"""Options with which commands are told of a model: a checkpoint, or synthetic weights."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from glc.export.checkpoint import load_checkpoint
from glc.export.model import GlcModel
from glc.export.synthetic import CONFIGS, synthetic_model

SyntheticName = enum.StrEnum("SyntheticName", {name.upper(): name for name in CONFIGS})  # type: ignore[misc]

CheckpointOption = Annotated[
    Path | None, typer.Option("--ckpt", help="Checkpoint, .pth or .safetensors.", show_default=False)
]
SyntheticOption = Annotated[
    SyntheticName | None,
    typer.Option("--synthetic", help="Synthetic weights for this configuration instead of a checkpoint."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of synthetic weights.")]


def chosen_model(checkpoint: Path | None, synthetic: SyntheticName | None, seed: int) -> tuple[GlcModel, str]:
    """Load what was asked for; returns it with a line on its origin.

    Raises:
        typer.BadParameter: both or neither were given.
        ExportError: the checkpoint cannot be used.
    """
    if checkpoint is not None and synthetic is None:
        return load_checkpoint(checkpoint), ascii(checkpoint.name)[1:-1]
    if synthetic is not None and checkpoint is None:
        model = synthetic_model(CONFIGS[synthetic.value], seed)
        return model, f"{synthetic.value} with synthetic weights, seed {seed}: shows no picture"
    raise typer.BadParameter("give either --ckpt or --synthetic")
