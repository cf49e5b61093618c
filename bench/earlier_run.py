"""What an earlier `glc-bench quality` measured, read from the JSON document that it printed last."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any, TypeVar

from glc.bench.quality import PointRow, QualityRow
from glc.bench.rd_curves import Results

_Row = TypeVar("_Row", QualityRow, PointRow)


def read_run(path: Path) -> Results:
    """Its own codec, the first that it measured, under the names of that codec and of the file.

    Raises:
        ValueError: the last line of the file is not such a document.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8").strip().rpartition("\n")[2])
        if document["command"] != "quality":
            raise ValueError(f"it was written by the command {document['command']}")
        points = [_row(PointRow, found) for found in document["points"]]
        rows = [_row(QualityRow, found) for found in document["rows"]]
        own = points[0].codec
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        words = "expected the JSON document that glc-bench quality prints as its last line"
        raise ValueError(f"cannot use {path}: {words} ({error})") from error
    name = f"{own} ({path.stem})"
    return Results(
        tuple(dataclasses.replace(row, codec=name) for row in rows if row.codec == own),
        tuple(dataclasses.replace(point, codec=name) for point in points if point.codec == own),
    )


def _row(kind: type[_Row], found: Any) -> _Row:
    """An object of JSON as a row, each field of its type."""
    hints = typing.get_type_hints(kind)
    values = {field.name: found[field.name] for field in dataclasses.fields(kind)}
    for name, value in values.items():
        allowed: tuple[type, ...] = typing.get_args(hints[name]) or (hints[name],)
        if float in allowed:
            allowed = (*allowed, int)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise TypeError(f"the field {name} is {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"the field {name} is {value}")
    return kind(**values)
