"""Fixtures that several test modules share: a real bundle of the mini model and a codec on it."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import typer.testing
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

import glc
from glc.export import GlcModel, GraphReport, export_bundle, synthetic_model
from glc.export.synthetic import MINI

os.environ["GLC_ENGINE"] = "onnxruntime"
"""What tests run on that name no engine, on every machine; for tests of the choice itself see test_engine_choice.py."""

DATA = Path(__file__).parent / "data"
"""Committed images, reference vectors and lists of tensors."""


@pytest.fixture(scope="session")
def mini_model() -> GlcModel:
    """The mini configuration with synthetic weights, seed 0, as in the reference vectors."""
    return synthetic_model(MINI)


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A temporary folder that all processes of this test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


def made_once(path: Path, make: Callable[[], object]) -> Path:
    """Path that `make` writes, last of all and in one step: by the first process that asks, for all of them."""
    with FileLock(f"{path}.lock"):
        if not path.exists():
            make()
    return path


@dataclass(frozen=True, slots=True)
class CommandExport:
    """What `glc-export` made of a checkpoint in a process of its own."""

    path: Path
    """Of the bundle."""

    out: str
    err: str


@pytest.fixture(scope="session")
def mini_export(mini_model: GlcModel, common_folder: Path) -> CommandExport:
    """A checkpoint as it is released (wrapped, prefixed, with tensors that only training needs), exported by command.

    Half a minute.
    """
    folder = common_folder / "mini"

    def make() -> None:
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        state = {f"module.{name}": tensor for name, tensor in mini_model.state_dict().items()}
        torch.save({"state_dict": state | {"module.code_pred_loss.position_emb": torch.zeros(2)}}, part / "mini.pth")
        command = f"{sys.executable} -m glc.export --ckpt mini.pth -o mini.glcb"
        done = subprocess.run(
            [*command.split(), "--label", "mini for tests"],
            cwd=part,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (part / "out.txt").write_text(done.stdout)
        (part / "err.txt").write_text(done.stderr)
        part.rename(folder)

    made_once(folder, make)
    out, err = ((folder / name).read_text() for name in ("out.txt", "err.txt"))
    return CommandExport(folder / "mini.glcb", out, err)


@pytest.fixture(scope="session")
def mini_bundle(mini_export: CommandExport) -> Path:
    """Path of the mini bundle; copy it before changing it."""
    return mini_export.path


@dataclass(frozen=True, slots=True)
class ToldExport:
    """What `export_bundle` told while it wrote a bundle."""

    path: Path
    reports: list[GraphReport]
    steps: list[str]


@pytest.fixture(scope="session")
def mini_float_export(mini_model: GlcModel, common_folder: Path) -> ToldExport:
    """The mini bundle in float arithmetic; 20 s."""
    told = common_folder / "mini-float.told"

    def make() -> None:
        export = ToldExport(common_folder / "mini-float.glcb", [], [])
        export_bundle(
            mini_model,
            export.path,
            label="mini for tests",
            arithmetic="float",
            on_graph=export.reports.append,
            on_step=export.steps.append,
        )
        part = told.with_suffix(".part")
        part.write_bytes(pickle.dumps(export))
        part.rename(told)

    export: ToldExport = pickle.loads(made_once(told, make).read_bytes())
    return export


@pytest.fixture(scope="session")
def mini_float_bundle(mini_float_export: ToldExport) -> Path:
    """Path of the mini bundle in float arithmetic; copy it before changing it."""
    return mini_float_export.path


@pytest.fixture(scope="session")
def codec(mini_bundle: Path) -> Iterator[glc.Codec]:
    """A codec on the mini bundle with two threads."""
    with glc.Codec.open(mini_bundle, threads=2) as opened:
        yield opened


@pytest.fixture(scope="session")
def float_codec(mini_float_bundle: Path) -> Iterator[glc.Codec]:
    """A codec on the mini bundle in float arithmetic with two threads."""
    with glc.Codec.open(mini_float_bundle, threads=2) as opened:
        yield opened


def invoke(app: typer.Typer, *arguments: object) -> typer.testing.Result:
    """Run a command in this process, on a wide terminal without colours."""
    environment = {"COLUMNS": "200", "NO_COLOR": "1"}
    return typer.testing.CliRunner().invoke(app, [*map(str, arguments)], env=environment)


def load_image(name: str) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of a committed image."""
    with Image.open(DATA / "images" / name) as image:
        return np.asarray(image.convert("RGB"))
