"""The body of a request, read within limits: what it must be is checked before it is read, how much of it while."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from glc.runtime.bitstream import SIGNATURE
from glc.service.limits import Limits
from glc.service.problems import Busy, Refused

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
STREAM_TYPE = "application/x-glc"
_ANY_TYPE = "application/octet-stream"


def require_type(request: Request, expected: tuple[str, ...]) -> None:
    """Refuse a declared content type that is none of these; bytes that declare nothing are looked at.

    That also keeps out forms, the one thing that a page of another site can send here unasked.

    Raises:
        Refused: 415.
    """
    declared = request.headers.get("content-type")
    if declared is None:
        return
    if declared.partition(";")[0].strip().lower() not in (*expected, _ANY_TYPE):
        names = ", ".join((*expected, _ANY_TYPE))
        raise Refused(415, "wrong_type", f"The Content-Type is none of: {names}.", {"Accept": ", ".join(expected)})


def require_length(request: Request, limits: Limits) -> None:
    """Refuse a body that says it is too long.

    Raises:
        Refused: 413.
    """
    declared = request.headers.get("content-length", "0")  # h11 has refused what is no number
    if int(declared) > limits.body_bytes:
        raise _too_long(limits)


class Intake:
    """Reads bodies, several at once, and bounds what all of them take; for the event loop's thread.

    A slow sender takes a connection and the bytes that it has sent, but no place in the pool: few of them cannot keep
    the others out.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._receiving_bytes = 0

    async def body(self, request: Request) -> bytes:
        """Read a body, which may come in chunks and declare no length.

        Raises:
            Refused: 408, 413, or 422 where it is empty.
            Busy: all that is being received takes too much memory.
            ClientDisconnect: the client left.
        """
        limits = self._limits
        pieces: list[bytes] = []
        size_bytes = 0
        try:
            async with asyncio.timeout(limits.receive_s):
                async for piece in request.stream():
                    size_bytes += len(piece)
                    self._receiving_bytes += len(piece)
                    if size_bytes > limits.body_bytes:
                        raise _too_long(limits)
                    if self._receiving_bytes > limits.admitted * limits.body_bytes:
                        raise Busy(
                            "queue_full", "More is being received than there is room for; try again in a moment."
                        )
                    pieces.append(piece)
        except TimeoutError:
            words = f"The body did not arrive within {limits.receive_s:g} s."
            raise Refused(408, "slow_body", words, {"Connection": "close"}) from None
        finally:
            self._receiving_bytes -= size_bytes
        if not size_bytes:
            raise Refused(422, "empty_body", "The body is empty.")
        return b"".join(pieces)


def require_image(body: bytes) -> None:
    """Refuse what does not start like a PNG, a JPEG or a WebP file.

    Raises:
        Refused: 415.
    """
    webp = body[:4] == b"RIFF" and body[8:12] == b"WEBP"
    if not (webp or body.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))):
        raise Refused(415, "not_an_image", "What was sent is no PNG, JPEG or WebP image.")


def require_stream(body: bytes) -> None:
    """Refuse what does not start like a bitstream.

    Raises:
        Refused: 415.
    """
    if body[:2] != SIGNATURE[: len(body)]:
        raise Refused(415, "not_a_bitstream", "What was sent is no GLC bitstream.")


def _too_long(limits: Limits) -> Refused:
    return Refused(413, "body_too_large", f"The body is longer than {limits.body_bytes} bytes.")
