"""A connection that does not wait for ever: uvicorn's, with a bound on silence and on the number of its like."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from glc.service.limits import Limits
from glc.service.problems import PROBLEM_TYPE, Refused


class BoundedConnection(H11Protocol):
    """HTTP/1.1 on one connection.

    uvicorn bounds the pause between requests. Bounded here are: the time for the head of a request, however slowly it
    trickles in; for the rest of a body that was refused; and for the client to take its answer. The body of a request
    under way is the application's to bound.
    """

    def __init__(
        self,
        limits: Limits,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._patience: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a head, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            transport.abort()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self._stop_taking()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Stop waiting where a request has begun."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the client to take the answer, and for the next head."""
        self._wait()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Wait for the client to take what has been written; it may have asked for more before it read."""
        super().pause_writing()
        self._taking = self.loop.call_later(self._limits.receive_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting for that."""
        self._stop_taking()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP in the schema of all problems; `msg` is uvicorn's."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()  # its answer has gone out already
            return
        words = f"{msg.rstrip('.')}, or its head is too long."
        answer = Refused(400, "not_http", words).answer()
        headers = [("content-type", PROBLEM_TYPE), ("content-length", str(len(answer.body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._wait()
        self.transport.close()

    def _wait(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(self._limits.receive_s, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _stop_taking(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None
