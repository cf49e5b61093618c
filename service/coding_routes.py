"""POST /encode, /decode and /preview."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from glc.service.accept import chosen_format
from glc.service.coding import MEDIA_TYPES, Coded, Coder
from glc.service.described import DECODE_PROBLEMS, ENCODE_PROBLEMS, described_answers, described_request
from glc.service.intake import (
    IMAGE_TYPES,
    STREAM_TYPE,
    Intake,
    require_image,
    require_length,
    require_stream,
    require_type,
)
from glc.service.limits import Limits
from glc.service.metrics import Metrics
from glc.service.problems import Refused
from glc.service.work import WorkPool

_IMAGES = tuple(MEDIA_TYPES.values())

_Format = Annotated[
    Literal["png", "jpeg", "webp"] | None, Query(alias="format", description="In place of the Accept header.")
]
_AllowPartial = Annotated[bool, Query(description="Show what a cut stream holds.")]


class CodingRoutes:
    """The endpoints that take bytes, code them in the pool and give bytes."""

    def __init__(self, coder: Coder, limits: Limits, pool: WorkPool, metrics: Metrics) -> None:
        self._coder = coder
        self._limits = limits
        self._intake = Intake(limits)
        self._pool = pool
        self._metrics = metrics

    def router(self) -> APIRouter:
        """The endpoints; the range of qualities and the encoders and decoders are the bundle's."""
        router = APIRouter(tags=["coding"], default_response_class=Response)
        coder = self._coder
        highest = coder.codec.qualities - 1
        encoder_query = _choice("One that restores, say.", coder.codec.encoders)
        decoder_query = _choice("One of a style, say; it need not fit the encoder.", coder.codec.decoders)

        @router.post(
            "/encode",
            summary="Image to bitstream",
            openapi_extra=described_request(IMAGE_TYPES),
            responses=described_answers([STREAM_TYPE], ENCODE_PROBLEMS),
        )
        async def encode(
            request: Request,
            quality: float = Query(min(1, highest), ge=0, le=highest, description="Fractions interpolate."),
            encoder: str = encoder_query,
        ) -> Response:
            _require_known("encoder", encoder, coder.codec.encoders)
            return await self._answer(
                request, IMAGE_TYPES, require_image, lambda body, at_s: coder.encode(body, quality, encoder, at_s)
            )

        @router.post(
            "/decode",
            summary="Bitstream to image",
            openapi_extra=described_request([STREAM_TYPE]),
            responses=described_answers(_IMAGES, DECODE_PROBLEMS),
        )
        async def decode(
            request: Request,
            kind: _Format = None,
            allow_partial: _AllowPartial = False,
            decoder: str = decoder_query,
        ) -> Response:
            _require_known("decoder", decoder, coder.codec.decoders)
            wanted = chosen_format(request.headers.get("accept"), kind)
            return await self._answer(
                request,
                (STREAM_TYPE,),
                require_stream,
                lambda body, at_s: coder.decode(body, wanted, decoder, at_s, allow_partial=allow_partial),
            )

        @router.post(
            "/preview",
            summary="Bitstream, or its first bytes, to a rough image",
            openapi_extra=described_request([STREAM_TYPE]),
            responses=described_answers(_IMAGES, DECODE_PROBLEMS),
        )
        async def preview(
            request: Request,
            kind: _Format = None,
            decoder: str = decoder_query,
        ) -> Response:
            _require_known("decoder", decoder, coder.codec.decoders)
            wanted = chosen_format(request.headers.get("accept"), kind)
            return await self._answer(
                request, (STREAM_TYPE,), require_stream, lambda body, at_s: coder.preview(body, wanted, decoder, at_s)
            )

        return router

    async def _answer(
        self,
        request: Request,
        types: tuple[str, ...],
        require_kind: Callable[[bytes], None],
        work: Callable[[bytes, float], Coded],
    ) -> Response:
        """Check, read, let in, code; each step may refuse, the cheap ones first.

        Args:
            request: whose body is taken.
            types: that it may declare.
            require_kind: refuses a body by how it starts.
            work: for a thread, from the body and the time at which it was queued.
        """
        clock = asyncio.get_running_loop().time
        start_s = clock()
        operation = request.url.path
        require_type(request, types)
        require_length(request, self._limits)
        self._pool.require_room()  # before the body is sent for nothing
        body = await self._intake.body(request)
        received_s = clock()
        self._metrics.received(operation, len(body))
        require_kind(body)
        with self._pool.place() as place:
            submitted_s = time.perf_counter()
            coded = await place.run(lambda: work(body, submitted_s), request, start_s + self._limits.request_s)
        stages_ms = {"receive": 1e3 * (received_s - start_s), **coded.stages_ms}
        header = coded.stream.header
        self._metrics.coded(operation, header.width * header.height, stages_ms)
        return Response(coded.body, media_type=coded.media_type, headers=_headers(coded, stages_ms))


def _choice(description: str, known: Sequence[str]) -> Any:  # as FastAPI's own `Query`, which stands for its default
    return Query(known[0], description=description, json_schema_extra={"enum": list(known)})


def _require_known(parameter: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise Refused(422, "invalid_query", f"{parameter}: this service has {', '.join(known)}.")


def _headers(coded: Coded, stages_ms: dict[str, float]) -> dict[str, str]:
    stream = coded.stream
    told = {
        "Glc-Bytes": str(stream.header_bytes + stream.payload_bytes),
        "Glc-Bpp": f"{stream.bpp:.5f}",
        "Glc-Width": str(stream.header.width),
        "Glc-Height": str(stream.header.height),
        "Glc-Quality": f"{stream.header.quality:.3f}",
        "Glc-Symbols": f"{coded.symbols:.4f}",
        "Server-Timing": ", ".join(f"{stage};dur={duration:.1f}" for stage, duration in stages_ms.items()),
    }
    if coded.notes:  # they may quote the name of a colour profile, in any script
        told["Glc-Notes"] = "; ".join(coded.notes).encode("ascii", "replace").decode()
    return told
