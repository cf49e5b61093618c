"""Calls for event loops: a few threads run them, and whoever awaits one gets its result."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from glc.runtime.lifetime import Lifetime

_Result = TypeVar("_Result")


class Background:
    """A bounded number of threads, started when they are first needed; event loops and threads share it."""

    def __init__(self, lifetime: Lifetime, workers: int) -> None:
        """Start nothing yet.

        Args:
            lifetime: says when there are no more calls.
            workers: calls that run at once.

        Raises:
            ValueError: workers is not positive.
        """
        if workers < 1:
            raise ValueError(f"async_workers must be at least 1; got {workers}")
        self._lifetime = lifetime
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None
        self._changing = threading.Lock()

    async def run(self, call: Callable[[], _Result]) -> _Result:
        """Await a call; the first to ask is the first to be served.

        What waits is one entry for each coroutine that awaits, so the bound on it is the caller's. Cancelled before
        its turn, a call never runs; cancelled later, it ends in its thread, and nobody sees the result.

        Raises:
            EngineFailed, OpenedBeforeFork: as `Lifetime.call`.
        """
        self._lifetime.require_open()
        with self._changing:
            self._lifetime.require_open()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="glc")
            # What a caller keeps for its task, such as a trace, is there in the thread too.
            future = self._pool.submit(contextvars.copy_context().run, call)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the threads, once `Lifetime` is closed, which refuses the calls that still wait for their turn."""
        with self._changing:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
