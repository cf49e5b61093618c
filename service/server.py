"""From an application to a server: the socket, uvicorn's settings and a clean end."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import signal
import socket
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from glc.errors import AddressUnavailable
from glc.service.connection import BoundedConnection
from glc.service.limits import Limits

_MAX_HEAD_BYTES = 16 << 10
_KEEP_ALIVE_S = 5
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at an address, which does not listen yet.

    Args:
        host: a name or an address of this machine.
        port: 0 for any that is free.

    Raises:
        AddressUnavailable: it is taken, not of this machine, or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressUnavailable(f"cannot listen on {host}: {error.strerror or error}") from error
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            words = f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another with --port"
            raise AddressUnavailable(words) from error
        yield listener


def address_of(listener: socket.socket) -> str:
    """The URL that a socket answers to."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def new_server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """A server that has not started; it stops by itself once its `should_exit` is set."""
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # strangers' mistakes are counted, not logged
    connection = functools.partial(BoundedConnection, limits)
    config = uvicorn.Config(
        app,
        http=cast(Any, connection),  # uvicorn calls it as a class
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(limits.request_s + limits.receive_s),
    )
    return uvicorn.Server(config)


def run_server(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C: then nothing new is accepted, and what runs is finished."""
    with _signals_end_quietly():
        server.run([listener])


@contextlib.contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """After it has obeyed a signal, uvicorn raises it once more, though all that it asks for is done by then."""
    before = {number: signal.signal(number, lambda *_: None) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
