"""How the commands of this package meet the terminal: logs, errors and exit codes."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from glc.errors import GlcError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class Interrupted(Exception):
    """Ctrl-C in a command that leaves something behind; the message says what."""


class MissingExtra(Exception):
    """A package that only some commands need is not installed."""


@contextlib.contextmanager
def requires_extra(extra: str) -> Iterator[None]:
    """Around the imports of a command: say in one line which extra of this package brings what is missing.

    Raises:
        MissingExtra: a package cannot be imported.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        words = f"{missing.name} is not installed; run: pip install 'glc-deploy[{extra}]'"
        raise MissingExtra(words) from missing


def run(app: typer.Typer, name: str) -> NoReturn:
    """Run a command line and exit: 0 done, 1 a GlcError in one line, 2 usage, 130 Ctrl-C, 143 SIGTERM."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    logger = logging.getLogger("glc")  # ours alone: libraries have their own opinion of what is worth telling
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # A service manager's SIGTERM unwinds like an interrupt, so that no temporary file stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        app(prog_name=name)
        sys.exit(0)
    except SystemExit as status:  # Typer turns an interrupt into one, without a word
        if status.code == EXIT_INTERRUPTED:
            _complain(name, "interrupted; nothing was written")
        raise
    except GlcError as error:
        _complain(name, f"error: {error}")
        sys.exit(EXIT_ERROR)
    except Interrupted as interrupt:
        _complain(name, f"interrupted; {interrupt}")
        sys.exit(EXIT_INTERRUPTED)
    except MissingExtra as missing:
        _complain(name, f"error: {missing}")
        sys.exit(EXIT_ERROR)
    except BrokenPipeError:
        sys.stderr.close()  # the reader left; Python would complain once more at exit
        sys.exit(EXIT_ERROR)
    except MemoryError:
        _complain(name, "error: not enough memory for this image")
        sys.exit(EXIT_ERROR)


def new_app(help_text: str) -> typer.Typer:
    """A Typer application with the settings that all commands share."""
    return typer.Typer(
        help=help_text,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help and one-line usage errors
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def results_console() -> Console:
    """Standard output for tables; wide where it is not a terminal, so that no column is cut in a file or pipe."""
    return Console(width=None if sys.stdout.isatty() else 160)


def _complain(name: str, message: str) -> None:
    one_line = " ".join(message.split())
    print(f"{name}: {one_line}", file=sys.stderr)


def parsed_size(text: str) -> tuple[int, int]:
    """Height and width of an option such as 512x768.

    Raises:
        typer.BadParameter: it is no size.
    """
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise typer.BadParameter(f"a size is {text!r}; expected height x width, such as 512x768")
    return int(height), int(width)


def parsed_bytes(text: str) -> int:
    """Bytes of an option such as 4G, 1.5G, 800M or 1000000; K, M and G are powers of 1024.

    Raises:
        typer.BadParameter: it is no number of bytes.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)([KMG]?)(?:i?B)?", text, re.IGNORECASE | re.ASCII)
    size = int(float(found[1]) * 1024 ** " KMG".index(found[2].upper() or " ")) if found else 0
    if size < 1:
        raise typer.BadParameter(f"an amount of memory is {text!r}; expected bytes, such as 4G or 800M")
    return size


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[Callable[[float], None]]:
    """Give a function that shows which share of a long work is done, on stderr if that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=1.0, visible=False)
        yield lambda done: progress.update(task, completed=done, visible=True)
