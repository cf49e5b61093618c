"""Values and words of others in our messages: short, on one line, harmless to a terminal."""

from __future__ import annotations

import reprlib

_MOST_CHARACTERS = 300

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 80
_REPR.maxlevel = 2  # a value may be nested as deep as Python can follow


def shown(value: object) -> str:
    """A value of a JSON document as Python writes it, abridged."""
    return _REPR.repr(value)


def one_line(words: object) -> str:
    """What somebody else wrote, abridged and without what a terminal would obey."""
    text = " ".join(str(words).split())
    text = "".join(c if c.isprintable() else "?" for c in text[: _MOST_CHARACTERS + 1])
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def named(name: str) -> str:
    """A name as it is, unless it is long or cannot be printed."""
    return name if name.isprintable() and len(name) <= 80 else shown(name)
