"""Entry points of the commands: which extra is missing is told in one line, before anything heavy is imported."""

from __future__ import annotations

import importlib
import sys


def glc() -> None:
    """The command `glc`."""
    _run("glc", "glc.runtime.command", "cli,cpu")


def glc_export() -> None:
    """The command `glc-export`."""
    _run("glc-export", "glc.export.command", "export")


def glc_bench() -> None:
    """The command `glc-bench`."""
    _run("glc-bench", "glc.bench.command", "bench")


def _run(name: str, module: str, extra: str) -> None:
    try:
        command = importlib.import_module(module)
    except ModuleNotFoundError as missing:
        sys.exit(f"{name}: error: {missing.name} is not installed; run: pip install 'glc-deploy[{extra}]'")
    command.main()
