"""Turns, spreads and what two measurements of one thing say of the machine."""

from __future__ import annotations

import functools

import pytest

from glc.bench.timing import Spread, disagreement, take_turns


def test_rows_take_turns_and_the_first_turn_is_dropped() -> None:
    calls: list[str] = []

    def call(name: str) -> int:
        calls.append(name)
        return len(calls)

    runs = {name: functools.partial(call, name) for name in "ab"}
    assert take_turns(runs, 2) == {"a": [3, 5], "b": [4, 6]}
    assert calls == ["a", "b"] * 3
    assert take_turns(runs, 1, dropped=0) == {"a": [7], "b": [8]}


def test_medians_and_percentiles_are_of_the_samples() -> None:
    spread = Spread(tuple(float(n) for n in range(1, 102)))
    assert (spread.median_ms, spread.p95_ms, spread.least_ms) == (51.0, 96.0, 1.0)


def test_disagreement_is_a_part_of_the_smaller_median() -> None:
    assert disagreement(Spread((10.0,)), Spread((10.5,))) == pytest.approx(0.05)
    assert disagreement(Spread((10.5,)), Spread((10.0,))) == pytest.approx(0.05)
    assert disagreement(Spread((7.0,)), Spread((7.0,))) == 0
