"""Changing the files of a bundle, and what opening it then says: for all tests of bundles."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import glc
from glc.errors import (
    GlcError,
)

LITTLE_MEMORY = 40 << 20
"""Bytes; room for reading a manifest of the largest size, none for unpacking a bomb."""

Arrays = dict[str, Any]


def zipped_copy(bundle: Path, path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(bundle.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(bundle).as_posix())
    return path


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    change(document)
    (bundle / "manifest.json").write_text(json.dumps(document))


def put_tables(bundle: Path, content: bytes) -> None:
    """Replace tables.npz as someone would who also writes the manifest."""
    (bundle / "tables.npz").write_bytes(content)
    entry = {"name": "tables.npz", "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    edit(bundle, lambda document: document.update(tables=entry))


def table_arrays(bundle: Path) -> Arrays:
    with np.load(bundle / "tables.npz") as arrays:
        return dict(arrays)


def add_stand_ins(bundle: Path) -> None:
    """Give a bundle the encoders `restore` and `twin` and the decoder `scream`, out of what it holds.

    They share the files of the model's own graphs. Other factors make other streams of `restore` and other images of
    `scream`; `twin` is the model's own encoder once more.
    """
    arrays = table_arrays(bundle)
    arrays |= {"q_enc.restore": arrays["q_enc"] / 2, "q_enc.twin": arrays["q_enc"], "q_dec.scream": arrays["q_dec"] * 2}
    put_tables(bundle, npz(arrays))

    def change(document: dict[str, Any]) -> None:
        for graph in ("analysis.restore", "analysis.twin", "synthesis.scream"):
            own, _, name = graph.partition(".")
            document["graphs"][graph] = document["graphs"][own]
            tiles = document.get("tiles", {})
            tiles |= {
                f"{tile}.{name}": tiles[tile]
                for tile in list(tiles)
                if tile.startswith(f"tile_{own}_") and "." not in tile
            }

    edit(bundle, change)


def npz(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def refusal(path: Path, kind: type[GlcError], *mentioned: str) -> None:
    """Opening a codec raises this and nothing else, in one short line that names what is wrong."""
    with pytest.raises(GlcError) as caught:
        glc.Codec.open(path)
    assert caught.type is kind
    message = str(caught.value)
    for text in mentioned:
        assert text in message
    assert message.isprintable()
    assert len(message) < 1000
