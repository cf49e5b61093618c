"""Pictures in every container, and `glc batch` as people run it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.conftest import load_image
from typer.testing import CliRunner

import glc
import glc.batch.command  # adds it to the app
from glc.errors import GlcError
from glc.runtime.command import app

PHOTO = load_image("coffee_200x300.png")

GLC = (sys.executable, "-c", "from glc import commands; commands.glc()")
"""The console script, from the tree that is tested."""


def pixels(number: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A piece of a photograph, another one for every number."""
    top, left = (7 * number) % (200 - height), (11 * number) % (300 - width)
    return PHOTO[top : top + height, left : left + width]


def image_bytes(number: int, kind: str = "PNG") -> bytes:
    """The piece as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, format=kind)
    return buffer.getvalue()


def write(files: Mapping[Path, bytes]) -> None:
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: Any = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def table(out: Path) -> dict[str, dict[str, Any]]:
    """Rows of results.parquet by input; each input has one."""
    rows = pq.read_table(out / "results.parquet").to_pylist()
    by_input = {row["input"]: row for row in rows}
    assert len(by_input) == len(rows)
    return by_input


def outputs(out: Path) -> dict[str, bytes]:
    """Relative path -> contents of all that lies in the output folder but the table and the journal."""
    paths = (path for path in out.rglob("*") if path.is_file() and path.name != "results.parquet")
    return {
        name: path.read_bytes()
        for path in paths
        if not (name := path.relative_to(out).as_posix()).startswith(".glc-batch/")
    }


def wait_for_outputs(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until so many are there, or the process has ended."""
    end = time.monotonic() + 120
    while len(outputs(out)) < count and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)


@dataclass(frozen=True)
class Run:
    """What came of one command."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def demo() -> Iterator[glc.Codec]:
    """The demonstration model with one thread, as `glc batch` opens it."""
    with glc.Codec.open(threads=1) as codec:
        yield codec


@pytest.fixture
def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "GLC_BUNDLE"}


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[..., Run]:
    """`glc batch` in an empty folder and in this process; what `terminal.run` makes of errors is tested there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLC_BUNDLE", raising=False)

    def call(*arguments: str | Path) -> Run:
        caplog.clear()
        with caplog.at_level("INFO", "glc"):
            result = CliRunner().invoke(app, ["batch", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit | GlcError):
            raise result.exception
        told = f"{result.exception}" if isinstance(result.exception, GlcError) else result.stderr + caplog.text
        return Run(result.exit_code, result.stdout, told)

    return call


@contextlib.contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own; nothing of the group is left when the block ends."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
