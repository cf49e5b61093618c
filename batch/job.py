"""A batch from beginning to end: inputs are found, those that are missing done, results written down.

inputs --Found--> journal --Task--> workers (threads, or actors of a cluster) --Outcome--> journal --> results.parquet
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from glc.batch.inputs import Inputs, Listed
from glc.batch.journal import Journal, Outcome, Task
from glc.batch.table import write_table
from glc.runtime.messages import one_line

RunTasks = Callable[[Iterator[Task], Path], Generator[Outcome, None, None]]
"""Does tasks, a bounded number at once, and gives outcomes in any order; the folder is for what is being written."""


@dataclass(slots=True)
class Tally:
    """Counts of one run, while it runs and when it is done."""

    done: int = 0
    failed: int = 0
    """Inputs, and folders and containers that cannot be read to their end."""
    there: int = 0
    """Done by an earlier run."""
    repeated: int = 0
    """Named more than once, and done once."""
    passed_over: int = 0
    """Files with other endings."""
    bytes: int = 0
    """Of the bitstreams of this run."""
    pixels: int = 0
    seconds: float = 0.0

    @property
    def found(self) -> int:
        """Inputs that are dealt with."""
        return self.done + self.failed + self.there + self.repeated

    @property
    def images_per_second(self) -> float:
        """Of what this run did or tried."""
        return (self.done + self.failed) / self.seconds if self.seconds else 0.0


def run_batch(
    inputs: Inputs, journal: Journal, out: Path, ending: str, run_tasks: RunTasks, on_change: Callable[[Tally], None]
) -> Tally:
    """Do what is missing, and write the table.

    On any error or interrupt the journal keeps what was done, and another run goes on from there.

    Args:
        inputs: what is wanted.
        journal: of the output folder.
        out: the output folder.
        ending: of outputs, such as `.glc`.
        run_tasks: see `in_threads`.
        on_change: called with the counts when they have changed.

    Raises:
        OutputNotWritable: the outputs, the journal or the table cannot be written.
    """
    begin = time.perf_counter()
    tally = Tally()

    def account(outcome: Outcome) -> None:
        journal.record(outcome)
        if outcome.status == "failed":
            tally.failed += 1
        else:
            tally.done += 1
            tally.bytes += outcome.bytes or 0
            tally.pixels += (outcome.width or 0) * (outcome.height or 0)

    def missing() -> Iterator[Task]:
        for found in inputs:
            if isinstance(found, Listed):
                if found.error is None:
                    journal.forget_failure(found.input)
                else:
                    account(_unreadable(found.input, found.error))
                continue
            task = journal.take(found, ending)
            if isinstance(task, Task):
                yield task
            elif task == "there":
                tally.there += 1
            else:
                tally.repeated += 1
            on_change(tally)

    with contextlib.closing(run_tasks(missing(), journal.scratch)) as outcomes:
        for outcome in outcomes:
            account(outcome)
            tally.seconds = time.perf_counter() - begin
            on_change(tally)
    tally.passed_over = inputs.passed_over
    journal.commit()
    write_table(journal.outcomes(), out, journal.scratch)
    tally.seconds = time.perf_counter() - begin
    return tally


def in_threads(work: Callable[[Task], Outcome], tasks: Iterator[Task], workers: int) -> Generator[Outcome, None, None]:
    """Do tasks in threads of this process.

    Args:
        work: safe to call from several threads.
        tasks: taken as there is room, so that neither they nor their contents are ever held whole.
        workers: threads, each with one task under way.
    """
    under_way: set[Future[Outcome]] = set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                under_way.add(pool.submit(work, task))
                if len(under_way) > 2 * workers:
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while under_way:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            for future in under_way:
                future.cancel()  # the pool waits for those that run


def _unreadable(name: str, error: Exception) -> Outcome:
    return Outcome(name, status="failed", error=type(error).__name__, message=one_line(error))
