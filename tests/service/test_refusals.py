"""What the service refuses, each with its status and code, and that it serves on afterwards."""

from __future__ import annotations

import binascii
import struct
import zlib
from pathlib import Path

import pytest
from tests.service.conftest import LIMITS, PIXELS, Client, packed, served

import glc
from glc.runtime.bitstream import Arithmetic, Header, write_stream
from glc.service.stage_times import StageTimes

PNG = packed(PIXELS)
JPEG = packed(PIXELS, "JPEG")


def _bomb(side: int) -> bytes:
    """A PNG that declares many pixels in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", binascii.crc32(kind + data))

    start = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    packed_rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + chunk(b"IDAT", packed_rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        pytest.param(b"", {}, (422, "empty_body"), id="nothing"),
        pytest.param(b"GIF89a" + bytes(100), {}, (415, "not_an_image"), id="GIF"),
        pytest.param(b"hello", {"Content-Type": "image/png"}, (415, "not_an_image"), id="text that says PNG"),
        pytest.param(PNG, {"Content-Type": "text/plain"}, (415, "wrong_type"), id="PNG that says text"),
        pytest.param(PNG, {"Content-Type": "multipart/form-data; boundary=x"}, (415, "wrong_type"), id="form"),
        pytest.param(PNG[:-400], {}, (422, "damaged_image"), id="cut PNG"),
        pytest.param(PNG[:8], {}, (422, "damaged_image"), id="only a signature"),
        pytest.param(JPEG[: len(JPEG) // 2], {}, (422, "damaged_image"), id="cut JPEG"),
        pytest.param(b"RIFF\x24\0\0\0WEBPVP8 " + bytes(30), {}, (422, "damaged_image"), id="no WebP"),
        pytest.param(_bomb(60_000), {}, (413, "too_many_pixels"), id="bomb"),
        pytest.param(bytes(LIMITS.body_bytes + 1), {}, (413, "body_too_large"), id="too long"),
    ],
)
def test_encode_refuses(body: bytes, headers: dict[str, str], expected: tuple[int, str], client: Client) -> None:
    assert client.post("/encode", body, headers).problem() == expected
    assert client.get("/healthz").status == 200


def _stream_of(width: int, height: int, model: bytes) -> bytes:
    return write_stream(Header(21, width, height), bytes(100), Arithmetic.EXACT, model, "file")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda data: PNG, (415, "not_a_bitstream"), id="PNG"),
        pytest.param(lambda data: b"", (422, "empty_body"), id="nothing"),
        pytest.param(lambda data: data[:5], (422, "damaged_bitstream"), id="cut in its header"),
        pytest.param(lambda data: data[:-9], (422, "damaged_bitstream"), id="cut"),
        pytest.param(lambda data: data[:30] + b"\0\0\0" + data[33:], (422, "damaged_bitstream"), id="damaged"),
        pytest.param(lambda data: b"\x9eG\xf0" + data[3:], (422, "damaged_bitstream"), id="later version"),
        pytest.param(lambda data: _stream_of(64, 64, b"0000"), (409, "wrong_model"), id="other model"),
        pytest.param(
            lambda data: _stream_of(1 << 20, 1 << 20, glc.inspect(data).identity), (413, "too_many_pixels"), id="bomb"
        ),
    ],
)
@pytest.mark.parametrize("path", ["/decode", "/preview"])
def test_decode_and_preview_refuse(
    path: str, change: object, expected: tuple[int, str], client: Client, stream: bytes, request: pytest.FixtureRequest
) -> None:
    assert callable(change)
    reply = client.post(path, change(stream))
    if path == "/preview" and request.node.callspec.id.endswith(("-cut", "-damaged")):
        assert reply.status == 200  # a preview needs neither the end nor the checksum
    else:
        assert reply.problem() == expected
    assert client.get("/healthz").status == 200


def test_a_body_in_chunks_ends_at_the_limit(client: Client) -> None:
    reply = client.post("/encode", [bytes(50_000)] * 5)
    assert reply.problem() == (413, "body_too_large")
    assert str(LIMITS.body_bytes) in reply.detail()


def test_a_refused_body_is_read_on_so_that_the_answer_arrives(client: Client) -> None:
    """A socket that is closed with unread data resets the connection, and the client reads nothing."""
    body = bytes(20 << 20)
    assert client.post("/encode", body).problem() == (413, "body_too_large")
    assert client.post("/encode", body, {"Content-Type": "text/plain"}).problem() == (415, "wrong_type")


@pytest.mark.parametrize(
    "query", ["quality=-0.1", "quality=3.01", "quality=nan", "quality=inf", "quality=x", "quality=", "quality=1e999"]
)
def test_a_quality_that_the_model_has_not_is_refused_by_name(query: str, client: Client) -> None:
    reply = client.post(f"/encode?{query}", PNG)
    assert reply.problem() == (422, "invalid_query")
    assert reply.detail().startswith("quality: ")


def test_formats_that_are_not_written_are_refused(client: Client, stream: bytes) -> None:
    assert client.post("/decode?format=tiff", stream).problem() == (422, "invalid_query")
    for accept in ("text/html", "image/png;q=0", "image/png;q=x", ""):
        assert client.post("/decode", stream, {"Accept": accept}).problem() == (406, "not_acceptable")


def test_a_format_that_cannot_hold_the_image_is_refused(client: Client, stream: bytes) -> None:
    wide = write_stream(Header(21, 17_000, 1), bytes(4000), Arithmetic.EXACT, glc.inspect(stream).identity, "file")
    assert client.post("/preview?format=webp", wide).problem() == (422, "format_too_small")


def test_unknown_paths_and_methods(client: Client) -> None:
    for path in ("/nothing", "/encode/", "/docs", "/../etc/passwd", "/%2e%2e/%00", "//"):
        assert client.get(path).problem() == (404, "no_such_path")
    wrong = client.get("/encode")
    assert wrong.problem() == (405, "wrong_method")
    assert wrong.headers["allow"] == "POST"
    assert client.post("/info", b"").problem() == (405, "wrong_method")


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 1_000_000 + b"\r\n\r\n", id="huge header"),
        pytest.param(b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="huge target"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
        pytest.param(b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", id="length"),
        pytest.param(
            b"POST /encode HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="broken chunk"
        ),
    ],
)
def test_what_is_not_http_is_answered_400_and_closed(request_bytes: bytes, client: Client) -> None:
    answer = client.raw(request_bytes)
    # With the rest of a huge head unread, the connection is reset, which may overtake the answer.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    if answer:
        assert b"application/problem+json" in answer
        assert b'"code":"not_http"' in answer
    assert client.get("/healthz").status == 200


def test_an_image_beyond_the_limit_on_memory_is_refused(mini_bundle: Path, times: StageTimes) -> None:
    with (
        glc.Codec.open(mini_bundle, engine="onnxruntime", memory_limit_bytes=1 << 20) as codec,
        served(codec, times, LIMITS) as client,
    ):
        assert client.post("/encode", PNG).problem() == (413, "too_large_for_memory")
