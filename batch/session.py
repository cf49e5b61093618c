"""What a command line asks for, put together: inputs, the journal, a codec, and threads or a cluster."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from glc.batch.inputs import Inputs, Selection
from glc.batch.job import RunTasks, Tally, in_threads, run_batch
from glc.batch.journal import Journal, Outcome, Task
from glc.batch.progress import shown_progress
from glc.batch.work import IMAGE_ENDINGS, STREAM_ENDING, Encoding, Work, Worker
from glc.engines import GPU_ENGINES, PRECISIONS
from glc.engines.processor import available_threads
from glc.errors import EngineUnavailable, ImageUnreadable
from glc.runtime.bundle import Bundle
from glc.runtime.codec import Codec
from glc.runtime.command import require_known
from glc.runtime.default_model import default_bundle
from glc.runtime.terminal import requires_extra
from glc.runtime.transforms import ANALYSIS, OWN, SYNTHESIS, transforms

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """The options of `glc batch`."""

    inputs: tuple[str, ...]
    out: Path
    work: Work
    bundle: Path | None
    """None is the default bundle."""
    engine: str | None
    threads: int | None
    """None is one for each image under way."""
    precision: str | None
    max_pixels: int
    memory_limit_bytes: int | None
    """Of this process, or of each actor; images of a codec then pass one at a time, with all threads."""
    workers: int | None
    """None is one for each processor."""
    column: str
    key: str | None
    ray: str | None
    """Address of a cluster; None is threads of this process."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the tasks are done."""

    settings: dict[str, str]
    """What the outputs depend on."""
    run_tasks: RunTasks


def run_request(request: Request) -> Tally:
    """Do what is missing.

    Raises:
        typer.BadParameter: an input is not there, the quality is out of range, or there is no such precision.
        GlcError: the bundle, the engine, the cluster or the output folder cannot be used, or nothing was found.
    """
    if request.precision is not None and request.precision not in PRECISIONS:
        raise typer.BadParameter(f"no precision is called {request.precision!r}; choose one of {', '.join(PRECISIONS)}")
    taken = IMAGE_ENDINGS if isinstance(request.work, Encoding) else frozenset((STREAM_ENDING,))
    selection = Selection(taken, request.column, request.key, request.out)

    def inputs() -> Inputs:
        return Inputs(request.inputs, selection)

    try:
        wanted = inputs()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    # Threads cannot each have their own filters: what Pillow says of odd files would come and go.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    open_place = _in_this_process if request.ray is None else _on_cluster
    ending = STREAM_ENDING if isinstance(request.work, Encoding) else request.work.ending
    with (
        open_place(request) as place,
        Journal(request.out, place.settings) as journal,
        shown_progress(inputs, Console(stderr=True)) as on_change,
    ):
        tally = run_batch(wanted, journal, request.out, ending, place.run_tasks, on_change)
    if not tally.found:
        expected = ", ".join(sorted(taken))
        raise ImageUnreadable(f"nothing to do in {', '.join(request.inputs)}; expected files that end in {expected}")
    return tally


@contextlib.contextmanager
def _in_this_process(request: Request) -> Iterator[_Place]:
    with _codec(request) as codec:
        workers = request.workers or _workers(codec, request)

        def run_tasks(tasks: Iterator[Task], scratch: Path) -> Generator[Outcome, None, None]:
            return in_threads(Worker(codec, request.work, request.out, scratch), tasks, workers)

        yield _Place(_settings(request.work, codec.bundle, codec.engine), run_tasks)


@contextlib.contextmanager
def _on_cluster(request: Request) -> Iterator[_Place]:
    with requires_extra("ray"):
        from glc.batch.on_ray import Cluster, on_ray
    path = None if request.bundle is None else str(request.bundle.absolute())
    bundle = Bundle.open(path or default_bundle())
    if bundle.manifest.arithmetic != "exact":
        raise EngineUnavailable("streams in float arithmetic decode only where they were made: run without --ray")
    cluster = Cluster(
        request.ray or "",
        request.workers,
        path,
        request.engine,
        request.threads or 1,
        request.precision,
        request.max_pixels,
        request.memory_limit_bytes,
        bundle.manifest.model_id,
    )

    def run_tasks(tasks: Iterator[Task], scratch: Path) -> Generator[Outcome, None, None]:
        return on_ray(cluster, request.work, tasks, request.out.absolute(), scratch.absolute())

    yield _Place(_settings(request.work, bundle, ""), run_tasks)


def _codec(request: Request) -> Codec:
    """With one thread where the user names none: as many images at once are faster than one with many threads."""

    def opened(threads: int | None) -> Codec:
        return Codec.open(
            request.bundle,
            engine=request.engine,
            threads=threads,
            precision=request.precision,
            max_pixels=request.max_pixels,
            memory_limit_bytes=request.memory_limit_bytes,
        )

    codec = opened(request.threads)
    if request.bundle is None:
        _logger.info("no bundle given: %s", codec.bundle.manifest.label)
    if request.threads is not None or request.memory_limit_bytes is not None or codec.engine_name in GPU_ENGINES:
        return codec
    codec.close()
    return opened(1)


def _workers(codec: Codec, request: Request) -> int:
    """One for each core; on a GPU, or where images pass one at a time, two: one reads and writes meanwhile."""
    if codec.engine_name in GPU_ENGINES or request.memory_limit_bytes is not None:
        return 2
    return max(1, available_threads() // (request.threads or 1))


def _settings(work: Work, bundle: Bundle, engine: str) -> dict[str, str]:
    """Exact arithmetic may change engines within a folder: any of them decodes what the others made.

    The model's own encoder and decoder, and streams that are not progressive, go without saying, as in folders that
    were begun when there were no others.
    """
    highest = bundle.manifest.config.qualities - 1
    if isinstance(work, Encoding) and not 0 <= work.quality <= highest:
        raise typer.BadParameter(f"quality must lie in 0..{highest}; got {work.quality:g}")
    kind, own, name = (
        ("encoder", ANALYSIS, work.encoder) if isinstance(work, Encoding) else ("decoder", SYNTHESIS, work.decoder)
    )
    require_known(f"--{kind}", name, tuple(transforms(bundle.manifest.graphs, own)))
    settings = {"model": bundle.manifest.model_id[:16]}
    if bundle.manifest.arithmetic != "exact":
        settings["engine"] = engine
    if name != OWN:
        settings[kind] = name
    if isinstance(work, Encoding):
        if work.progressive:
            settings["streams"] = "progressive"
        return settings | {"work": "encoding", "quality": f"{work.quality:g}"}
    return settings | {"work": "decoding", "format": work.ending}
