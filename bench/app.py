"""The application `glc-bench`; each module of measurements adds its command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glc.runtime.terminal import new_app

app = new_app("Measure speed, files and start-up. Tables on stdout; the last line is one JSON document.")

BundleOption = Annotated[Path, typer.Option("--bundle", "-b", envvar="GLC_BUNDLE", help="Bundle to measure.")]
SizeOption = Annotated[str, typer.Option("--size", help="Height x width of the image in pixels.")]
