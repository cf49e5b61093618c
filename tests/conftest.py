"""Fixtures that several test modules share: a real bundle of the mini model and a codec on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
import typer.testing
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
def mini_export(
    mini_model: GlcModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[GraphReport], list[str]]:
    """A bundle that `export_bundle` wrote (about 40 s), with the reports and steps that it gave."""
    path = tmp_path_factory.mktemp("bundle") / "mini.glcb"
    reports: list[GraphReport] = []
    steps: list[str] = []
    export_bundle(mini_model, path, label="mini for tests", on_graph=reports.append, on_step=steps.append)
    return path, reports, steps


@pytest.fixture(scope="session")
def mini_bundle(mini_export: tuple[Path, list[GraphReport], list[str]]) -> Path:
    """Path of the mini bundle; copy it before changing it."""
    return mini_export[0]


@pytest.fixture(scope="session")
def mini_float_bundle(mini_model: GlcModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the mini bundle in float arithmetic; copy it before changing it."""
    path = tmp_path_factory.mktemp("float_bundle") / "mini.glcb"
    export_bundle(mini_model, path, label="mini for tests", arithmetic="float")
    return path


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
