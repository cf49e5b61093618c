"""Outputs that are whole or not there: written to a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from glc.errors import OutputNotWritable


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`, to be made a file or directory; renamed to it when the block ends well.

    An existing file is replaced; an existing directory is set aside first and removed last. On any error or
    interrupt the temporary is removed and the target stays as it was.

    Raises:
        OutputNotWritable: the place cannot be written.
    """
    place = Path(os.path.realpath(target))  # a symbolic link stays; what it points to is replaced
    temporary = place.parent / f".{secrets.token_hex(8)}.part"  # the name alone may be as long as a name can be
    try:
        yield temporary
        _replace(temporary, place)
    except OSError as error:
        raise OutputNotWritable(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        _remove(temporary)


def write_file(target: Path, data: bytes) -> None:
    """Write a whole file or none.

    Raises:
        OutputNotWritable: the place cannot be written.
    """
    kind = _kind(target)
    if kind == stat.S_IFDIR:
        raise OutputNotWritable(f"cannot write {target}: it is a folder")
    if kind in (None, stat.S_IFREG):
        with staged(target) as temporary:
            temporary.write_bytes(data)
        return
    try:
        target.write_bytes(data)  # a device or a pipe, such as /dev/null: written into, never replaced
    except OSError as error:
        raise OutputNotWritable(f"cannot write {target}: {error.strerror or error}") from error


def require_place(target: Path) -> None:
    """Find out before the work what would keep `write_file` from writing after it.

    Raises:
        OutputNotWritable: there is no such folder, or the target is one.
    """
    if _kind(target) == stat.S_IFDIR:
        raise OutputNotWritable(f"cannot write {target}: it is a folder")
    if _kind(target.parent) != stat.S_IFDIR:
        raise OutputNotWritable(f"cannot write {target}: there is no folder {target.parent}")


def read_at_most(file: IO[bytes], most_bytes: int) -> bytes:
    """Read a file up to a limit and one byte more, in chunks: `read` takes the limit in memory before it reads."""
    chunks: list[bytes] = []
    left = most_bytes + 1
    while left > 0 and (chunk := file.read(min(left, 1 << 16))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _kind(path: Path) -> int | None:
    """Type of what a path leads to, as in `stat.S_IFMT`; None where nothing can be seen there."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except OSError:
        return None


def _replace(source: Path, target: Path) -> None:
    if not target.is_dir():
        source.replace(target)
        return
    aside = source.with_suffix(".old")
    target.rename(aside)
    try:
        source.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # what went wrong before is what counts
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
