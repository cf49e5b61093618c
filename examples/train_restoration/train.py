"""Train an encoder that restores noisy photographs: python -m examples.train_restoration.train --help"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from examples.train_demo.recipe import Recipe, StageSettings, parse_plan
from examples.train_demo.trainer import Trainer
from examples.train_restoration.encoder_file import merge_encoder, write_encoder
from examples.train_restoration.restoration import Restoration

from glc.export import load_checkpoint

STAGES = {
    1: StageSettings(crop=160, batch=4, learning_rate=3e-4),
    2: StageSettings(crop=256, batch=4, learning_rate=4e-5),
}
"""1: the clean picture's latent, a cheap step that comes most of the way. 2: rate and distortion."""

_DEFAULTS = Recipe(STAGES, image_lambdas=(0.0125, 0.04, 0.065, 0.09), hyper_commitment=2.0)
"""Lambdas here are bits per pixel for a decibel."""


def train(
    data: Annotated[Path, typer.Option(help="Folder of clean photographs.", exists=True, file_okay=False)],
    state: Annotated[Path, typer.Option(help="Folder of the resumable state, log, plot and weights.")],
    weights: Annotated[Path, typer.Option(help="Checkpoint whose analysis side is trained.", exists=True)],
    encoder: Annotated[
        Path | None, typer.Option(help="Begin with this file's encoder instead of the checkpoint's.", exists=True)
    ] = None,
    plan: Annotated[
        str | None, typer.Option(help='Legs as STAGE:MINUTES, e.g. "1:8,2:17"; without it, the saved plan goes on.')
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Most steps a leg, whatever its minutes.")] = None,
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise in 8-bit levels.")] = 20.0,
    image_lambdas: Annotated[
        str, typer.Option(help="Stage 2: bits per pixel for a decibel, one number a quality.")
    ] = ",".join(map(str, _DEFAULTS.image_lambdas)),
    seed: Annotated[int, typer.Option(help="Of crops and noise.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 leaves its choice.")] = 0,
) -> None:
    """Train, or go on training, until the plan is done or the process is asked to stop."""
    if threads:
        torch.set_num_threads(threads)
    lambdas = tuple(float(number) for number in image_lambdas.split(","))
    recipe = replace(_DEFAULTS, image_lambdas=lambdas)
    state.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    trainer = Trainer(Restoration(load_checkpoint(weights), recipe, sigma), recipe, data, state, seed)
    if trainer.state_file.exists():
        trainer.resume()
    else:
        begin = weights
        if encoder is not None:
            begin = state / "begin.safetensors"
            merge_encoder(weights, encoder, begin)
        trainer.load_weights(begin)
    if plan is not None:
        trainer.start(parse_plan(plan))
    trainer.run(steps)
    write_encoder(trainer.weights_file, state / "restore.safetensors")


if __name__ == "__main__":
    typer.run(train)
