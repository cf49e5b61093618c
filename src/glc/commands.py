"""Entry points of the commands: which extra is missing is told in one line, before anything heavy is imported."""

from __future__ import annotations

import importlib
import sys

_OF_GLC = ("glc.batch.command", "glc.service.command")
"""Modules that add a command to `glc` when they are imported; light, for every `glc` imports them."""


def glc() -> None:
    """The command `glc`."""
    _run("glc", "glc.runtime.command", "cli,cpu", _OF_GLC)


def glc_export() -> None:
    """The command `glc-export`."""
    _run("glc-export", "glc.export.command", "export")


def glc_bench() -> None:
    """The command `glc-bench`."""
    _run("glc-bench", "glc.bench.command", "bench")


def _run(name: str, module: str, extra: str, further: tuple[str, ...] = ()) -> None:
    try:
        command = importlib.import_module(module)
        for more in further:
            importlib.import_module(more)
    except ModuleNotFoundError as missing:
        sys.exit(f"{name}: error: {missing.name} is not installed; run: pip install 'glc-deploy[{extra}]'")
    command.main()
