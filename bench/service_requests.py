"""Requests to a service, kind and hostile: what each sends, and how it must be answered."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from glc.runtime.codec import Codec
from glc.runtime.images import encode_image, read_image

CLOSED = 0
"""Stands for a status where the service closed the connection without an answer."""

MAX_BODY_BYTES = 1 << 20
"""`--max-body` of the service that is asked."""

_PATIENCE_S = 120
_HUGE_HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * (1 << 20) + b"\r\n\r\n"
_SLOW_HEAD = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n\x89PNG"


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A service, and what is sent to it."""

    port: int
    image: bytes
    """A PNG file."""
    stream: bytes
    """Its bitstream."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to ask."""

    name: str
    send: Callable[[Target], int]
    """Returns the status."""
    right: frozenset[int]
    """Statuses that are right, beside 503."""


def kind_requests() -> tuple[Kind, ...]:
    """What a service is for."""
    done = frozenset({200})
    return (
        Kind("encode", lambda to: _post(to, "/encode", to.image), done),
        Kind("decode", lambda to: _post(to, "/decode", to.stream), done),
        Kind("preview", lambda to: _post(to, "/preview", to.stream[:-10]), done),
    )


def hostile_requests() -> tuple[Kind, ...]:
    """What a service must refuse."""
    return (
        Kind("wrong type", lambda to: _post(to, "/encode", b"GIF89a" + bytes(1000)), frozenset({415})),
        Kind("truncated image", lambda to: _post(to, "/encode", to.image[:-100]), frozenset({422})),
        Kind("truncated bitstream", lambda to: _post(to, "/decode", to.stream[:-20]), frozenset({422})),
        Kind("oversized, declared", lambda to: _post(to, "/encode", bytes(MAX_BODY_BYTES + 1)), frozenset({413})),
        Kind("oversized, in chunks", lambda to: _post(to, "/encode", _pieces()), frozenset({413})),
        # Closing with the rest of the head unread resets the connection, which may overtake the answer.
        Kind("huge header", lambda to: _raw(to, _HUGE_HEAD), frozenset({400, CLOSED})),
        Kind("slow sender", lambda to: _raw(to, _SLOW_HEAD), frozenset({408})),
    )


def new_target(port: int, photo: Path, side: int) -> Target:
    """What to send: a square of a photograph, and its bitstream by the default model.

    Args:
        port: of the service, on loopback.
        photo: an image file.
        side: of the square in pixels.
    """
    pixels = read_image(photo, 1 << 27).pixels[:side, :side]
    with Codec.open(threads=1) as codec:
        return Target(port, encode_image(pixels, Path("image.png")), codec.encode(pixels))


def _post(to: Target, path: str, body: bytes | Iterable[bytes]) -> int:
    """Status of an answer, whose body must be what it says where it is an image."""
    connection = http.client.HTTPConnection("127.0.0.1", to.port, timeout=_PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("POST", path, body, encode_chunked=not isinstance(body, bytes))
        answer = connection.getresponse()
        content = answer.read()
    if answer.status == http.HTTPStatus.OK and answer.getheader("Content-Type") == "image/png":
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    return answer.status


def _pieces() -> Iterable[bytes]:
    return (bytes(1 << 16) for _ in range(MAX_BODY_BYTES // (1 << 16) + 1))


def _raw(to: Target, data: bytes) -> int:
    """Status of what comes back for bytes that are sent as they are."""
    answer = b""
    with socket.create_connection(("127.0.0.1", to.port), timeout=_PATIENCE_S) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                answer += piece
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else CLOSED
