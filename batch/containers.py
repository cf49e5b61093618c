"""Images inside tar and Parquet files: listed without their contents, read one at a time, never unpacked to disk."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from glc.errors import ImageUnreadable
from glc.runtime.files import read_at_most
from glc.runtime.images import read_bytes

_PARQUET_ENDING = ".parquet"
_TAR_ENDING = ".tar"
_PACKED_ENDINGS = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Of archives that are refused: their members can only be read from the front, by one worker."""

_MOST_BYTES = 1 << 30
"""Of one input, and of the column's part of one row group."""
_CACHED_GROUPS = 2
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of one input lie; small, so that millions can be listed and sent to other machines."""

    kind: Literal["file", "member", "row"]
    path: str
    start: int = 0
    """Of a member: offset of its first byte. Of a row: its row group."""
    count: int = 0
    """Of a member: its bytes. Of a row: its position in the row group."""
    column: str = ""
    """Of a row: the column that holds the image."""


@dataclass(frozen=True, slots=True)
class Member:
    """One thing in a container."""

    identity: str
    """Tells it from the others in the container."""
    name: str
    """As the archive or the table has it: anything at all."""
    place: Place


def is_container(name: str) -> bool:
    """Whether a name's ending is that of a file that holds many images."""
    return name.lower().endswith((_TAR_ENDING, _PARQUET_ENDING, *_PACKED_ENDINGS))


def members(path: str, column: str, key: str | None) -> Iterator[Member]:
    """What a tar or Parquet file holds, in its order; contents are not read.

    Args:
        path: the file.
        column: of a Parquet file: bytes of an image file, or Hugging Face's struct of `bytes` and `path`.
        key: of a Parquet file: a column of names or numbers; None takes the struct's path, else the row's number.

    Raises:
        ImageUnreadable: it is compressed, damaged, or has no such columns; what was before the damage was given.
    """
    ending = path.lower()
    if ending.endswith(_PACKED_ENDINGS):
        raise ImageUnreadable(f"{path} is compressed, which can be read from its front only: unpack it to .tar")
    return _rows(path, column, key) if ending.endswith(_PARQUET_ENDING) else _tar_members(path)


def _tar_members(path: str) -> Iterator[Member]:
    """Regular files alone: links could lead anywhere."""
    try:
        with tarfile.open(path, "r:") as archive:
            behind = -1
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else every member would be kept
                if member.offset <= behind or member.size < 0:
                    raise ImageUnreadable(f"{path} is no whole tar file: a header points backwards")
                behind = member.offset
                if member.isreg() and not member.issparse():
                    yield Member(member.name, member.name, Place("member", path, member.offset_data, member.size))
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, EOFError) as error:
        raise ImageUnreadable(f"{path} is no whole tar file without compression: {error}") from error


def _rows(path: str, column: str, key: str | None) -> Iterator[Member]:
    try:
        with pq.ParquetFile(path) as file:
            named_by = _naming_column(file.schema_arrow, path, column, key)
            number = 0
            for group in range(file.num_row_groups):
                names = _names(file, group, named_by)
                for position in range(file.metadata.row_group(group).num_rows):
                    row = f"{number:09d}"
                    yield Member(row, next(names, None) or row, Place("row", path, group, position, column))
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise ImageUnreadable(f"{path} cannot be read as Parquet: {error}") from error


class Contents:
    """Reads the bytes at a place; keeps the last row groups, whose rows are asked for one after the other.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._groups: dict[tuple[str, int, str], Any] = {}
        self._lock = threading.Lock()

    def read(self, place: Place) -> bytes:
        """The bytes at a place.

        Raises:
            ImageUnreadable: they cannot be read, are not all there, or are more than a GiB.
        """
        if place.kind == "file":
            return read_bytes(Path(place.path), _MOST_BYTES)
        if place.kind == "member":
            return _member_bytes(place)
        value = self._group(place)[place.count].as_py()
        data = value["bytes"] if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ImageUnreadable(f"{place.path} holds no bytes in row {place.count} of row group {place.start}")
        return data

    def _group(self, place: Place) -> Any:
        """Column of a row group, an Arrow array."""
        wanted = (place.path, place.start, place.column)
        with self._lock:  # the others wait for the same group
            if wanted not in self._groups:
                while len(self._groups) >= _CACHED_GROUPS:
                    del self._groups[next(iter(self._groups))]
                self._groups[wanted] = _read_group(place)
            return self._groups[wanted]


def _member_bytes(place: Place) -> bytes:
    if place.count > _MOST_BYTES:
        raise ImageUnreadable(f"a member of {place.path} is larger than {_MOST_BYTES} bytes")
    try:
        with open(place.path, "rb") as file:  # noqa: PTH123 - the name may hold what Path would not keep
            file.seek(place.start)
            data = read_at_most(file, place.count - 1) if place.count else b""
    except OSError as error:
        raise ImageUnreadable(f"cannot read {place.path}: {error.strerror or error}") from error
    if len(data) < place.count:
        raise ImageUnreadable(f"{place.path} ends in the middle of a member: {len(data)} of {place.count} bytes")
    return data


def _read_group(place: Place) -> Any:
    try:
        with pq.ParquetFile(place.path) as file:
            group = file.metadata.row_group(place.start)
            columns = (group.column(index) for index in range(group.num_columns))
            size_bytes = sum(
                c.total_uncompressed_size for c in columns if f"{c.path_in_schema}.".startswith(f"{place.column}.")
            )
            if size_bytes > _MOST_BYTES:
                raise ImageUnreadable(
                    f"{place.path} has {size_bytes} bytes of images in one row group; the limit is {_MOST_BYTES}: "
                    "write it with fewer rows in a group"
                )
            return file.read_row_group(place.start, columns=[place.column], use_threads=False).column(0)
    except (pa.ArrowException, OSError, IndexError) as error:
        raise ImageUnreadable(f"{place.path} cannot be read as Parquet: {error}") from error


def _naming_column(schema: Any, path: str, column: str, key: str | None) -> str | None:
    """Dotted name of the column that names the rows; refuses what holds no images."""
    for name in (column, key):
        if name is not None and name not in schema.names:
            held = ", ".join(schema.names)
            raise ImageUnreadable(f"{path} has no column {name!r}; choose among {held} with --column and --key")
    kind = schema.field(column).type
    parts = {part.name: part.type for part in kind} if pa.types.is_struct(kind) else {"bytes": kind}
    if "bytes" not in parts or not _is_bytes(parts["bytes"]):
        raise ImageUnreadable(f"column {column!r} of {path} holds {kind}; expected binary or a struct with bytes")
    if key is None and "path" in parts:
        return f"{column}.path"
    return key


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _names(file: Any, group: int, column: str | None) -> Iterator[str | None]:
    """Names of a row group's rows, where a column names them."""
    if column is None:
        return
    for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False):
        for value in batch.column(0).to_pylist():
            plain = value.get("path") if isinstance(value, dict) else value
            yield None if plain is None else str(plain)
