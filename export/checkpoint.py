"""Checkpoint file -> torch model, strictly."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from glc.errors import CheckpointMismatch, CheckpointUnreadable, UnsafeCheckpoint
from glc.export.config import read_config
from glc.export.model import GlcModel

_logger = logging.getLogger(__name__)

_WRAPPERS = ("state_dict", "net", "net_g")
_PREFIX = "module."
_TRAINING_ONLY = ("vqgan.quantize.", "code_pred_loss.", "code_pred_pix_loss.")
_MOST_NAMED = 6


def load_checkpoint(path: str | os.PathLike[str]) -> GlcModel:
    """Load a checkpoint; its configuration is read from the shapes of its tensors.

    Training-only tensors are ignored, and their number logged. Half-precision weights become float32.

    Args:
        path: a `.pth` (any torch pickle with tensors alone) or `.safetensors` file.

    Returns:
        The model in evaluation mode, float32, without gradients.

    Raises:
        CheckpointUnreadable: no such file, or not a checkpoint.
        UnsafeCheckpoint: a pickle that would run code or build other objects than tensors.
        CheckpointMismatch: a tensor is missing, unexpected, mis-shaped or not finite; the message names it.
    """
    file = Path(path)
    state = read_tensors(file)
    config = read_config({name: tuple(tensor.shape) for name, tensor in state.items()})
    with torch.device("meta"):
        model = GlcModel(config)
    _require_same(state, model.state_dict(), file)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint that inference needs, in float32, by their names in the state dict.

    Raises:
        CheckpointUnreadable, UnsafeCheckpoint: as `load_checkpoint`.
        CheckpointMismatch: there is something else than finite numbers.
    """
    state = _inference_tensors(_unwrapped(_read(file), file), file)
    return {name: tensor.float().contiguous() for name, tensor in state.items()}


def _read(file: Path) -> Any:
    if not file.is_file():
        raise CheckpointUnreadable(f"no checkpoint at {file}")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler lets any error of damaged data through
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden is None:
            raise CheckpointUnreadable(
                f"{file} is not a checkpoint, or a damaged one ({type(error).__name__})"
            ) from error
        raise UnsafeCheckpoint(
            f"{file} holds more than tensors ({forbidden[1]}) and was not loaded; save its state_dict alone, or "
            "convert it to .safetensors where you trust it"
        ) from error


def _unwrapped(content: Any, file: Path) -> Mapping[str, Any]:
    while isinstance(content, Mapping):
        wrapper = next((w for w in _WRAPPERS if isinstance(content.get(w), Mapping)), None)
        if wrapper is None:
            return content
        content = content[wrapper]
    raise CheckpointUnreadable(f"{file} holds a {type(content).__name__}; expected a dictionary of tensors")


def _inference_tensors(content: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    ignored = 0
    for full_name, tensor in content.items():
        name = str(full_name).removeprefix(_PREFIX)
        if not isinstance(tensor, Tensor):
            raise CheckpointMismatch(f"{file}: {name} is a {type(tensor).__name__}; expected tensors alone")
        if name.startswith(_TRAINING_ONLY):
            ignored += 1
            continue
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise CheckpointMismatch(f"{file}: {name} ({tensor.dtype}) must hold finite floating-point numbers")
        state[name] = tensor
    if ignored:
        _logger.info("%s: ignored %d training-only tensors", file.name, ignored)
    return state


def _require_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], file: Path) -> None:
    missing = [f"missing {n} {list(t.shape)}" for n, t in expected.items() if n not in found]
    unexpected = [f"unexpected {n} {list(t.shape)}" for n, t in found.items() if n not in expected]
    misshaped = [
        f"{n} has shape {list(found[n].shape)}, expected {list(t.shape)}"
        for n, t in expected.items()
        if n in found and found[n].shape != t.shape
    ]
    problems = misshaped + missing + unexpected
    if problems:
        more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
        raise CheckpointMismatch(f"{file} does not fit its own shapes: {'; '.join(problems[:_MOST_NAMED])}{more}")
