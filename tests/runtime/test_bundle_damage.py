"""Random damage of a bundle raises nothing but GlcError."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.bundle_files import npz, put_tables, table_arrays, zipped_copy

import glc
from glc.errors import (
    GlcError,
)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in items:
        yield value, key
        if isinstance(member, (dict, list)):
            yield from _places(member)


def _mutated_document(document: Any, draw: random.Random) -> bytes:
    odd: list[Any] = [
        None,
        True,
        0,
        -1,
        1,
        2**31,
        2**64,
        10**400,
        1.5,
        float("nan"),
        "",
        "..",
        "x" * 999,
        "\ud800",
        [],
        {},
        [[]],
    ]
    for _ in range(draw.choice((1, 1, 2, 5))):
        container, key = draw.choice(list(_places(document)))
        action = draw.randrange(3)
        if action == 0:
            container[key] = draw.choice(odd)
        elif action == 1:
            other, other_key = draw.choice(list(_places(document)))
            container[key] = json.loads(json.dumps(other[other_key]))
        elif isinstance(container, dict):
            del container[key]
        if not document:
            break
    return json.dumps(document).encode()


def _mutated_bytes(content: bytes, draw: random.Random, reach: int) -> bytes:
    """Damage, most of it within `reach` bytes of either end, where the structure lies."""
    damaged = bytearray(content)
    reach = min(reach, len(damaged))
    for _ in range(draw.choice((1, 2, 4))):
        at = draw.choice((draw.randrange(reach), draw.randrange(-reach, 0), draw.randrange(len(damaged))))
        damaged[at] = draw.choice((0, 255, draw.randrange(256), damaged[at] ^ (1 << draw.randrange(8))))
    if draw.random() < 0.1:
        start = draw.randrange(len(damaged))
        del damaged[start : start + draw.choice((1, 2, 100))]
    return bytes(damaged)


def _opens(path: Path) -> bool:
    """Whether a codec opens; anything but a GlcError in one line fails the test."""
    try:
        glc.Codec.open(path)
    except GlcError as error:
        if not str(error).isprintable():
            pytest.fail(f"not one line: {error!r}")
        return False
    return True


@pytest.mark.parametrize("seed", range(5))
def test_random_changes_of_the_manifest_raise_nothing_but_glc_errors(seed: int, slim: Path) -> None:
    draw = random.Random(seed)
    original = (slim / "manifest.json").read_bytes()
    opened = 0
    for _ in range(60):
        text = _mutated_bytes(original, draw, 99) if draw.random() < 0.3 else None
        (slim / "manifest.json").write_bytes(text or _mutated_document(json.loads(original), draw))
        opened += _opens(slim)
    assert 0 < opened < 60


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "compressed"])
def test_random_changes_of_the_tables_raise_nothing_but_glc_errors(compressed: bool, slim: Path) -> None:
    draw = random.Random(0)
    arrays = table_arrays(slim)
    buffer = io.BytesIO()
    if compressed:
        np.savez_compressed(buffer, **arrays)
    original = buffer.getvalue() or npz(arrays)
    opened = 0
    for _ in range(300):
        put_tables(slim, _mutated_bytes(original, draw, 600))
        opened += _opens(slim)
    assert opened < 300


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "compressed"])
def test_random_changes_of_a_zip_raise_nothing_but_glc_errors(compression: int, slim: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    path = zipped_copy(slim, tmp_path / "a.zip", compression)
    original = path.read_bytes()
    opened = 0
    for _ in range(300):
        path.write_bytes(_mutated_bytes(original, draw, 300))
        opened += _opens(path)
    assert 0 < opened < 300
