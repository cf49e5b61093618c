"""A function over many items with a bounded number under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_parallel(function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> list[_Result]:
    """Results in the order of the items; the first error ends the work.

    Args:
        function: may run in several threads at once.
        items: read when there is room for them, so that a long source is never held whole.
        workers: threads; with one, the caller's own.

    Raises:
        ValueError: workers is not positive.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1; got {workers}")
    if workers == 1:
        return [function(item) for item in items]
    results: list[_Result] = []
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    results.append(waiting.popleft().result())
            while waiting:
                results.append(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()
    return results
