"""Files of a bundle on their way to disk: a directory, or an uncompressed zip of the same files."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from glc.errors import BundleError, BundleTooNew, OutputNotWritable
from glc.runtime.bundle import MANIFEST, Bundle
from glc.runtime.files import staged
from glc.runtime.manifest import FileEntry, Manifest

Container = Literal["directory", "zip"]


def require_replaceable(target: Path) -> None:
    """A bundle may be replaced; a folder with someone's files, or the checkpoint itself, may not.

    Raises:
        OutputNotWritable: the target is something else than a bundle, or has no folder to be in.
    """
    if not target.parent.is_dir():
        raise OutputNotWritable(f"cannot write {target}: there is no folder {target.parent}")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        Bundle.open(target)
    except BundleTooNew:
        return
    except BundleError as error:
        raise OutputNotWritable(f"{target} exists and is not a bundle; choose another path, or remove it") from error


def rewritten(bundle: Bundle, change: Callable[[BundleFiles], Manifest]) -> Bundle:
    """Put a bundle in the place of another one, whole or not at all.

    Args:
        bundle: an open bundle; it stays as it was unless all ends well.
        change: adds files, and returns the new manifest; what that lists and was not added is taken over.

    Returns:
        The new bundle, opened.

    Raises:
        BundleError: a file that is taken over was altered.
        OutputNotWritable: the bundle cannot be written.
    """
    container: Container = "directory" if bundle.path.is_dir() else "zip"
    with staged(bundle.path) as temporary, BundleFiles(temporary, container) as writer:
        manifest = change(writer)
        for entry in manifest.files():
            if entry.name not in writer.names:
                writer.add(entry.name, bundle.read(entry))
        writer.add(MANIFEST, manifest.to_json().encode())
    return Bundle.open(bundle.path)


class BundleFiles:
    """Adds files to a directory or an uncompressed zip."""

    def __init__(self, path: Path, container: Container) -> None:
        self.names: set[str] = set()
        """Of the files that are there."""
        self._path = path
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) if container == "zip" else None

    def __enter__(self) -> BundleFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._archive is not None:
            self._archive.close()

    def add(self, name: str, data: bytes) -> FileEntry:
        """Write one file; `name` is its path inside the bundle."""
        self.names.add(name)
        if self._archive is not None:
            # A fixed date, so that two exports of one checkpoint are the same file.
            self._archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
        else:
            file = self._path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return FileEntry(name, hashlib.sha256(data).hexdigest(), len(data))
