"""The bounded pool: who is let in, who codes, and who has waited long enough."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from glc.service.limits import Limits
from glc.service.problems import Busy

_Result = TypeVar("_Result")


class WorkPool:
    """Threads that code images; a request holds a place from when its body is there until no thread works for it.

    A thread cannot be stopped. A request that gives up while its image is coded leaves its place taken, so that the
    bound on memory holds.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix="glc-serve")
        self._counting = threading.Lock()
        self._taken = 0
        self._running = 0

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return self._taken

    @property
    def running(self) -> int:
        """Threads that work."""
        return self._running

    def require_room(self) -> None:
        """Refuse a request that would find no place now.

        Raises:
            Busy: all places are taken.
        """
        if self._taken >= self._limits.admitted:
            raise Busy("queue_full", f"All {self._limits.admitted} places are taken; try again in a moment.")

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """Let a request in.

        Raises:
            Busy: all places are taken.
        """
        with self._counting:
            self.require_room()
            self._taken += 1
        place = Place(self)
        try:
            yield place
        finally:
            if place.job is None:
                self._free()
            else:
                place.job.add_done_callback(lambda _: self._free())  # at once where it is done

    def submit(self, work: Callable[[], _Result]) -> Future[_Result]:
        """Queue work; `Place.run` does."""
        return self._threads.submit(self._counted, work)

    def close(self) -> None:
        """Wait for what runs; what waits is dropped."""
        self._threads.shutdown(cancel_futures=True)

    def _counted(self, work: Callable[[], _Result]) -> _Result:
        with self._counting:
            self._running += 1
        try:
            return work()
        finally:
            with self._counting:
                self._running -= 1

    def _free(self) -> None:
        with self._counting:
            self._taken -= 1


class Place:
    """One request in the pool."""

    def __init__(self, pool: WorkPool) -> None:
        self._pool = pool
        self.job: Future[Any] | None = None
        """What a thread does for the request."""

    async def run(self, work: Callable[[], _Result], request: Request, deadline_s: float) -> _Result:
        """Do the work in a thread.

        Args:
            work: called once, or never if the client leaves or the time is up while it waits.
            request: whose body has been read.
            deadline_s: time of the event loop's clock.

        Raises:
            Busy: the time is up.
            ClientDisconnect: the client left.
        """
        job = self._pool.submit(work)
        self.job = job
        done = asyncio.wrap_future(job)
        gone = asyncio.ensure_future(_departure(request))
        either: set[asyncio.Future[Any]] = {done, gone}
        patience_s = deadline_s - asyncio.get_running_loop().time()
        try:
            ended, _ = await asyncio.wait(either, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if done in ended:
                return done.result()
        finally:
            gone.cancel()
            done.cancel()  # drops what still waits
        if gone in ended:
            raise ClientDisconnect
        raise Busy("too_slow", "The time for one request is up; the service is busy or the image large.")


async def _departure(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
