"""The command `glc-bench`: importing a module of commands adds them to the application."""

from __future__ import annotations

from glc.bench import (
    coder,
    compare,
    file_commands,
    half,
    quality_command,
    roofline_command,
    scale,
    service_command,
    stages,
    table,
    threads,
    tiles,
)
from glc.bench.app import app
from glc.runtime.terminal import run

__all__ = [
    "app",
    "coder",
    "compare",
    "file_commands",
    "half",
    "main",
    "quality_command",
    "roofline_command",
    "scale",
    "service_command",
    "stages",
    "table",
    "threads",
    "tiles",
]


def main() -> None:
    """Entry point of `glc-bench`."""
    run(app, "glc-bench")
