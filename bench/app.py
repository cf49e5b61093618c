"""The application `glc-bench`; each module of measurements adds its command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glc.runtime.terminal import new_app

app = new_app("Measure speed, files and start-up. Tables on stdout; the last line is one JSON document.")

BundleOption = Annotated[Path, typer.Option("--bundle", "-b", envvar="GLC_BUNDLE", help="Bundle to measure.")]
SizeOption = Annotated[str, typer.Option("--size", help="Height x width of the image in pixels.")]


def parsed_size(text: str) -> tuple[int, int]:
    """Height and width of an option such as 512x768.

    Raises:
        typer.BadParameter: it is no size.
    """
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise typer.BadParameter(f"a size is {text!r}; expected height x width, such as 512x768")
    return int(height), int(width)
