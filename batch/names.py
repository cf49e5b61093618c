"""Names of inputs and outputs: printable, inside the output folder, and free of what the batch keeps there itself."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

RESULTS_NAME = "results.parquet"
"""The table of results in the output folder."""
STATE_NAME = ".glc-batch"
"""Folder in the output folder that holds the journal and what is being written."""

_MOST_BYTES = 200
"""Of one folder's or file's name; file systems take 255, and a collision adds to it."""


def shown_name(name: str) -> str:
    """A name as the table holds it: bytes that are no UTF-8 are written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def relative_name(name: str) -> str:
    """A relative path that stays below the folder it is joined to, whatever the archive or column says.

    `..`, drives and leading slashes are dropped, names do not start with a dot, unprintable characters become `_`.
    """
    parts = [_part(part) for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    if parts and parts[0].lower() == RESULTS_NAME:
        parts[0] = f"_{parts[0]}"
    return "/".join(parts) or "unnamed"


def split_ending(name: str, endings: frozenset[str]) -> tuple[str, str]:
    """A name without its ending, and the ending where it is one of `endings`, else ""."""
    suffix = PurePosixPath(name).suffix
    return (name.removesuffix(suffix), suffix) if suffix.lower() in endings else (name, "")


def output_names(stem: str, suffix: str, ending: str, unique: str) -> Iterator[str]:
    """Names for an output in the order of preference, without end.

    Args:
        stem: relative path without ending, such as `cats/a`.
        suffix: ending of the input, such as `.png`.
        ending: ending of the output, such as `.glc`.
        unique: what tells the input from every other.
    """
    yield f"{stem}{ending}"
    yield f"{stem}{suffix}{ending}"
    for attempt in itertools.count():  # more than one only where somebody foresaw the digest
        digest = hashlib.sha256(f"{attempt}{unique}".encode()).hexdigest()
        yield f"{stem}{suffix}~{digest[:16]}{ending}"


def _part(part: str) -> str:
    printable = "".join(c if c.isprintable() and c != ":" else "_" for c in part)
    visible = re.sub(r"^\.", "_", printable)
    encoded = visible.encode()
    if len(encoded) <= _MOST_BYTES:
        return visible
    stem, suffix = split_ending(visible, frozenset((PurePosixPath(visible).suffix[:8].lower(),)))
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    return f"{stem.encode()[: _MOST_BYTES - 40].decode('utf-8', 'ignore')}~{digest}{suffix}"
