"""A service in a thread on the demonstration model, and a client that holds each answer against the document."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.conftest import load_image

import glc
from glc.runtime.bitstream import Form
from glc.runtime.codec import Image as Pixels
from glc.runtime.transforms import OWN
from glc.service.application import new_application
from glc.service.coding import Coder
from glc.service.limits import Limits
from glc.service.server import bound_socket, new_server
from glc.service.stage_times import StageTimes

PIXELS = load_image("coffee_200x300.png")[:64, :96]

LIMITS = Limits(body_bytes=200_000, pixels=100_000, workers=1, queue=3, connections=16, request_s=30.0, receive_s=20.0)


class GatedCodec(glc.Codec):
    """A codec that encodes when the gate is open, and says what the test wants where that is an error."""

    gate: threading.Event
    entered: threading.Semaphore
    """Released whenever a thread has come to the gate."""
    failure: Exception | None = None

    def encode(
        self,
        image: Any,
        quality: float = 1,
        *,
        form: Form = "file",
        encoder: str = OWN,
        progressive: bool = False,
    ) -> bytes:
        self.entered.release()
        self.gate.wait(60)
        if self.failure is not None:
            raise self.failure
        return super().encode(image, quality, form=form, encoder=encoder, progressive=progressive)


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    """By lower-case names."""
    body: bytes

    def problem(self) -> tuple[int, str]:
        """Status and code; the body must be a problem document, and no traceback."""
        assert self.headers["content-type"] == "application/problem+json", self
        document = json.loads(self.body)
        assert set(document) == {"type", "title", "status", "code", "detail"}
        assert document["status"] == self.status
        assert document["detail"][-1] == "."
        assert b"Traceback" not in self.body
        if self.status == 503:
            assert int(self.headers["retry-after"]) > 0
        return self.status, document["code"]

    def detail(self) -> str:
        """The sentence of a problem."""
        return str(json.loads(self.body)["detail"])

    def pixels(self) -> NDArray[np.uint8]:
        """The image that the body is; its format must be the declared one."""
        assert self.status == 200, self.body
        with Image.open(io.BytesIO(self.body)) as image:
            assert image.get_format_mimetype() == self.headers["content-type"]
            return np.asarray(image)


@dataclass
class Client:
    """Asks a service on loopback; not for several threads."""

    port: int
    stop: Callable[[], None]
    """Ask the service to end, as SIGTERM does."""
    document: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.document = json.loads(self.get("/openapi.json").body)

    def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        return self.ask("GET", path, None, headers or {})

    def post(self, path: str, body: bytes | Sequence[bytes], headers: dict[str, str] | None = None) -> Reply:
        """A sequence goes out in chunks, without a length."""
        return self.ask("POST", path, body, headers or {})

    def ask(self, method: str, path: str, body: bytes | Sequence[bytes] | None, headers: dict[str, str]) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            chunked = body is not None and not isinstance(body, bytes)
            connection.request(method, path, body, headers, encode_chunked=chunked)
            answer = connection.getresponse()
            reply = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        self._check(method, path, reply)
        return reply

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are; returns all that comes until the service closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            received = b""
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                connection.sendall(data)
                while piece := connection.recv(1 << 16):
                    received += piece
            return received

    def _check(self, method: str, path: str, reply: Reply) -> None:
        """Everything that comes back must be in the document."""
        operations = self.document.get("paths", {}).get(path.partition("?")[0], {})
        if method.lower() not in operations:
            return
        declared = operations[method.lower()]["responses"]
        assert str(reply.status) in declared, (method, path, reply)
        answer = declared[str(reply.status)]
        assert reply.headers["content-type"].partition(";")[0] in answer["content"]
        for name in answer.get("headers", {}):
            assert name.lower() in reply.headers or name == "Glc-Notes", name


@contextlib.contextmanager
def served(codec: glc.Codec, times: StageTimes, limits: Limits) -> Iterator[Client]:
    """Serve in a thread; the service ends with the block."""
    with bound_socket("127.0.0.1", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        server = new_server(new_application(Coder(codec, times, limits.pixels), limits), limits)

        def stop() -> None:
            server.should_exit = True

        thread = threading.Thread(target=server.run, args=([listener],), name="server")
        thread.start()
        try:
            yield Client(port, stop)
        finally:
            stop()
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def times() -> StageTimes:
    return StageTimes()


@pytest.fixture(scope="session")
def demo_codec(times: StageTimes) -> Iterator[GatedCodec]:
    """The demonstration model."""
    with GatedCodec.open(threads=1, max_pixels=LIMITS.pixels, on_stage=times.add) as codec:
        assert isinstance(codec, GatedCodec)
        codec.gate, codec.entered = threading.Event(), threading.Semaphore(0)
        codec.gate.set()
        yield codec


@pytest.fixture
def gated(demo_codec: GatedCodec) -> Iterator[GatedCodec]:
    """The codec with its gate closed and nobody counted; open again after the test."""
    demo_codec.gate.clear()
    demo_codec.entered = threading.Semaphore(0)
    yield demo_codec
    demo_codec.failure = None
    demo_codec.gate.set()


@pytest.fixture(scope="session")
def client(demo_codec: GatedCodec, times: StageTimes) -> Iterator[Client]:
    with served(demo_codec, times, LIMITS) as opened:
        yield opened


@pytest.fixture(scope="session")
def stream(demo_codec: GatedCodec) -> bytes:
    """A small photograph, encoded without the service."""
    return demo_codec.encode(PIXELS, 1)


def packed(pixels: Pixels, kind: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@contextlib.contextmanager
def in_background(call: Callable[[], Reply]) -> Iterator[list[Reply]]:
    """Make a call in a thread; its reply is in the list when the block has ended."""
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(call()))
    thread.start()
    try:
        yield replies
    finally:
        thread.join(60)
