"""The exception tree and the text that describes it."""

from __future__ import annotations

import inspect
import re

import glc.errors
from glc.errors import GlcError

CLASSES = {
    name: value for name, value in vars(glc.errors).items() if inspect.isclass(value) and issubclass(value, GlcError)
}


def test_the_text_at_the_top_of_the_module_is_the_tree() -> None:
    parents: dict[str, str] = {}
    branch = twig = "GlcError"
    for line in (glc.errors.__doc__ or "").splitlines():
        if match := re.match(r"[├└]── (\w+)", line):
            branch = match[1]
            parents[branch] = "GlcError"
        elif match := re.match(r"[│ ]   [├└]── (\w+)  +\S", line):
            twig = match[1]
            parents[twig] = branch
        elif match := re.match(r"[│ ]   [│ ]   [├└]── (\w+)  +\S", line):
            parents[match[1]] = twig
    assert parents == {name: value.__mro__[1].__name__ for name, value in CLASSES.items() if value is not GlcError}


def test_every_error_says_what_it_means() -> None:
    assert all(value.__doc__ for value in CLASSES.values())
