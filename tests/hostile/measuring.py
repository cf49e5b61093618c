"""One call into the library under test: what came back, how long it took, how much memory it took."""

from __future__ import annotations

import dataclasses
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from glc.errors import GlcError

LONGEST_MS = 2000.0
"""A call that takes longer, and does so when it is repeated, hangs."""

_LONGEST_MESSAGE = 1000

Size = tuple[int, int]
"""Height and width."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one case did."""

    label: str
    """What `--only` takes: s and the number of a stream, b and that of a bundle."""
    kind: str
    """Mutations that made it."""
    results: tuple[tuple[str, str], ...] = ()
    """Call -> class of its exception, or what it returned."""
    slowest_ms: float = 0
    peak_bytes: int = 0
    """Most memory that one call took of Python and numpy."""
    process_bytes: int = 0
    """How far the most memory that the process has had, native code included, lies above what it had at its start."""
    shown: Size = (0, 0)
    """Of the largest image that came back."""
    violations: tuple[str, ...] = ()
    beyond: bool = False
    """Whether the case runs a forged graph whose hash matches: then time, memory and crashes are the engine's own."""


class Prepared(Protocol):
    """A case that was made and not yet run."""

    @property
    def blank(self) -> Outcome:
        """What is known of it before."""
        ...

    def run(self) -> Outcome:
        """Run it, once."""
        ...


@dataclass(frozen=True, slots=True)
class Measured(Generic[_Value]):
    """One call."""

    name: str
    value: _Value | None
    error: BaseException | None
    duration_ms: float
    peak_bytes: int

    @property
    def result(self) -> str:
        """Class of the exception, or that there was none."""
        return "returned" if self.error is None else type(self.error).__name__

    def complaints(self) -> list[str]:
        """What no call may do, whatever it is given: raise anything but GlcError, or one that cannot be printed."""
        if self.error is None:
            return []
        message = ascii(str(self.error))[:200]
        if not isinstance(self.error, GlcError):
            return [f"{self.name} raised {type(self.error).__name__}: {message}"]
        if not str(self.error).isprintable():
            return [f"{self.name}: the message of {self.result} is not one printable line: {message}"]
        if len(str(self.error)) > _LONGEST_MESSAGE:
            return [f"{self.name}: the message of {self.result} has {len(str(self.error))} characters: {message}"]
        return []

    def hangs(self) -> list[str]:
        """The complaint about a call that takes too long."""
        if self.duration_ms <= LONGEST_MS:
            return []
        return [f"{self.name} took {self.duration_ms:.0f} ms, twice"]


@contextmanager
def traced() -> Iterator[None]:
    """Trace memory, and take warnings for errors, as the test run does."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        tracemalloc.stop()


def measured(name: str, call: Callable[[], _Value]) -> Measured[_Value]:
    """Run a call; a slow one twice, since a busy machine is slow once and a hang always."""
    first = _measured_once(name, call)
    if first.duration_ms <= LONGEST_MS:
        return first
    again = _measured_once(name, call)
    return min(first, again, key=lambda one: one.duration_ms)


def finished(
    blank: Outcome, answers: Sequence[Measured[Any]], violations: Sequence[str], shown: Size, start_bytes: int
) -> Outcome:
    """The outcome of a case from the answers to its calls."""
    return dataclasses.replace(
        blank,
        results=tuple((answer.name, answer.result) for answer in answers),
        slowest_ms=max(answer.duration_ms for answer in answers),
        peak_bytes=max(answer.peak_bytes for answer in answers),
        process_bytes=process_peak_bytes() - start_bytes,
        shown=shown,
        violations=tuple(violations),
    )


def process_peak_bytes() -> int:
    """Most memory that this process has had since it started its program; 0 where the system does not tell.

    Not ru_maxrss: a child's starts at what its parent had.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def _measured_once(name: str, call: Callable[[], _Value]) -> Measured[_Value]:
    value, raised = None, None
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    start = time.perf_counter()
    try:
        value = call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raised = error
    duration_ms = 1e3 * (time.perf_counter() - start)
    return Measured(name, value, raised, duration_ms, tracemalloc.get_traced_memory()[1] - before)
