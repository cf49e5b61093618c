"""What the tests of codec and bundles share: a photograph, a short stream, bundles to be changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.conftest import load_image
from tests.runtime.bundle_files import edit

import glc

Pixels = NDArray[np.uint8]

PHOTO = load_image("coffee_200x300.png")
SMALL = np.ascontiguousarray(PHOTO[:40, :70])
HEADER_BYTES = 12  # of a file whose sides are at most 128 pixels


@pytest.fixture(scope="module")
def small_stream(codec: glc.Codec) -> bytes:
    """A stream of a few bytes, for tests that go through all of them."""
    return codec.encode(SMALL, 1)


@pytest.fixture
def bundle(mini_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the mini bundle, to be changed."""
    return shutil.copytree(mini_bundle, tmp_path / "copy.glcb")


@pytest.fixture
def slim(mini_bundle: Path, tmp_path: Path) -> Path:
    """The mini bundle without its graphs: enough to open a codec."""
    path = tmp_path / "slim.glcb"
    path.mkdir()
    for name in ("manifest.json", "tables.npz"):
        shutil.copy(mini_bundle / name, path / name)
    return path


def edited(mini_bundle: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the bundle with another manifest."""
    shutil.copytree(mini_bundle, path)
    edit(path, change)
    return path


def names_by_content(bundle: glc.Bundle) -> dict[str, str]:
    """SHA-256 of each graph -> its name."""
    return {entry.file.sha256: name for name, entry in bundle.manifest.graphs.items()}
