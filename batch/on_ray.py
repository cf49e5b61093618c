"""The same batch on a Ray cluster: tasks go out as a table of places, actors with a codec each do them.

Contents never pass through this process: every machine reads inputs and writes outputs itself, so that both folders,
and the bundle, must lie where all of them see them under the same names.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import signal
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from ray.exceptions import RayError

from glc import errors
from glc.batch.containers import Place
from glc.batch.journal import Outcome, Task
from glc.batch.work import Work, Worker
from glc.engines import GPU_ENGINES
from glc.errors import BundleAltered, EngineFailed, EngineUnavailable, GlcError, OutputNotWritable
from glc.runtime.codec import Codec
from glc.runtime.messages import one_line

LOCAL = "local"
"""In place of an address: a cluster of this machine alone, started and stopped with the batch."""

_TASKS_PER_CHUNK = 64
"""An actor takes a chunk at a time: a row group of a file of tasks."""
_TASKS_PER_FILE = 64 * _TASKS_PER_CHUNK
_OUTCOMES_AT_ONCE = 8
_NO_INPUT = ""
"""In place of an input: the row says what keeps the actor from doing any."""
_LOCAL_STORE_BYTES = 128 << 20
"""Object store of a local cluster: places and outcomes alone go through it."""

_OUTCOMES = pa.schema(
    [
        *((name, pa.string()) for name in ("input", "output")),
        *((name, pa.int64()) for name in ("width", "height", "bytes")),
        *((name, pa.float64()) for name in ("bpp", "quality", "milliseconds")),
        *((name, pa.string()) for name in ("status", "error", "message", "sha256")),
        ("output_bytes", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where a batch runs, and what an actor there opens."""

    address: str
    """Of a Ray cluster, or `LOCAL`."""
    actors: int | None
    """None takes as many as the cluster has processors for."""
    bundle: str | None
    """None is the default bundle, wherever each machine has it."""
    engine: str | None
    threads: int
    """Processors of one actor."""
    precision: str | None
    max_pixels: int
    memory_limit_bytes: int | None
    """Of an actor."""
    model_id: str
    """Of the bundle; an actor refuses another one."""


def on_ray(
    cluster: Cluster, work: Work, tasks: Iterator[Task], out: Path, scratch: Path
) -> Generator[Outcome, None, None]:
    """Do tasks on a Ray cluster; outcomes come as they are ready. All tasks are listed before the first is done.

    Raises:
        EngineUnavailable: there is no cluster at the address.
        OutputNotWritable: nothing can be written any more.
    """
    chunks = _write_tasks(tasks, scratch)
    if not chunks:
        return
    with _connected(cluster):
        processors: float = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
        actors = cluster.actors or max(1, int(processors) // cluster.threads)
        ray.data.DataContext.get_current().target_max_block_size = 1  # outcomes come when they are ready, not by the MB
        dataset = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map_batches(
            _Actor,
            fn_constructor_args=(cluster, work, str(out), str(scratch)),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=cluster.threads,
            num_gpus=1 if cluster.engine in GPU_ENGINES else None,
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(chunks))),
        )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            rows: pa.Table = batch
            for row in rows.to_pylist():
                if row["input"] == _NO_INPUT:
                    raise getattr(errors, row["error"])(row["message"])
                yield Outcome(**row)
    for path in {chunk["file"] for chunk in chunks}:
        Path(path).unlink(missing_ok=True)


class _Actor:
    """One codec in a process of the cluster."""

    def __init__(self, cluster: Cluster, work: Work, out: str, scratch: str) -> None:
        self._refusal: GlcError | None = None
        try:
            self._worker = Worker(_codec(cluster), work, Path(out), Path(scratch))
        except GlcError as error:
            self._refusal = error

    def __call__(self, chunks: pa.Table) -> Iterator[pa.Table]:
        """Errors that concern all are told as a row: raised here, Ray would print pages of its own for them."""
        try:
            if self._refusal is not None:
                raise self._refusal
            for chunk in chunks.to_pylist():
                file = pq.ParquetFile(chunk["file"])
                tasks = map(_task, file.read_row_group(chunk["group"]).column("task").to_pylist())
                while some := list(islice(tasks, _OUTCOMES_AT_ONCE)):
                    yield _rows([self._worker(task) for task in some])
        except GlcError as error:
            yield _rows([Outcome(_NO_INPUT, status="failed", error=type(error).__name__, message=str(error))])


def _codec(cluster: Cluster) -> Codec:
    codec = Codec.open(
        cluster.bundle,
        engine=cluster.engine,
        threads=None if cluster.engine in GPU_ENGINES else cluster.threads,
        precision=cluster.precision,
        max_pixels=cluster.max_pixels,
        memory_limit_bytes=cluster.memory_limit_bytes,
    )
    if codec.bundle.manifest.model_id != cluster.model_id:
        named = cluster.bundle or "the default bundle"
        raise BundleAltered(f"{named} is another model on {platform.node()} than where the batch was started")
    return codec


def _rows(outcomes: list[Outcome]) -> pa.Table:
    columns = {name: [getattr(row, name) for row in outcomes] for name in _OUTCOMES.names}
    return pa.table(columns, schema=_OUTCOMES)


def _write_tasks(tasks: Iterator[Task], folder: Path) -> list[dict[str, Any]]:
    """Write tasks down where the cluster reads them, and give the chunks: millions of tasks are thousands of chunks."""
    chunks: list[dict[str, Any]] = []
    schema = pa.schema([("task", pa.string())])
    try:
        while some := list(islice(tasks, _TASKS_PER_FILE)):
            path = folder / f"tasks-{len(chunks):09d}.parquet"
            lines = [json.dumps(asdict(task)) for task in some]
            pq.write_table(pa.table({"task": lines}, schema=schema), path, row_group_size=_TASKS_PER_CHUNK)
            groups = -(-len(some) // _TASKS_PER_CHUNK)
            chunks.extend({"file": str(path), "group": group} for group in range(groups))
    except OSError as error:
        raise OutputNotWritable(f"cannot write {folder}: {error.strerror or error}") from error
    return chunks


def _task(line: str) -> Task:
    fields = json.loads(line)
    return Task(fields["input"], fields["output"], Place(**fields["place"]))


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[None]:
    """A connection to the cluster; the local one lives as long as the block."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    terminated = signal.getsignal(signal.SIGTERM)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local cluster would tell its makers of itself
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings of what Ray Data does are for its makers
    try:
        if cluster.address == LOCAL:
            ray.init(
                address=LOCAL,
                num_cpus=cluster.threads * cluster.actors if cluster.actors else None,
                object_store_memory=_LOCAL_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EngineUnavailable(f"no Ray cluster at {cluster.address!r}: {one_line(error)}") from error
    signal.signal(signal.SIGTERM, terminated)  # Ray's own would end the process where it stands
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    except RayError as error:
        raise EngineFailed(f"the Ray cluster failed: {one_line(error)}") from error
    finally:
        ray.shutdown()
