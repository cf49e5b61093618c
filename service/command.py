"""The command `glc serve`: what it needs beyond the other commands is imported when it runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from glc.engines import GPU_ENGINES, PRECISIONS
from glc.engines.processor import available_threads
from glc.runtime.codec import Codec
from glc.runtime.command import BundlePath, EngineName, MaxMemory, Precision, app
from glc.runtime.messages import one_line
from glc.runtime.terminal import requires_extra
from glc.service import limits as bounds
from glc.service.stage_times import StageTimes

_logger = logging.getLogger(__name__)


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")] = 8000,
    bundle: BundlePath = None,
    engine: EngineName = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads of one image; by default a worker's share.")
    ] = None,
    precision: Precision = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Images coded at once.")] = 2,
    max_body: Annotated[
        int, typer.Option("--max-body", min=1, help="Largest body in bytes.")
    ] = bounds.DEFAULT_MAX_BODY_BYTES,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, help="Refuse larger images.")
    ] = bounds.DEFAULT_MAX_PIXELS,
    max_memory: MaxMemory = None,
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=0, help="Requests that may wait; more are answered 503.")
    ] = bounds.DEFAULT_MAX_QUEUE,
    max_connections: Annotated[
        int, typer.Option("--max-connections", min=1, help="Connections at once.")
    ] = bounds.DEFAULT_MAX_CONNECTIONS,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds for one request.")
    ] = bounds.DEFAULT_TIMEOUT_S,
    receive_timeout: Annotated[
        float, typer.Option("--receive-timeout", min=0.1, help="Seconds for a client to send its request.")
    ] = bounds.DEFAULT_RECEIVE_TIMEOUT_S,
) -> None:
    """Encode and decode over HTTP, with a page to try it: glc serve --bundle model.glcb."""
    if precision is not None and precision not in PRECISIONS:
        raise typer.BadParameter(f"no precision is called {precision!r}; choose one of {', '.join(PRECISIONS)}")
    with requires_extra("serve"):
        from glc.service.application import new_application
        from glc.service.coding import Coder
        from glc.service.server import address_of, bound_socket, new_server, run_server
    limits = bounds.Limits(
        body_bytes=max_body,
        pixels=max_pixels,
        workers=workers,
        queue=max_queue,
        connections=max_connections,
        request_s=timeout,
        receive_s=receive_timeout,
    )
    times = StageTimes()
    with (
        bound_socket(host, port) as listener,
        _opened(bundle, engine, threads, workers, precision, max_pixels, max_memory, times) as codec,
    ):
        _warm_up(codec)
        server = new_server(new_application(Coder(codec, times, max_pixels), limits), limits)
        listener.listen()
        _logger.info(
            "%s serves %s (model %s) on %s; %d workers, %d may wait, bodies to %d bytes, images to %d pixels",
            address_of(listener),
            one_line(codec.bundle.manifest.label),
            codec.bundle.manifest.model_id[:8],
            codec.engine,
            workers,
            max_queue,
            max_body,
            max_pixels,
        )
        run_server(server, listener)
    _logger.info("stopped")


def _opened(
    bundle: Path | None,
    engine: str | None,
    threads: int | None,
    workers: int,
    precision: str | None,
    max_pixels: int,
    max_memory: int | None,
    times: StageTimes,
) -> Codec:
    """With a worker's share of the processors where the user names no threads; engines on a GPU take none.

    Under a limit on memory images pass one at a time, each with all threads.
    """

    def opened(threads: int | None) -> Codec:
        return Codec.open(
            bundle,
            engine=engine,
            threads=threads,
            precision=precision,
            max_pixels=max_pixels,
            memory_limit_bytes=max_memory,
            on_stage=times.add,
        )

    codec = opened(threads)
    if threads is not None or max_memory is not None or codec.engine_name in GPU_ENGINES:
        return codec
    codec.close()
    return opened(max(1, available_threads() // workers))


def _warm_up(codec: Codec) -> None:
    """Load every graph and use it once, so that the first request finds all as the hundredth does."""
    codec.warm_up()
    codec.decode(codec.encode(np.zeros((1, 1, 3), np.uint8)))
