"""Train a GLC model on a folder of photographs: python -m examples.train_demo.train --help"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from examples.train_demo.initialise import new_model
from examples.train_demo.recipe import DEFAULT_STAGES, DEMO, Recipe, parse_plan
from examples.train_demo.stages import Stages
from examples.train_demo.trainer import Trainer

_DEFAULTS = Recipe()


def train(
    data: Annotated[Path, typer.Option(help="Folder of photographs.", exists=True, file_okay=False)],
    state: Annotated[Path, typer.Option(help="Folder of the resumable state, log, plot and weights.")],
    plan: Annotated[
        str | None,
        typer.Option(help='Legs as STAGE:MINUTES, e.g. "1:15,2:10,3:20"; without it, the saved plan goes on.'),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Checkpoint to begin with, such as the packaged weights.safetensors; for a new state."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Most steps a leg, whatever its minutes.")] = None,
    latent_channels: Annotated[int, typer.Option(help="N, a multiple of 4.")] = DEMO.latent_channels,
    base_channels: Annotated[int, typer.Option(help="nf, a multiple of 32.")] = DEMO.base_channels,
    multipliers: Annotated[str, typer.Option(help="Channels of each level over nf, finest first.")] = ",".join(
        map(str, DEMO.channel_multipliers)
    ),
    blocks: Annotated[int, typer.Option(help="Residual blocks a level.")] = DEMO.encoder_blocks,
    codebook: Annotated[int, typer.Option(help="M: entries of the hyper codebook.")] = DEMO.codebook_entries,
    crop: Annotated[int | None, typer.Option(help="Side of a crop, for every leg of this plan.")] = None,
    batch: Annotated[int | None, typer.Option(help="Crops a step, for every leg of this plan.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate, for every leg of this plan.")] = None,
    latent_lambdas: Annotated[str | None, typer.Option(help="Stage II, one number a quality.")] = None,
    image_lambdas: Annotated[str | None, typer.Option(help="Stage III, one number a quality.")] = None,
    structure_weight: Annotated[float, typer.Option(help="Weight of 1 - MS-SSIM.")] = _DEFAULTS.structure_weight,
    codebook_share: Annotated[float, typer.Option(help="Share of stage I's crops decoded from the codebook.")] = (
        _DEFAULTS.codebook_share
    ),
    seed: Annotated[int, typer.Option(help="Of weights, crops and noise.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 leaves its choice.")] = 0,
) -> None:
    """Train, or go on training, until the plan is done or the process is asked to stop."""
    if threads:
        torch.set_num_threads(threads)
    levels = tuple(int(m) for m in multipliers.split(","))
    config = replace(
        DEMO,
        latent_channels=latent_channels,
        base_channels=base_channels,
        channel_multipliers=levels,
        encoder_blocks=blocks,
        decoder_blocks=blocks,
        attention_levels=(len(levels) - 1,),
        codebook_entries=codebook,
    )
    given = {"crop": crop, "batch": batch, "learning_rate": learning_rate}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    stages = {number: replace(settings, **changes) for number, settings in DEFAULT_STAGES.items()}
    lambdas = {"latent_lambdas": latent_lambdas, "image_lambdas": image_lambdas}
    weighing: dict[str, Any] = {
        name: tuple(float(v) for v in text.split(",")) for name, text in lambdas.items() if text is not None
    }
    recipe = Recipe(
        stages,
        structure_weight=structure_weight,
        codebook_share=codebook_share,
        **weighing,
    )
    state.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    trainer = Trainer(Stages(new_model(config), recipe), recipe, data, state, seed)
    if trainer.state_file.exists():
        trainer.resume()
    elif weights is not None:
        trainer.load_weights(weights)
    if plan is not None:
        trainer.start(parse_plan(plan))
    trainer.run(steps)


if __name__ == "__main__":
    typer.run(train)
