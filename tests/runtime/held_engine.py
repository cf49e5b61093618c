"""An engine whose runs wait until a test lets them go, to see what else may go on meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

import glc
from glc.engines import Array, Engine, HostLoader
from glc.engines.ort import OrtLoader
from glc.runtime.default_model import default_bundle

WAIT_S = 60
"""Far beyond what anything here takes."""


class HeldLoader(HostLoader):
    """ONNX Runtime with a gate in front of every run, and of every loading."""

    def __init__(self) -> None:
        self._inner = OrtLoader(1)
        self.name, self.fingerprint = self._inner.name, self._inner.fingerprint
        self.runs, self.loads = Gate(), Gate()
        self.closed: list[Engine] = []
        self.fed: list[Mapping[str, Array]] = []

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        self.loads.pass_through()
        return _HeldEngine(self, self._inner.load(graph, exact=exact))


class Gate:
    """Open, until a test shuts it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._arrived = threading.Semaphore(0)
        self._counting = threading.Lock()
        self.waiting = 0
        self.most_waiting = 0

    def pass_through(self) -> None:
        if self._open.is_set():
            return
        with self._counting:
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
        self._arrived.release()
        assert self._open.wait(WAIT_S)
        with self._counting:
            self.waiting -= 1

    @contextlib.contextmanager
    def shut(self) -> Iterator[None]:
        """Inside, whoever comes waits."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def open(self) -> None:
        self._open.set()

    def await_arrivals(self, count: int) -> None:
        """Wait until so many more wait at the gate."""
        for _ in range(count):
            assert self._arrived.acquire(timeout=WAIT_S)


class _HeldEngine:
    def __init__(self, loader: HeldLoader, inner: Engine) -> None:
        self._loader, self._inner = loader, inner
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._loader.fed.append(feeds)
        self._loader.runs.pass_through()
        return self._inner.run(feeds)

    def close(self) -> None:
        self._loader.closed.append(self)
        self._inner.close()


def held_codec(loader: HeldLoader, async_workers: int = 2) -> glc.Codec:
    """The demonstration model on such an engine."""
    return glc.Codec(glc.Bundle.open(default_bundle()), loader, async_workers=async_workers)
