"""Many clients on one service: how it answers, how long that takes, and whether it keeps memory."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import quantiles

from glc.bench.served_process import ServedProcess
from glc.bench.service_requests import Kind, Target

_HOSTILE_EVERY = 10
_BUSY = 503


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request went."""

    kind: str
    status: int
    duration_ms: float
    right: bool
    """Whether the status is one that this kind must get, or that of a full queue."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Resident memory of the service."""

    requests: int
    """How many it had answered."""
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class KindRow:
    """What came of the requests of one kind."""

    kind: str
    requests: int
    statuses: tuple[tuple[int, int], ...]
    """Status and how often it was answered."""
    wrong: int
    """Answers that this kind must not get."""
    p50_ms: float | None
    """Of those that found a place, as the other percentiles; None of fewer than two."""
    p95_ms: float | None
    p99_ms: float | None


@dataclass(slots=True, eq=False)
class LoadReport:
    """What came of all requests; threads add to it."""

    outcomes: list[Outcome] = field(default_factory=list)
    memory: list[MemorySample] = field(default_factory=list)
    adding: threading.Lock = field(default_factory=threading.Lock)
    duration_s: float = 0.0

    def of_kind(self, name: str) -> KindRow:
        """What came of one kind."""
        return _row(name, [outcome for outcome in self.outcomes if outcome.kind == name])

    def of_all(self) -> KindRow:
        """What came of all requests."""
        return _row("all", self.outcomes)


def mixed(kind: Sequence[Kind], hostile: Sequence[Kind], count: int, seed: int) -> list[Kind]:
    """Requests in their order: each tenth is hostile, every kind of those in turn; the others are drawn."""
    drawn = random.Random(seed)  # noqa: S311 - reproducible, not secret
    return [
        hostile[n // _HOSTILE_EVERY % len(hostile)] if n % _HOSTILE_EVERY == 0 else drawn.choice(kind)
        for n in range(count)
    ]


def measure_load(
    service: ServedProcess, target: Target, requests: Sequence[Kind], clients: int, sample_every: int
) -> LoadReport:
    """Send requests, each client its next one when its last one is answered.

    Args:
        service: where the memory is read.
        target: what is sent where.
        requests: in their order.
        clients: at once. One that finds the queue full waits as long as it is told.
        sample_every: requests between two readings of the memory.

    Raises:
        OSError: the service is gone.
    """
    report = LoadReport(memory=[MemorySample(0, service.memory_bytes())])

    def send(kind: Kind) -> None:
        start_s = time.perf_counter()
        status = kind.send(target)
        duration_ms = 1e3 * (time.perf_counter() - start_s)
        with report.adding:
            report.outcomes.append(Outcome(kind.name, status, duration_ms, status in kind.right | {_BUSY}))
            if len(report.outcomes) % sample_every == 0 or len(report.outcomes) == len(requests):
                report.memory.append(MemorySample(len(report.outcomes), service.memory_bytes()))
        if status == _BUSY:
            time.sleep(1)  # the service's Retry-After

    start_s = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(send, requests))
    report.duration_s = time.perf_counter() - start_s
    return report


def _row(name: str, outcomes: Sequence[Outcome]) -> KindRow:
    times = [outcome.duration_ms for outcome in outcomes if outcome.status != _BUSY]
    cuts = quantiles(times, n=100, method="inclusive") if len(times) > 1 else None
    return KindRow(
        kind=name,
        requests=len(outcomes),
        statuses=tuple(sorted(Counter(outcome.status for outcome in outcomes).items())),
        wrong=sum(not outcome.right for outcome in outcomes),
        p50_ms=None if cuts is None else cuts[49],
        p95_ms=None if cuts is None else cuts[94],
        p99_ms=None if cuts is None else cuts[98],
    )
