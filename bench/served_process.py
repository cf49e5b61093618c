"""`glc serve` in a process of its own, and what it takes."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

_GLC = (sys.executable, "-c", "from glc import commands; commands.glc()")
_STOP_S = 60


@dataclass(frozen=True, slots=True, eq=False)
class ServedProcess:
    """A service that runs."""

    process: subprocess.Popen[str]
    port: int

    def memory_bytes(self) -> int:
        """Resident memory now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def stop(self) -> int:
        """Ask it to end, as a service manager does; returns its exit status."""
        self.process.terminate()
        return self.process.wait(_STOP_S)


@contextlib.contextmanager
def served_process(options: Sequence[str]) -> Iterator[ServedProcess]:
    """Start `glc serve` on a free port of loopback; it is there when the block begins, and gone behind it.

    Args:
        options: of `glc serve`, but for the port.

    Raises:
        subprocess.CalledProcessError: it ended before it served; its words are on stderr.
    """
    command = [*_GLC, "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
        try:
            yield ServedProcess(process, _port(process))
        finally:
            process.kill()


def _port(process: subprocess.Popen[str]) -> int:
    """Read its log until it serves. What it logs later is little and fits into the pipe."""
    told = ""
    for line in process.stderr or ():
        told += line
        if found := re.search(r"http://\S+:(\d+) serves ", line):
            return int(found[1])
    sys.stderr.write(told)
    raise subprocess.CalledProcessError(process.wait(), "glc serve")
