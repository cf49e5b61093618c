"""The training state in files: written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from examples.train_demo.recipe import Leg
from torch import Tensor


@dataclass(slots=True)
class Position:
    """How far a run has come."""

    plan: tuple[Leg, ...]
    """All legs of the plan, done or not."""
    leg: int = 0
    """Index of the leg under way; the number of legs once all are done."""
    leg_seconds: float = 0.0
    """Computing time spent in the leg under way."""
    leg_steps: int = 0
    """Steps of the leg under way."""
    stage_steps: dict[int, int] = field(default_factory=dict)
    """Stage -> steps over all plans."""
    stage_seconds: dict[int, float] = field(default_factory=dict)
    """Stage -> computing time over all plans."""


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors, numbers, strings and plain containers."""
    _replace(path, lambda temporary: torch.save(dict(state), temporary))


def load_state(path: Path) -> dict[str, Any]:
    """Read a state; nothing but tensors and plain containers is unpickled."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write inference weights as float16 safetensors.

    Raises:
        ValueError: a weight lies outside the range of float16.
    """
    halves = {name: tensor.detach().half().contiguous() for name, tensor in weights.items()}
    for name, tensor in halves.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} does not fit float16")
    _replace(path, lambda temporary: safetensors.torch.save_file(halves, temporary))


def position_to_plain(position: Position) -> dict[str, Any]:
    """Containers that `load_state` takes."""
    return {
        "plan": [(leg.stage, leg.minutes) for leg in position.plan],
        "leg": position.leg,
        "leg_seconds": position.leg_seconds,
        "leg_steps": position.leg_steps,
        "stage_steps": dict(position.stage_steps),
        "stage_seconds": dict(position.stage_seconds),
    }


def position_from_plain(plain: Mapping[str, Any]) -> Position:
    """The inverse of `position_to_plain`."""
    return Position(**{**plain, "plan": tuple(Leg(*leg) for leg in plain["plan"])})


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    temporary.replace(path)
