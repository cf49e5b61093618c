"""Blend two restoring encoders and shift quality rows: python -m examples.train_restoration.blend --help"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import safetensors.torch
import typer
from examples.train_demo.state import save_weights

_ROWS = "q_enc"


def blend(
    weights: Annotated[Path, typer.Argument(help="Checkpoint of the model.", exists=True)],
    first: Annotated[Path, typer.Argument(help="Encoder; what it lacks is the model's.", exists=True)],
    second: Annotated[Path, typer.Argument(help="Encoder with all tensors of the blend.", exists=True)],
    output: Annotated[Path, typer.Argument(help="The blended encoder.")],
    share: Annotated[float, typer.Option(help="Of the second encoder.")] = 0.5,
    shifts: Annotated[
        str, typer.Option(help="How far each quality but the last goes to the next one's row, in parts of the way.")
    ] = "0,0,0",
) -> None:
    """Write (1 - share) * first + share * second, its rows shifted."""
    model, one, other = (safetensors.torch.load_file(path) for path in (weights, first, second))
    tensors = {
        name: (1 - share) * one.get(name, model[name]).float() + share * tensor.float()
        for name, tensor in other.items()
    }
    rows = tensors[_ROWS].clone()
    for quality, shift in enumerate(map(float, shifts.split(","))):
        tensors[_ROWS][quality] = rows[quality] + shift * (rows[quality + 1] - rows[quality])
    save_weights(output, tensors)


if __name__ == "__main__":
    typer.run(blend)
