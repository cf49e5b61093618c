"""What the journal keeps when its process dies, and how much it may lose."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from glc.batch.containers import Place
from glc.batch.inputs import Found
from glc.batch.journal import Journal, Outcome, Task

SETTINGS = {"model": "abc"}


def _found(name: str) -> Found:
    return Found(f"/photos/{name}.png", name, ".png", Place("file", f"/photos/{name}.png"))


def _do(journal: Journal, out: Path, name: str) -> None:
    task = journal.take(_found(name), ".glc")
    assert isinstance(task, Task)
    (out / task.output).write_bytes(b"12345")
    journal.record(Outcome(task.input, output=task.output, output_bytes=5))


def test_a_kill_costs_what_was_recorded_in_the_last_second_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, killed = tmp_path / "out", tmp_path / "killed"
    with Journal(out, SETTINGS) as journal:
        _do(journal, out, "a")
        later = time.monotonic() + 2
        monkeypatch.setattr(time, "monotonic", lambda: later)
        _do(journal, out, "b")
        _do(journal, out, "c")
        shutil.copytree(out, killed)  # what a kill leaves: the files as they are now
    with Journal(killed, SETTINGS) as journal:
        assert journal.take(_found("a"), ".glc") == "there"
        for name in "bc":
            assert isinstance(journal.take(_found(name), ".glc"), Task)


def test_rows_that_are_not_finished_are_not_in_the_table(tmp_path: Path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        _do(journal, tmp_path, "a")
        assert isinstance(journal.take(_found("b"), ".glc"), Task)
        assert journal.take(_found("b"), ".glc") == "repeated"
        assert [row.input for row in journal.outcomes()] == ["/photos/a.png"]


def test_a_container_that_has_healed_is_no_failure_any_more(tmp_path: Path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        journal.record(Outcome("/shard.tar", status="failed", error="ImageUnreadable", message="cut"))
        _do(journal, tmp_path, "a")
    with Journal(tmp_path, SETTINGS) as journal:
        journal.forget_failure("/shard.tar")
        journal.forget_failure("/photos/a.png")  # is done, and stays
        assert [row.input for row in journal.outcomes()] == ["/photos/a.png"]
