"""Words of others are shown short, on one line, and harmless to a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glc.runtime.messages import named, one_line, shown

ODD = ["", "\x1b[2J", "a\nb", "\u202etxt", "\ud800", "\0", "x" * 100_000, "\n" * 100_000]


@pytest.mark.parametrize("text", ODD, ids=lambda text: ascii(text[:9]))
def test_odd_text_is_shown_in_one_short_line(text: str) -> None:
    for found in (shown(text), one_line(text), named(text)):
        assert found.isprintable()
        assert len(found) < 400


def test_plain_text_is_shown_as_it_is() -> None:
    assert shown("glc-bundle") == "'glc-bundle'"
    assert one_line(ValueError("what went wrong")) == "what went wrong"
    assert named("scale_indices") == "scale_indices"


@pytest.mark.parametrize(
    "value",
    [None, 1.5, 10**4000, [0] * 100_000, {"a" * 9999: 1}, json.loads("[" * 500 + "]" * 500)],
    ids=lambda value: type(value).__name__,
)
def test_any_value_is_shown_short(value: Any) -> None:
    assert len(shown(value)) < 400
