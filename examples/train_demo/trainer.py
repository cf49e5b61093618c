"""A run of training: model, optimiser, schedule and the files that let it stop and go on."""

from __future__ import annotations

import math
import signal
import time
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from examples.train_demo.data import CropSource
from examples.train_demo.initialise import BELOW_EPS, below_eps, fit_ends, rotate_latent, start_priors
from examples.train_demo.progress_log import ProgressLog, plot_log
from examples.train_demo.recipe import Leg, Recipe
from examples.train_demo.stages import Training, average_weights
from examples.train_demo.state import (
    Position,
    load_state,
    position_from_plain,
    position_to_plain,
    save_state,
    save_weights,
)
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from glc.export import load_checkpoint
from glc.export.config import ModelConfig

_LOG_EVERY = 20
_SAVE_SECONDS = 150.0
_LONGEST_STEP = 20.0
"""A step that took longer was suspended: only this much of it counts as computing time."""

_FINAL_RATE = 0.05
"""Last learning rate over the peak."""

_ROW_RATE = 20.0
"""Learning rate of the quality rows over that of the other weights: a few numbers that must travel far."""


class Trainer:
    """One run: model, optimiser, position in the plan, files."""

    def __init__(self, stages: Training, recipe: Recipe, data: Path, folder: Path, seed: int) -> None:
        """Set up a run that begins with the weights that the stages' model has.

        Args:
            stages: what is trained.
            recipe: settings of the stages, and of the optimiser.
            data: folder of photographs.
            folder: where the files of the run go.
            seed: of the crops.
        """
        self.stages = stages
        self.position = Position(())
        for parameter in below_eps(self.stages.model):
            # Their gradients are larger by as much as they are smaller, and would fill the clipped norm alone.
            parameter.requires_grad_(True).register_hook(lambda gradient: gradient * BELOW_EPS)  # type: ignore[no-untyped-call]
        self._config = stages.model.config
        self._recipe, self._data, self._folder, self._seed = recipe, data, folder, seed
        self._average = {name: p.detach().clone() for name, p in self.stages.model.named_parameters()}
        self._optimiser: torch.optim.Optimizer | None = None
        self._optimiser_state: dict[str, Any] | None = None
        self._stopping = False
        self._drawn = True
        self._log = ProgressLog(folder / "log.csv")
        self._console = Console(stderr=True)

    @property
    def state_file(self) -> Path:
        """The resumable state."""
        return self._folder / "state.pt"

    @property
    def weights_file(self) -> Path:
        """The averaged weights, ready for glc-export."""
        return self._folder / "weights.safetensors"

    def resume(self) -> None:
        """Go on from the state in the folder.

        Raises:
            ValueError: the state is of another configuration.
        """
        state = load_state(self.state_file)
        if state["config"] != _plain_config(self._config):
            raise ValueError(f"{self.state_file} holds another configuration: {state['config']}")
        self.stages.load_state_dict(state["stages"])
        self._average = state["average"]
        self.position = position_from_plain(state["position"])
        self._optimiser_state = state["optimiser"]
        torch.set_rng_state(state["random"])
        self._drawn = state["drawn"]

    def load_weights(self, path: Path) -> None:
        """Begin with a trained checkpoint, all of whose stages have been through, instead of drawn weights.

        Raises:
            GlcError: the file is no checkpoint.
            ValueError: it is of another configuration.
        """
        trained = load_checkpoint(path)
        if trained.config != self._config:
            raise ValueError(f"{path} is of another configuration: {trained.config}")
        self.stages.model.load_state_dict(trained.state_dict())
        self._average = {name: p.detach().clone() for name, p in self.stages.model.named_parameters()}
        self._drawn = False

    def start(self, plan: tuple[Leg, ...]) -> None:
        """Begin a plan with the current weights; steps and minutes of earlier plans still count for the stages."""
        self._optimiser_state = None
        self.position = replace(self.position, plan=plan, leg=0, leg_seconds=0.0, leg_steps=0)

    def save(self) -> None:
        """Write state, averaged weights and plot."""
        state = {
            "config": _plain_config(self._config),
            "stages": self.stages.state_dict(),
            "average": self._average,
            "position": position_to_plain(self.position),
            "optimiser": None if self._optimiser is None else self._optimiser.state_dict(),
            "random": torch.get_rng_state(),
            "drawn": self._drawn,
        }
        save_state(self.state_file, state)
        save_weights(self.weights_file, self._average)
        plot_log(self._folder / "log.csv", self._folder / "loss.png")

    def run(self, most_steps: int | None) -> None:
        """Work off the plan; a SIGTERM or SIGINT ends it after the current step, with the state saved."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "_stopping", True))
        while self.position.leg < len(self.position.plan) and not self._stopping:
            self._run_leg(self.position.plan[self.position.leg], most_steps)
        self.save()
        self._console.print(f"stopped: {self.position}")

    def _run_leg(self, leg: Leg, most_steps: int | None) -> None:
        position, settings = self.position, self._recipe.stages[leg.stage]
        # Another seed after a pause, so that a resumed leg does not see the same crops again.
        done = sum(position.stage_steps.values())
        batches = iter(CropSource(self._data, settings.crop, settings.batch, self._seed + done))
        if self._drawn and not position.stage_steps:
            fit_ends(self.stages.model, torch.cat(list(islice(batches, -(-16 // settings.batch)))))
            self._average = {name: p.detach().clone() for name, p in self.stages.model.named_parameters()}
        if self._drawn and leg.stage == 2 and not position.stage_steps.get(2):
            self._enter_transform_coding(list(islice(batches, 16)))
        trained = self.stages.trained(leg.stage)
        self.stages.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        model = self.stages.model
        scales = {id(p): BELOW_EPS for p in below_eps(model)} | {id(p): _ROW_RATE for p in (model.q_enc, model.q_dec)}
        groups = [
            {"params": [p for p in trained if scales.get(id(p), 1.0) == scale], "scale": scale}
            for scale in sorted({1.0, *scales.values()})
        ]
        self._optimiser = torch.optim.AdamW(
            [g for g in groups if g["params"]], settings.learning_rate, betas=(0.9, 0.98), weight_decay=1e-4
        )
        if self._optimiser_state is not None:
            self._optimiser.load_state_dict(self._optimiser_state)
            self._optimiser_state = None
        last_save = time.monotonic()
        with self._progress() as progress:
            task = progress.add_task(f"stage {leg.stage}", total=1.0, numbers="")
            while not self._stopping:
                share = position.leg_seconds / (60 * leg.minutes)
                if most_steps is not None:
                    share = max(share, position.leg_steps / most_steps)
                if share >= 1:
                    position.leg, position.leg_seconds, position.leg_steps = position.leg + 1, 0.0, 0
                    self._optimiser = None
                    break
                started = time.monotonic()
                rate = self._learning_rate(settings.learning_rate, share)
                self._step(leg.stage, next(batches), trained, rate)
                self._count(leg.stage, min(time.monotonic() - started, _LONGEST_STEP))
                if position.leg_steps % _LOG_EVERY == 0:
                    steps, seconds = position.stage_steps[leg.stage], position.stage_seconds[leg.stage]
                    means = self._log.write(leg.stage, steps, seconds, rate)
                    numbers = " ".join(f"{name} {value:.4g}" for name, value in means.items())
                    progress.update(task, completed=share, numbers=f"step {steps} {numbers}")
                if time.monotonic() - last_save > _SAVE_SECONDS:
                    self.save()
                    last_save = time.monotonic()

    def _step(self, stage: int, batch: torch.Tensor, trained: list[torch.nn.Parameter], rate: float) -> None:
        optimiser = self._optimiser
        if optimiser is None:
            raise RuntimeError("no leg is under way")
        for group in optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self.stages.train()
        result = self.stages.step(stage, batch)
        optimiser.zero_grad(set_to_none=True)
        result.loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(trained, self._recipe.gradient_clip)
        if bool(norm.isfinite()):
            optimiser.step()
        # A young average would still hold the first weights: its horizon grows with the steps.
        steps = self.position.leg_steps
        average_weights(self._average, self.stages.model, min(self._recipe.average_decay, (1 + steps) / (10 + steps)))
        self._log.add(result.numbers)

    def _count(self, stage: int, seconds: float) -> None:
        position = self.position
        position.leg_steps += 1
        position.leg_seconds += seconds
        position.stage_steps[stage] = position.stage_steps.get(stage, 0) + 1
        position.stage_seconds[stage] = position.stage_seconds.get(stage, 0.0) + seconds

    def _learning_rate(self, peak: float, share: float) -> float:
        warm = min(1.0, (self.position.leg_steps + 1) / self._recipe.warmup_steps)
        return peak * warm * (_FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * share)))

    def _enter_transform_coding(self, batches: list[torch.Tensor]) -> None:
        """Start from the averaged auto-encoder, its latent turned to its principal axes."""
        self.stages.model.load_state_dict(self._average)
        rotate_latent(self.stages.model, batches)
        start_priors(self.stages.model)
        self._average = {name: p.detach().clone() for name, p in self.stages.model.named_parameters()}

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"))
        return Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[numbers]}"), console=self._console)


def _plain_config(config: ModelConfig) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
