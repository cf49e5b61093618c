"""The table of results: the journal as one Parquet file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from glc.batch.journal import Outcome
from glc.batch.names import RESULTS_NAME
from glc.errors import OutputNotWritable

_ROWS_AT_ONCE = 8192

SCHEMA = pa.schema(
    [
        ("input", pa.string()),
        ("output", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("bpp", pa.float64()),
        ("quality", pa.float64()),
        ("milliseconds", pa.float64()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("sha256", pa.string()),
    ]
)
"""Columns are the fields of `Outcome`; docs/batch.md describes them."""


def write_table(outcomes: Iterable[Outcome], out: Path, scratch: Path) -> Path:
    """Write `results.parquet` whole into the output folder, and give its path.

    Raises:
        OutputNotWritable: the place cannot be written.
    """
    target = out / RESULTS_NAME
    temporary = scratch / secrets.token_hex(8)
    remaining = iter(outcomes)
    try:
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            while rows := list(islice(remaining, _ROWS_AT_ONCE)):
                writer.write_table(as_table(rows))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise OutputNotWritable(f"cannot write {target}: {error.strerror or error}") from error
    return target


def as_table(outcomes: list[Outcome]) -> pa.Table:
    """Outcomes as rows."""
    return pa.table({name: [getattr(row, name) for row in outcomes] for name in SCHEMA.names}, schema=SCHEMA)
