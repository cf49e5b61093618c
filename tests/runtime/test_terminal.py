"""What options may say."""

from __future__ import annotations

import pytest
import typer

from glc.runtime.terminal import parsed_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("4G", 4 << 30), ("1.5g", 3 << 29), ("800M", 800 << 20), ("64KiB", 64 << 10), ("2GB", 2 << 30)],
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert parsed_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "4T", "G", "1e9", "4 G", "nan", "0.4", "\u0664G"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="such as 4G"):
        parsed_bytes(text)
