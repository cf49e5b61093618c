"""How long a process takes before it does anything: imports, `glc info`, the first image."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class StartupRow:
    """One command, timed in fresh processes."""

    what: str
    median_ms: float
    largest_ms: float


def measure_startup(bundle: Path, image: Path, repetitions: int) -> list[StartupRow]:
    """Time fresh processes, interleaved, so that a slow moment of the machine meets all of them alike.

    Args:
        bundle: to open.
        image: to encode and decode.
        repetitions: timed runs of each command, after one that is not counted.

    Raises:
        subprocess.CalledProcessError: a command failed.
    """
    glc = [sys.executable, "-m", "glc.runtime"]
    encode = (
        f"import glc, numpy as np, PIL.Image; c = glc.Codec.open({str(bundle)!r}); "
        f"c.decode(c.encode(np.asarray(PIL.Image.open({str(image)!r}).convert('RGB'))))"
    )
    commands = {
        "import numpy": [sys.executable, "-c", "import numpy"],
        "import glc": [sys.executable, "-c", "import glc"],
        "glc info bundle": [*glc, "info", str(bundle)],
        "open, encode and decode one image": [sys.executable, "-c", encode],
    }
    times: dict[str, list[float]] = {what: [] for what in commands}
    for repetition in range(repetitions + 1):
        for what, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own commands
            if repetition:  # the first one warms the file cache
                times[what].append(1e3 * (time.perf_counter() - start))
    return [StartupRow(what, median(spent), max(spent)) for what, spent in times.items()]
