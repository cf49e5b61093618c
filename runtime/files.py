"""Outputs that are whole or not there: written to a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from glc.errors import OutputNotWritable


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`, to be made a file or directory; renamed to it when the block ends well.

    An existing file is replaced; an existing directory is set aside first and removed last. On any error or
    interrupt the temporary is removed and the target stays as it was.

    Raises:
        OutputNotWritable: the place cannot be written.
    """
    temporary = target.parent / f".{target.name}.{secrets.token_hex(4)}.part"
    try:
        yield temporary
        _replace(temporary, target)
    except OSError as error:
        raise OutputNotWritable(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        _remove(temporary)


def write_file(target: Path, data: bytes) -> None:
    """Write a whole file or none.

    Raises:
        OutputNotWritable: the place cannot be written.
    """
    with staged(target) as temporary:
        temporary.write_bytes(data)


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
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
