"""One image in a fresh process: start-up and peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from glc.bench.memory import peak_memory_bytes

_PROGRAM = "import time; start = time.perf_counter(); from glc.bench.first_image import main; main(start)"


@dataclass(frozen=True, slots=True)
class FirstImage:
    """What a fresh process needs."""

    import_ms: float
    """Until all modules are there, the interpreter's own start not counted."""
    open_ms: float
    """Until every network is loaded."""
    encode_ms: float
    decode_ms: float
    peak_bytes: int
    """Largest resident memory of the process."""


@dataclass(frozen=True, slots=True)
class FirstImageSpec:
    """What the process runs."""

    bundle: str
    checkpoint: str | None
    """For torch; None for an engine."""
    engine: str
    """Name of an engine, or a mode of torch."""
    precision: str | None
    threads: int | None
    """Of the CPU; None for an engine on a GPU."""
    height: int
    width: int
    encoder: str
    decoder: str


def measure_first_image(spec: FirstImageSpec) -> FirstImage:
    """Run a process.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, "-c", _PROGRAM, json.dumps(asdict(spec))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own module
    return FirstImage(**json.loads(done.stdout.splitlines()[-1]))


def main(start: float) -> None:
    """Run the specification in the arguments and print JSON; `start` is when the program began."""
    print(json.dumps(asdict(_run(FirstImageSpec(**json.loads(sys.argv[1])), start))))


def _run(spec: FirstImageSpec, start: float) -> FirstImage:
    import numpy as np

    import glc

    if spec.checkpoint is None:
        imported = time.perf_counter()
        codec = glc.Codec.open(spec.bundle, engine=spec.engine, threads=spec.threads, precision=spec.precision)
    else:
        import torch

        from glc.bench.torch_engine import open_published, published
        from glc.export import load_checkpoint

        imported = time.perf_counter()
        torch.set_num_threads(spec.threads or 1)
        bundle = open_published(spec.bundle)
        codec = glc.Codec(bundle, published(load_checkpoint(spec.checkpoint), bundle, spec.engine))
    with codec:
        codec.warm_up(encoder=spec.encoder, decoder=spec.decoder)
        opened = time.perf_counter()
        rows = np.arange(spec.height, dtype=np.float32)[:, None, None] / spec.height
        columns = np.arange(spec.width, dtype=np.float32)[None, :, None] / spec.width
        image = (255 * np.abs(np.sin(3 * rows + 2 * columns + np.arange(3)))).astype(np.uint8)
        data = codec.encode(image, encoder=spec.encoder)
        encoded = time.perf_counter()
        codec.decode(data, decoder=spec.decoder)
    return FirstImage(
        1e3 * (imported - start),
        1e3 * (opened - imported),
        1e3 * (encoded - opened),
        1e3 * (time.perf_counter() - encoded),
        peak_memory_bytes(),
    )
