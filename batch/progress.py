"""How far a batch has come: a bar on a terminal, a line of the log now and then elsewhere."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from glc.batch.inputs import Found, Inputs
from glc.batch.job import Tally

_LOG_SECONDS = 60.0

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def shown_progress(inputs: Callable[[], Inputs], console: Console) -> Iterator[Callable[[Tally], None]]:
    """Give what is to be called with the counts; the bar stays until the block ends.

    Args:
        inputs: the inputs once more, to be counted in the background: until then the total is not known.
        console: where the bar is drawn, if it is a terminal.
    """
    if not console.is_terminal:
        yield _log_now_and_then()
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    stop = threading.Event()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=None, speed="")

        def count() -> None:
            total = 0
            for found in inputs():
                total += isinstance(found, Found)
                if stop.is_set():
                    return
            progress.update(bar, total=total)

        def update(tally: Tally) -> None:
            progress.update(bar, completed=tally.found, speed=_in_words(tally))

        counter = threading.Thread(target=count)
        counter.start()
        try:
            yield update
        finally:
            stop.set()
            counter.join()


def _log_now_and_then() -> Callable[[Tally], None]:
    last = time.monotonic()

    def log(tally: Tally) -> None:
        nonlocal last
        if time.monotonic() - last > _LOG_SECONDS:
            last = time.monotonic()
            _logger.info("%d done, %s", tally.done + tally.there, _in_words(tally))

    return log


def _in_words(tally: Tally) -> str:
    return f"{tally.images_per_second:.1f} images/s, {tally.failed} failed"
