"""What the OpenAPI document says of bodies, headers and problems, which FastAPI cannot read off bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from glc.service.intake import STREAM_TYPE
from glc.service.problems import PROBLEM_TYPE, Problem, phrase

_BYTES = {"schema": {"type": "string", "format": "binary"}}

_HEADERS: dict[str, tuple[str, str]] = {
    "Glc-Bytes": ("integer", "Size of the bitstream."),
    "Glc-Bpp": ("number", "Bits of the bitstream per pixel."),
    "Glc-Width": ("integer", "Width of the image in pixels."),
    "Glc-Height": ("integer", "Height of the image in pixels."),
    "Glc-Quality": ("number", "Quality that the bitstream states, rounded to 1/21."),
    "Glc-Symbols": ("number", "Share of the latent's symbols that the image shows; 0 is a preview."),
    "Server-Timing": ("string", "Stages in milliseconds: `analysis;dur=81.2, ...`."),
    "X-Request-Id": ("string", "Names the request in the service's log."),
}

_NOTES = ("string", "What was changed when the image was read, such as its orientation; absent where nothing was.")

_PROBLEMS = {
    406: "not_acceptable",
    408: "slow_body",
    409: "wrong_model, wrong_engine",
    413: "body_too_large, too_many_pixels",
    415: "wrong_type, not_an_image, not_a_bitstream",
    422: "invalid_query, empty_body, damaged_image, damaged_bitstream, format_too_small",
    500: "internal_error",
    503: "queue_full, too_slow, no_memory; with Retry-After",
}
"""Status -> codes of its problems."""

ENCODE_PROBLEMS = (408, 413, 415, 422, 500, 503)
DECODE_PROBLEMS = (406, 408, 409, 413, 415, 422, 500, 503)

_PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}


def described_request(media_types: Sequence[str]) -> dict[str, Any]:
    """`openapi_extra` of an endpoint that takes bytes."""
    content = dict.fromkeys((*media_types, "application/octet-stream"), _BYTES)
    return {"requestBody": {"required": True, "content": content}}


def described_answers(media_types: Sequence[str], problems: Sequence[int]) -> dict[int | str, dict[str, Any]]:
    """`responses` of an endpoint that gives bytes."""
    told = _HEADERS | ({"Glc-Notes": _NOTES} if STREAM_TYPE in media_types else {})
    headers = {name: {"description": words, "schema": {"type": kind}} for name, (kind, words) in told.items()}
    answers: dict[int | str, dict[str, Any]] = {
        200: {"description": "Done.", "headers": headers, "content": dict.fromkeys(media_types, _BYTES)}
    }
    for status in problems:
        described: dict[str, Any] = {
            "description": f"{phrase(status)}: {_PROBLEMS[status]}.",
            "content": {PROBLEM_TYPE: {"schema": _PROBLEM_SCHEMA}},
        }
        if status == 503:
            described["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
        answers[status] = described
    return answers


def described_text(media_type: str, description: str) -> dict[int | str, dict[str, Any]]:
    """`responses` of an endpoint that gives text of one type."""
    return {200: {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}}


class DescribedApi(FastAPI):
    """An application whose OpenAPI document holds the schema of problems; ask for it when all endpoints are there."""

    def openapi(self) -> dict[str, Any]:
        """The document."""
        made = super().openapi()
        made["components"]["schemas"]["Problem"] = Problem.model_json_schema(mode="serialization")
        return made
