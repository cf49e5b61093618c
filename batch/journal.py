"""What became of every input, in a database that survives a kill at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from glc.batch.containers import Place
from glc.batch.inputs import Found
from glc.batch.names import STATE_NAME, output_names
from glc.errors import OutputNotWritable, OutputTaken

_COMMIT_SECONDS = 1.0
"""After a kill at most this much work is done again."""


@dataclass(frozen=True, slots=True)
class Task:
    """One input to be done."""

    input: str
    output: str
    """Relative path in the output folder."""
    place: Place


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input: a row of the table."""

    input: str
    output: str | None = None
    """Relative path in the output folder; None where nothing was written."""
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    """Of the bitstream."""
    bpp: float | None = None
    quality: float | None = None
    milliseconds: float | None = None
    """For reading, coding and writing."""
    status: Literal["done", "failed"] = "done"
    error: str | None = None
    """Class of what went wrong."""
    message: str | None = None
    sha256: str | None = None
    """Of the output."""
    output_bytes: int | None = None


COLUMNS = tuple(field.name for field in dataclasses.fields(Outcome))

_SCHEMA = f"""
    CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS results (
        input TEXT PRIMARY KEY, run INTEGER NOT NULL, place TEXT UNIQUE COLLATE NOCASE, {", ".join(COLUMNS[1:])}
    );
"""
"""`place` is the output's name from the moment that it is given to an input; case does not tell two apart, so that
the folder can be copied to file systems where it does not either."""


_RECORD = f"""
    INSERT INTO results (run, {", ".join(COLUMNS)}) VALUES (:run, {", ".join(f":{name}" for name in COLUMNS)})
    ON CONFLICT (input) DO UPDATE SET run = :run, {", ".join(f"{name} = :{name}" for name in COLUMNS[1:])}
"""  # noqa: S608 - our own names


class Journal:
    """Use it in a `with` statement, from one thread; only one process at a time can hold an output folder's."""

    def __init__(self, out: Path, settings: dict[str, str]) -> None:
        """Make or open the journal of an output folder, and remove what a killed run left half-written.

        Args:
            out: the output folder; made if need be.
            settings: what the outputs depend on; all runs in one folder must agree.

        Raises:
            OutputTaken: the folder was begun with other settings, or another process works in it.
            OutputNotWritable: the folder cannot be written.
        """
        self._out = out
        self._last_commit = time.monotonic()
        self.scratch = out / STATE_NAME / "parts"
        """Folder for what is being written; empty when a run starts."""
        try:
            self.scratch.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(out / STATE_NAME / "journal.sqlite", timeout=0, isolation_level=None)
            try:
                self._begin()
                self._require_settings(settings)
            except BaseException:
                self._database.close()
                raise
            shutil.rmtree(self.scratch)
            self.scratch.mkdir()
        except OSError as error:
            raise OutputNotWritable(f"cannot write {out}: {error.strerror or error}") from error

    def take(self, found: Found, ending: str) -> Task | Literal["there", "repeated"]:
        """Give an input its output's name, the one that it had before if there was a run before.

        Args:
            found: the input.
            ending: of the output, such as `.glc`.

        Returns:
            What is to be done; "there" where an earlier run has done it and the output is whole in its place;
            "repeated" where this run had the input before.
        """
        self._commit_now_and_then()
        query = "SELECT place, run, status, output_bytes FROM results WHERE input = ?"
        known = self._database.execute(query, (found.input,)).fetchone()
        if known is None or known[0] is None:
            self.forget_failure(found.input)
            return Task(found.input, self._new_place(found, ending), found.place)
        place, run, status, output_bytes = known
        if run == self._run:
            return "repeated"
        there = status == "done" and _size(self._out / place) == output_bytes
        # An input that is there keeps its row, but belongs to this run from now on.
        status = "done" if there else "waiting"
        self._database.execute(
            "UPDATE results SET run = ?, status = ? WHERE input = ?", (self._run, status, found.input)
        )
        return "there" if there else Task(found.input, place, found.place)

    def record(self, outcome: Outcome) -> None:
        """Write down what became of a task."""
        self._commit_now_and_then()
        values = {name: getattr(outcome, name) for name in COLUMNS} | {"run": self._run}
        self._database.execute(_RECORD, values)

    def forget_failure(self, container: str) -> None:
        """A folder or container that an earlier run could not read is whole."""
        self._database.execute("DELETE FROM results WHERE input = ? AND place IS NULL", (container,))

    def outcomes(self) -> Iterator[Outcome]:
        """All that was done or failed in this folder, in the order in which it was first found."""
        names = ", ".join(COLUMNS)
        query = f"SELECT {names} FROM results WHERE status IN ('done', 'failed') ORDER BY rowid"  # noqa: S608
        for row in self._database.execute(query):
            yield Outcome(*row)

    def commit(self) -> None:
        """Make durable what was recorded."""
        self._database.execute("COMMIT")
        self._database.execute("BEGIN IMMEDIATE")
        self._last_commit = time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.closing(self._database):
            if isinstance(error, sqlite3.Error):
                raise OutputNotWritable(f"cannot write the journal of {self._out}: {error}") from error
            self._database.execute("COMMIT")

    def _commit_now_and_then(self) -> None:
        if time.monotonic() - self._last_commit > _COMMIT_SECONDS:
            self.commit()

    def _begin(self) -> None:
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")  # held until the process ends, however it ends
            self._database.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                self._database.execute(statement)
            (last,) = self._database.execute("SELECT coalesce(max(run), 0) FROM results").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise OutputNotWritable(f"cannot write the journal of {self._out}: {error}") from error
            raise OutputTaken(
                f"another glc batch works in {self._out}: wait for its end, or take another -o"
            ) from error
        except sqlite3.DatabaseError as error:
            raise OutputNotWritable(f"the journal of {self._out} is damaged ({error}): take another -o") from error
        self._run: int = last + 1

    def _require_settings(self, settings: dict[str, str]) -> None:
        before = dict(self._database.execute("SELECT name, value FROM settings").fetchall())
        if not before:
            self._database.executemany("INSERT INTO settings VALUES (?, ?)", settings.items())
            self.commit()
        elif before != settings:
            names = sorted(name for name in before | settings if before.get(name) != settings.get(name))
            told = ", ".join(f"{n} {before.get(n, 'none')} before, {settings.get(n, 'none')} now" for n in names)
            raise OutputTaken(f"{self._out} was begun with other settings ({told}): take another -o")

    def _new_place(self, found: Found, ending: str) -> str:
        for name in output_names(found.stem, found.suffix, ending, found.input):
            inserted = self._database.execute(
                "INSERT OR IGNORE INTO results (input, run, place, status) VALUES (?, ?, ?, 'waiting')",
                (found.input, self._run, name),
            )
            if inserted.rowcount == 1:
                return name
        raise OutputTaken(f"{self._out} has no name left for {found.input}")


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - one of millions
    except OSError:
        return None
