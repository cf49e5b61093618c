"""Around every request: an id, headers that keep browsers honest, a count, and no traceback for strangers."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Collection

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glc.service.metrics import Metrics
from glc.service.problems import refusal

_logger = logging.getLogger(__name__)

_OTHER = "other"
_GONE = 499
"""Counted where the client left before its answer; never sent."""


class Observing:
    """ASGI middleware; the outermost."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        """Wrap an application.

        Args:
            app: the application.
            metrics: counts requests.
            paths: of the endpoints, as they are counted.
        """
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s = time.perf_counter()
        request_id = secrets.token_hex(8)
        status, sent_bytes = _GONE, 0

        async def observed(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
            else:
                sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except ClientDisconnect:
            pass
        except Exception as error:
            _logger.exception("request %s failed", request_id)
            if status == _GONE:  # otherwise the answer has begun, and uvicorn closes the connection
                await refusal(error).answer()(scope, receive, observed)
        finally:
            operation = scope["path"] if scope["path"] in self._paths else _OTHER
            self._metrics.answered(operation, status, sent_bytes, time.perf_counter() - start_s)
