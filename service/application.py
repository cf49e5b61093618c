"""The application: endpoints, the page, and one schema for whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from glc.errors import GlcError
from glc.service.coding import Coder
from glc.service.coding_routes import CodingRoutes
from glc.service.described import DescribedApi, described_text
from glc.service.facts import Facts, Health, facts
from glc.service.limits import Limits
from glc.service.metrics import Metrics
from glc.service.observing import Observing
from glc.service.page import PAGE_HEADERS, page
from glc.service.problems import Refused, phrase, refusal
from glc.service.work import WorkPool

_DESCRIPTION = "Images below 0.04 bits per pixel. Every error is a problem document (RFC 9457) with a `code`."


def new_application(coder: Coder, limits: Limits) -> FastAPI:
    """The service on a codec, which stays the caller's; leaving the lifespan waits for what still runs."""
    pool = WorkPool(limits)
    metrics = Metrics(coder.codec, pool)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(pool.close)

    app = DescribedApi(
        title="GLC",
        version=version("glc-deploy"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # both load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(CodingRoutes(coder, limits, pool, metrics).router())
    _add_facts(app, facts(coder.codec, limits), metrics)
    paths = [*app.openapi()["paths"], "/openapi.json"]
    app.add_middleware(Observing, metrics=metrics, paths=paths)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(GlcError, _refused)
    app.add_exception_handler(MemoryError, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_exception_handler(RequestValidationError, _invalid_query)
    return app


def _add_facts(app: FastAPI, about: Facts, metrics: Metrics) -> None:
    """The endpoints that only tell."""
    content = page()

    @app.get("/info", summary="Model, engine and limits", tags=["service"])
    async def info() -> Facts:
        return about

    @app.get("/healthz", summary="Whether the service answers", tags=["service"])
    async def healthz() -> Health:
        return Health(status="ok")

    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        tags=["service"],
        response_class=Response,
        responses=described_text("text/plain", "Prometheus' text format."),
    )
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", summary="A page for people", tags=["service"], response_class=HTMLResponse)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(content, headers=PAGE_HEADERS)


async def _refused(_: Request, error: Exception) -> Response:
    refused = refusal(error)
    if refused.status == 500:
        raise error  # for the log
    return refused.answer()


async def _not_routed(_: Request, error: Exception) -> Response:
    """Say 404 and 405 in our schema; Starlette adds Allow."""
    if not isinstance(error, HTTPException):
        raise error
    code = {404: "no_such_path", 405: "wrong_method"}.get(error.status_code, "not_handled")
    return Refused(error.status_code, code, f"{phrase(error.status_code)}.", dict(error.headers or {})).answer()


async def _invalid_query(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    name = first["loc"][-1]
    return Refused(422, "invalid_query", f"{name}: {first['msg']}.").answer()
