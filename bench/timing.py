"""Timing on machines that are noisy: rows take turns, so that a slow moment meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numpy as np

_Result = TypeVar("_Result")

AGREEMENT = 0.05
"""Two measurements of one thing may differ by this much; beyond, the machine is too noisy to tell."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Durations of one thing in milliseconds."""

    samples_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The middle one."""
        return median(self.samples_ms)

    @property
    def p95_ms(self) -> float:
        """Linear between the samples around it."""
        return float(np.percentile(self.samples_ms, 95))

    @property
    def least_ms(self) -> float:
        """The shortest: what other work on the machine disturbed least."""
        return min(self.samples_ms)


def take_turns(
    runs: Mapping[str, Callable[[], _Result]], repetitions: int, *, dropped: int = 1
) -> dict[str, list[_Result]]:
    """Call each in turn, again and again; what the first turns give is dropped.

    Args:
        runs: name -> what to call.
        repetitions: turns that count, at least 1.
        dropped: turns before those; none for what has been called before.

    Returns:
        Name -> results, in order.
    """
    results: dict[str, list[_Result]] = {name: [] for name in runs}
    for turn in range(dropped + repetitions):
        for name, call in runs.items():
            result = call()
            if turn >= dropped:
                results[name].append(result)
    return results


def milliseconds(call: Callable[[], object]) -> float:
    """Duration of one call."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def disagreement(first: Spread, second: Spread) -> float:
    """How far the medians of two measurements of the same thing lie apart, as a part of the smaller one."""
    low, high = sorted((first.median_ms, second.median_ms))
    return high / low - 1
