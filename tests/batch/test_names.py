"""Names of outputs: inside the output folder, printable, and no two the same."""

from __future__ import annotations

import os
import string
from itertools import islice
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glc.batch.names import output_names, relative_name, shown_name, split_ending


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("cats/a b.png", "cats/a b.png"),
        ("../../etc/passwd", "etc/passwd"),
        ("/abs/x", "abs/x"),
        ("C:\\x\\..\\y", "C_/x/y"),
        (".glc-batch/journal.sqlite", "_glc-batch/journal.sqlite"),
        ("results.parquet/a", "_results.parquet/a"),
        ("Results.Parquet", "_Results.Parquet"),
        ("a\x00b\n\x1b[2Jc", "a_b__[2Jc"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("写真/é.png", "写真/é.png"),
        (os.fsdecode(b"bad\xff.png"), "bad_.png"),
    ],
)
def test_relative_name(name: str, kept: str) -> None:
    assert relative_name(name) == kept


@given(st.text(alphabet=[*"./\\:~ \x00\n", *string.ascii_letters[:4], "é", "\udcff"], max_size=700))
def test_no_name_leaves_the_folder_or_is_too_long(name: str) -> None:
    kept = PurePosixPath(relative_name(name))
    assert not kept.is_absolute()
    assert all(not part.startswith(".") and part.isprintable() for part in kept.parts)
    assert max(len(part.encode()) for part in kept.parts) <= 200
    assert relative_name(str(kept)) == str(kept)


def test_long_names_that_differ_at_their_end_stay_different() -> None:
    one, other = (relative_name("x" * 300 + end + ".png") for end in "ab")
    assert one != other
    assert one.endswith(".png")


def test_an_ending_is_cut_off_only_where_it_is_one() -> None:
    assert split_ending("a/b.c.PNG", frozenset((".png",))) == ("a/b.c", ".PNG")
    assert split_ending("a/v1.5", frozenset((".png",))) == ("a/v1.5", "")


def test_the_third_choice_of_a_name_and_all_later_ones_are_the_inputs_own() -> None:
    first = list(islice(output_names("a", ".png", ".glc", "/photos/a.png"), 5))
    other = list(islice(output_names("a", ".png", ".glc", "/other/a.png"), 5))
    assert first[:2] == other[:2] == ["a.glc", "a.png.glc"]
    assert len({*first[2:], *other[2:]}) == 6


def test_bytes_that_are_no_utf8_are_shown() -> None:
    assert shown_name(os.fsdecode(b"bad\xff.png")) == "bad\\xff.png"
