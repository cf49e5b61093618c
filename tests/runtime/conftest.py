"""What the tests of the codec share: a photograph, a short stream, a way to change a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.conftest import load_image

import glc

Pixels = NDArray[np.uint8]

PHOTO = load_image("coffee_200x300.png")
SMALL = np.ascontiguousarray(PHOTO[:40, :70])
HEADER_BYTES = 12  # of a file whose sides are at most 128 pixels


@pytest.fixture(scope="module")
def small_stream(codec: glc.Codec) -> bytes:
    """A stream of a few bytes, for tests that go through all of them."""
    return codec.encode(SMALL, 1)


def edited(mini_bundle: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the bundle with another manifest."""
    shutil.copytree(mini_bundle, path)
    document = json.loads((path / "manifest.json").read_text())
    change(document)
    (path / "manifest.json").write_text(json.dumps(document))
    return path


def names_by_content(bundle: glc.Bundle) -> dict[str, str]:
    """SHA-256 of each graph -> its name."""
    return {entry.file.sha256: name for name, entry in bundle.manifest.graphs.items()}
