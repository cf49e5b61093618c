"""What the command line names, as a stream of places: folders, patterns, files, and what tar and Parquet files hold."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from glc.batch.containers import Place, is_container, members
from glc.batch.names import RESULTS_NAME, STATE_NAME, relative_name, shown_name, split_ending
from glc.errors import GlcError, ImageUnreadable


@dataclass(frozen=True, slots=True)
class Selection:
    """What is taken from the inputs."""

    endings: frozenset[str]
    """Of the files that are taken from folders and archives, in lower case with their dot."""
    column: str
    """Of Parquet files: the column that holds the contents."""
    key: str | None
    """Of Parquet files: the column that names the outputs; see `containers.members`."""
    out: Path
    """The output folder, in which nothing is looked for."""


@dataclass(frozen=True, slots=True)
class Found:
    """One input."""

    input: str
    """Its absolute path; behind it, in a tar file, `/` and the member, in a Parquet file, `#` and the row."""
    stem: str
    """Relative path of the output, without an ending."""
    suffix: str
    """Ending of the input, such as `.png`; may be empty."""
    place: Place


@dataclass(frozen=True, slots=True)
class Listed:
    """A folder or container whose end was reached, so that nothing of it is missing; or why not."""

    input: str
    error: ImageUnreadable | None


class Inputs:
    """Finds inputs lazily, in a fixed order; names of one folder at a time are held, never contents."""

    # Names are str and os.path: they may be of any bytes and length, for which Path raises, and there are millions.

    def __init__(self, arguments: Sequence[str], selection: Selection) -> None:
        """Names are looked up now, folders read while iterating.

        Raises:
            ValueError: an argument names nothing.
        """
        self._arguments = arguments
        self._selection = selection
        self._out: tuple[int, int] | None = None
        self.passed_over = 0
        """Files and members so far that have another ending."""
        for argument in arguments:
            if not _is_readable(argument) and next(glob.iglob(argument, recursive=True), None) is None:
                raise ValueError(f"no file, folder or match of a pattern is called {argument!r}")

    def __iter__(self) -> Iterator[Found | Listed]:
        self._out = _identity(self._selection.out)
        for argument in self._arguments:
            if not _is_readable(argument):
                yield from self._matches(argument)
            elif os.path.isdir(argument):
                alone = len(self._arguments) == 1
                yield from self._folder(argument, "" if alone else _base(argument))
            elif is_container(argument):
                yield from self._container(argument, _base(argument))
            else:
                yield _file(argument, _base(argument))  # named, and so taken whatever its ending

    def _matches(self, pattern: str) -> Iterator[Found | Listed]:
        base = _fixed_part(pattern)
        out = str(self._selection.out)
        among_inputs = not _is_within(base, out)
        for match in sorted(glob.iglob(pattern, recursive=True)):
            relative = os.path.relpath(match, base)
            if (among_inputs and _is_within(match, out)) or _is_results(*os.path.split(match)):
                continue
            if not os.path.isdir(match):
                yield from self._entry(match, relative)
            elif "**" not in pattern:  # which matches what is in the folder too
                yield from self._folder(match, relative)

    def _folder(self, top: str, prefix: str) -> Iterator[Found | Listed]:
        waiting = [(top, prefix)]  # not recursion: folders may be nested as deep as a path allows
        while waiting:
            folder, below = waiting.pop()
            try:
                with os.scandir(folder) as entries:
                    ordered = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                reason = ImageUnreadable(f"cannot read {folder}: {error.strerror or error}")
                yield Listed(_absolute(folder), reason)
                continue
            folders = []
            for entry in ordered:
                relative = os.path.join(below, entry.name)
                if entry.name.startswith("."):
                    continue  # what systems and this program keep beside pictures
                if entry.is_dir(follow_symlinks=False):
                    if _identity(entry.path) != self._out:
                        folders.append((entry.path, relative))
                elif not _is_results(folder, entry.name) and _is_file(entry):
                    yield from self._entry(entry.path, relative)
            yield Listed(_absolute(folder), None)
            waiting.extend(reversed(folders))

    def _entry(self, path: str, relative: str) -> Iterator[Found | Listed]:
        if is_container(path):
            yield from self._container(path, relative)
        elif self._wants(path):
            yield _file(path, relative)
        else:
            self.passed_over += 1

    def _container(self, path: str, relative: str) -> Iterator[Found | Listed]:
        whole = _absolute(path)
        below = os.path.splitext(relative)[0]
        try:
            for member in members(os.path.abspath(path), self._selection.column, self._selection.key):
                if member.place.kind == "member" and not self._wants(member.name):
                    self.passed_over += 1
                    continue
                between = "#" if member.place.kind == "row" else "/"
                stem, suffix = split_ending(relative_name(f"{below}/{member.name}"), self._selection.endings)
                identity = f"{whole}{between}{shown_name(member.identity)}"
                yield Found(identity, stem, suffix, member.place)
        except GlcError as error:
            yield Listed(whole, ImageUnreadable(str(error)))
        else:
            yield Listed(whole, None)

    def _wants(self, name: str) -> bool:
        base = name.rsplit("/", 1)[-1]
        return not base.startswith(".") and os.path.splitext(base)[1].lower() in self._selection.endings


def _file(path: str, relative: str) -> Found:
    stem, suffix = os.path.splitext(relative_name(relative))
    return Found(_absolute(path), stem, suffix, Place("file", os.path.abspath(path)))


def _is_within(path: str, folder: str) -> bool:
    return os.path.join(os.path.realpath(path), "").startswith(os.path.join(os.path.realpath(folder), ""))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _is_results(folder: str, name: str) -> bool:
    """Whether a file is the table of a batch, this one or that which made the streams to be decoded."""
    return name == RESULTS_NAME and os.path.isdir(os.path.join(folder, STATE_NAME))


def _is_readable(path: str) -> bool:
    return os.path.isdir(path) or os.path.isfile(path)


def _base(path: str) -> str:
    return os.path.basename(os.path.abspath(path))


def _absolute(path: str) -> str:
    return shown_name(os.path.abspath(path))  # links stay: the table has the name that the user knows


def _identity(path: str | Path) -> tuple[int, int] | None:
    """What tells a folder from every other, whatever its name; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _fixed_part(pattern: str) -> str:
    """The folders of a pattern before the first that has a wildcard."""
    parts = pattern.split(os.sep)
    fixed = 0
    while fixed < len(parts) - 1 and not glob.has_magic(parts[fixed]):
        fixed += 1
    return os.sep.join(parts[:fixed]) or (os.sep if pattern.startswith(os.sep) else os.curdir)
