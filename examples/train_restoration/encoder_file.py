"""The file of a restoring encoder: the tensors that replace the model's, and nothing else."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from examples.train_demo.state import save_weights
from examples.train_restoration.restoration import TRAINED


def write_encoder(checkpoint: Path, output: Path) -> None:
    """Take the trained tensors out of a whole checkpoint."""
    weights = safetensors.torch.load_file(checkpoint)
    save_weights(output, {name: tensor for name, tensor in weights.items() if name.startswith(TRAINED)})


def merge_encoder(checkpoint: Path, encoder: Path, output: Path) -> None:
    """Write a whole checkpoint in which the encoder's tensors have taken the place of the model's.

    Raises:
        ValueError: the encoder holds a tensor that the checkpoint has not, of another shape, or not of the encoder.
    """
    weights, replaced = safetensors.torch.load_file(checkpoint), safetensors.torch.load_file(encoder)
    for name, tensor in replaced.items():
        if not name.startswith(TRAINED) or name not in weights or weights[name].shape != tensor.shape:
            raise ValueError(f"{encoder}: {name} {list(tensor.shape)} does not fit the encoder of {checkpoint}")
    save_weights(output, weights | replaced)
