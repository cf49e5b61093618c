"""Tests that need an NVIDIA GPU: skipped elsewhere, with the reason; `make gpu` runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import glc
from glc.engines import trt_sdk
from glc.engines.cuda import device_capability
from glc.errors import BuilderUnavailable, EngineUnavailable
from glc.export.targets import compile_target
from glc.runtime.default_model import default_bundle


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip every test of this folder where there is no GPU."""
    try:
        device_capability()
        reason = None
    except EngineUnavailable as error:
        reason = str(error)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skipif(reason is not None, reason=reason or ""))


@pytest.fixture(scope="session", params=trt_sdk.LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    """Every TensorRT that is installed."""
    name = str(request.param)
    try:
        trt_sdk.library(name)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    return name


@pytest.fixture(scope="session")
def compiled(library: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded bundle, compiled for the GPU at hand at f16 and f32."""
    path = tmp_path_factory.mktemp(library) / "demo.glcb"
    shutil.copy(default_bundle(), path)
    try:
        for precision in ("f16", "f32"):
            compile_target(glc.Bundle.open(path), device_capability(), library=library, precision=precision)
    except BuilderUnavailable as error:
        pytest.skip(str(error))
    return path
