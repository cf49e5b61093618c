"""How long the networks of a codec live: until the last call that uses them ends, and in a forked child for ever."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator

from glc.errors import EngineFailed, OpenedBeforeFork


class Lifetime:
    """Lets calls in until it is closed, and waits for those that are under way. Threads share it."""

    def __init__(self, owner: object) -> None:
        """Begin.

        Args:
            owner: of what an SDK loaded. A child that is forked never frees it.
        """
        self._owner = weakref.ref(owner)
        self._process = os.getpid()
        self._changed = threading.Condition()  # on a lock that a signal handler may take again
        self._under_way: Counter[int] = Counter()
        """Thread -> its calls."""
        self._closed = False
        _ALIVE.add(self)

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Hold off the end while what is inside runs.

        Raises:
            EngineFailed: closed.
            OpenedBeforeFork: this process is a child of the one that began it.
        """
        self.require_open()
        thread = threading.get_ident()
        with self._changed:
            self.require_open()
            self._under_way[thread] += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way[thread] -= 1
                if not self._under_way[thread]:
                    del self._under_way[thread]
                    self._changed.notify_all()

    def require_open(self) -> None:
        """Refuse what comes too late; takes no lock, which in a forked child nobody might give back.

        Raises:
            EngineFailed, OpenedBeforeFork: as `call`.
        """
        if self.is_inherited:
            raise OpenedBeforeFork("this codec was opened before the process forked: open one in the child")
        if self._closed:
            raise EngineFailed("this codec is closed; open it again")

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a child of the one that began it."""
        return os.getpid() != self._process

    def close(self, free: Callable[[], None]) -> None:
        """Let no call in any more, wait for those under way, and free; in a forked child do nothing.

        Args:
            free: called once nothing runs, each time that this is closed.

        Raises:
            RuntimeError: from inside a call, which would wait for itself.
        """
        if self.is_inherited:
            return
        with self._changed:
            if threading.get_ident() in self._under_way:
                raise RuntimeError("a codec cannot be closed from inside one of its own calls")
            self._closed = True
            self._changed.wait_for(lambda: not self._under_way)
        free()


_ALIVE: weakref.WeakSet[Lifetime] = weakref.WeakSet()
"""What a fork must find: it meets the whole process, whoever holds the codecs."""


def _keep_for_ever() -> None:
    """Free nothing that was loaded before a fork: SDKs would wait for threads that only the parent has."""
    for lifetime in _ALIVE:
        owner = lifetime._owner()
        if owner is not None:
            # Any reference that Python knows of is dropped at the end of the interpreter, and with it the engines.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_keep_for_ever)
