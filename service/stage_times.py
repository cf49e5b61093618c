"""How long each stage of one image took, though threads share the codec that tells it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator


class StageTimes:
    """Collects what a codec's `on_stage` says, for each thread apart."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def add(self, stage: str, duration_ms: float) -> None:
        """Take down a stage of this thread; stages of one name add up. For `Codec.open(on_stage=...)`."""
        times: dict[str, float] | None = getattr(self._of_thread, "times", None)
        if times is not None:
            times[stage] = times.get(stage, 0.0) + duration_ms

    @contextlib.contextmanager
    def collected(self) -> Iterator[dict[str, float]]:
        """Stages of this thread in the block, in milliseconds and in their order; the dict fills as they end."""
        times: dict[str, float] = {}
        self._of_thread.times = times
        try:
            yield times
        finally:
            self._of_thread.times = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of our own, such as unpacking a PNG."""
        start = time.perf_counter()
        yield
        self.add(name, 1e3 * (time.perf_counter() - start))
