"""The codec behind a Triton Inference Server: python examples/triton/server.py --http-port 8000"""

from __future__ import annotations

import argparse
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from service import CodecService

import glc

INSTANCES = 2
"""Batches under way of each model: while the last item of one is computed, those of the next keep the pool at work."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve glc_encode and glc_decode.")
    parser.add_argument("--bundle", help="as Codec.open; by default the demonstration model")
    parser.add_argument("--engine", help="as Codec.open; by default the fastest that is here and exact")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="images under way at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one image")
    parser.add_argument("--max-pixels", type=int, default=1 << 24, help="refuse larger images")
    parser.add_argument("--max-batch", type=int, default=8, help="items of one batch at most")
    parser.add_argument("--queue-delay-ms", type=float, default=2, help="how long a request may wait for others")
    parser.add_argument("--address", default="127.0.0.1", help="0.0.0.0 serves other machines too")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    return parser.parse_args()


def triton_config(options: argparse.Namespace) -> TritonConfig:
    return TritonConfig(
        http_address=options.address,
        http_port=options.http_port,
        grpc_address=options.address,
        grpc_port=options.grpc_port,
        metrics_address=options.address,
        metrics_port=options.metrics_port,
        exit_timeout_secs=30,  # requests under way when a signal comes are answered
    )


def model_config(options: argparse.Namespace) -> ModelConfig:
    batcher = DynamicBatcher(
        max_queue_delay_microseconds=round(1000 * options.queue_delay_ms),
        preferred_batch_size=[options.max_batch],
    )
    return ModelConfig(max_batch_size=options.max_batch, batcher=batcher)


def bind(triton: Triton, service: CodecService, config: ModelConfig) -> None:
    error = Tensor(name="error", dtype=bytes, shape=(1,))
    image, stream = (Tensor(name=name, dtype=bytes, shape=(1,)) for name in ("image", "stream"))
    quality = Tensor(name="quality", dtype=np.float32, shape=(1,), optional=True)
    triton.bind(
        "glc_encode", [service.encode] * INSTANCES, [image, quality], [stream, error], config=config, strict=True
    )
    triton.bind("glc_decode", [service.decode] * INSTANCES, [stream], [image, error], config=config, strict=True)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops in order, as Ctrl-C does
    options = arguments()
    with (
        glc.Codec.open(
            options.bundle, engine=options.engine, threads=options.threads, max_pixels=options.max_pixels
        ) as codec,
        ThreadPoolExecutor(options.workers) as pool,
        Triton(config=triton_config(options)) as triton,
    ):
        codec.warm_up()
        bind(triton, CodecService(codec, pool, options.max_pixels), model_config(options))
        triton.serve()


if __name__ == "__main__":
    main()
