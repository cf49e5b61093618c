"""Bounds on time and number: the queue, slow clients, slow work, clients that leave, and a service that stops."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tests.service.conftest import LIMITS, PIXELS, Client, GatedCodec, in_background, packed, served

from glc.errors import EngineFailed, OutOfDeviceMemory
from glc.service.stage_times import StageTimes

PNG = packed(PIXELS)
HURRIED = dataclasses.replace(LIMITS, request_s=0.5, receive_s=0.4, queue=1)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def _metric(client: Client, line: str) -> float:
    """Value of one line of /metrics."""
    text = client.get("/metrics").body.decode()
    found = [words for words in text.splitlines() if words.startswith(line + " ")]
    return float(found[0].split()[-1]) if found else 0.0


@pytest.fixture
def hurried(demo_codec: GatedCodec, times: StageTimes) -> Iterator[Client]:
    """A service without patience."""
    with served(demo_codec, times, HURRIED) as opened:
        yield opened


def test_what_the_queue_cannot_hold_is_refused_at_once_and_the_rest_is_served(
    client: Client, gated: GatedCodec, stream: bytes
) -> None:
    with contextlib.ExitStack() as stack:
        waiting = [
            stack.enter_context(in_background(lambda: client.post("/encode", PNG))) for _ in range(LIMITS.admitted)
        ]
        stack.callback(gated.gate.set)  # whatever happens, before the threads are waited for
        _until(lambda: _metric(client, "glc_places_taken") == LIMITS.admitted)
        assert client.post("/encode", PNG).problem() == (503, "queue_full")
        assert client.post("/decode", stream).problem() == (503, "queue_full")
        assert client.get("/healthz").status == 200
        assert _metric(client, "glc_workers_running") == LIMITS.workers
    assert [replies[0].body for replies in waiting] == [stream] * LIMITS.admitted
    assert _metric(client, "glc_places_taken") == 0
    assert client.post("/decode", stream).status == 200


def test_work_that_takes_too_long_is_given_up_but_keeps_its_place(hurried: Client, gated: GatedCodec) -> None:
    assert hurried.post("/encode", PNG).problem() == (503, "too_slow")
    assert hurried.post("/encode", PNG).problem() == (503, "too_slow")  # waited, and was never begun
    _until(lambda: _metric(hurried, "glc_places_taken") == 1)
    gated.gate.set()
    _until(lambda: _metric(hurried, "glc_places_taken") == 0)
    assert gated.entered.acquire(blocking=False)
    assert not gated.entered.acquire(blocking=False)


def test_a_client_that_leaves_takes_its_waiting_work_along(client: Client, gated: GatedCodec) -> None:
    with in_background(lambda: client.post("/encode", PNG)) as first, contextlib.ExitStack() as stack:
        stack.callback(gated.gate.set)
        assert gated.entered.acquire(timeout=30)
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", "/encode", PNG)
            _until(lambda: _metric(client, "glc_places_taken") == 2)
        _until(lambda: _metric(client, "glc_places_taken") == 1)
    assert first[0].status == 200
    assert not gated.entered.acquire(blocking=False)


@pytest.mark.parametrize(
    "head",
    ["Content-Length: 1000\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"],
    ids=["length", "chunks"],
)
def test_a_body_that_does_not_come_is_not_waited_for(head: str, hurried: Client) -> None:
    answer = hurried.raw(f"POST /encode HTTP/1.1\r\nHost: x\r\n{head}".encode())
    start, _, body = answer.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["code"] == "slow_body"
    assert _metric(hurried, "glc_places_taken") == 0


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HT", id="half a head"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET", id="half of a second head"),
        pytest.param(
            b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", id="rest of a refused body"
        ),
    ],
)
def test_who_trickles_is_cut_off(start: bytes, hurried: Client) -> None:
    """A byte now and then keeps no connection open."""
    with socket.create_connection(("127.0.0.1", hurried.port), timeout=30) as connection:
        connection.sendall(start)
        connection.settimeout(0.05)
        end = time.monotonic() + 30
        closed = False
        while not closed:
            assert time.monotonic() < end, "the connection is still open"
            with contextlib.suppress(TimeoutError):
                try:
                    closed = connection.recv(1 << 16) == b""
                    connection.sendall(b"x")
                except (ConnectionResetError, BrokenPipeError):
                    closed = True
    assert hurried.get("/healthz").status == 200


def test_slow_senders_keep_nobody_out(client: Client, stream: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS.admitted + 2):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", client.port), timeout=30))
            slow.sendall(b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        assert client.post("/encode", PNG).body == stream


def test_what_is_received_at_once_is_bounded(client: Client) -> None:
    """As many full bodies as there are places may be on their way; the one that is too many is told so."""
    head = f"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: {LIMITS.body_bytes}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS.admitted):
            almost = stack.enter_context(socket.create_connection(("127.0.0.1", client.port), timeout=30))
            almost.sendall(head + bytes(LIMITS.body_bytes - 100))
        _until(lambda: client.post("/encode", [b"GIF89a", bytes(5000)]).problem() == (503, "queue_full"))
    _until(lambda: client.post("/encode", [b"GIF89a", bytes(5000)]).problem() == (415, "not_an_image"))


def test_who_asks_and_does_not_read_is_cut_off(hurried: Client) -> None:
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(30)
        deaf.connect(("127.0.0.1", hurried.port))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 500_000)
    assert hurried.get("/healthz").status == 200


def test_connections_are_bounded(demo_codec: GatedCodec, times: StageTimes) -> None:
    with served(demo_codec, times, dataclasses.replace(LIMITS, connections=2)) as few, contextlib.ExitStack() as stack:
        for _ in range(2):
            idle = http.client.HTTPConnection("127.0.0.1", few.port, timeout=30)
            stack.enter_context(contextlib.closing(idle))
            idle.request("GET", "/healthz")
            assert idle.getresponse().read()
        assert few.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") == b""


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (EngineFailed("onnxruntime: secret inner words"), (500, "internal_error")),
        (ZeroDivisionError("secret inner words"), (500, "internal_error")),
        (OutOfDeviceMemory("secret inner words"), (503, "no_memory")),
        (MemoryError(), (503, "no_memory")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_failures_of_the_service_are_told_in_its_log_alone(
    failure: Exception, expected: tuple[int, str], client: Client, gated: GatedCodec, caplog: pytest.LogCaptureFixture
) -> None:
    gated.failure = failure
    gated.gate.set()
    with caplog.at_level(logging.ERROR):
        reply = client.post("/encode", PNG)
    assert reply.problem() == expected
    assert b"secret" not in reply.body
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ([f"request {reply.headers['x-request-id']} failed"] if expected[0] == 500 else [])


def test_a_service_that_stops_takes_nothing_new_and_finishes_what_runs_and_waits(
    demo_codec: GatedCodec, times: StageTimes, gated: GatedCodec, stream: bytes
) -> None:
    with served(demo_codec, times, LIMITS) as client, contextlib.ExitStack() as stack:
        under_way = [stack.enter_context(in_background(lambda: client.post("/encode", PNG))) for _ in range(2)]
        stack.callback(gated.gate.set)
        _until(lambda: _metric(client, "glc_places_taken") == 2)
        client.stop()
        _until(lambda: not _listens(client))
    assert [replies[0].body for replies in under_way] == [stream] * 2


def _listens(client: Client) -> bool:
    try:
        socket.create_connection(("127.0.0.1", client.port), timeout=30).close()
    except ConnectionRefusedError:
        return False
    return True


def test_many_clients_at_once_get_each_their_own_image(client: Client, demo_codec: GatedCodec) -> None:
    images = [np.roll(PIXELS, 8 * shift, axis=1)[: 32 + shift] for shift in range(LIMITS.admitted)]
    with contextlib.ExitStack() as stack:
        replies = [
            stack.enter_context(in_background(functools.partial(client.post, "/encode", packed(image))))
            for image in images
        ]
    for image, reply in zip(images, replies, strict=True):
        assert reply[0].body == demo_codec.encode(image, 1)
