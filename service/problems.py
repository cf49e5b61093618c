"""Answers that say why not: one JSON schema (RFC 9457) for all of them, and which error becomes which."""

from __future__ import annotations

from http import HTTPStatus

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from glc.errors import (
    BitstreamError,
    EngineMismatch,
    ImageTooLarge,
    ImageUnreadable,
    MemoryLimitTooSmall,
    ModelMismatch,
    OutOfDeviceMemory,
    TooManyPixels,
)

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


class Problem(BaseModel):
    """Why a request was refused."""

    type: str = Field(default="about:blank", description="Always about:blank: `code` tells problems apart.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    code: str = Field(description="Names the problem for programs.", examples=["too_many_pixels"])
    detail: str = Field(description="One sentence for people.")


class Refused(Exception):
    """A request that is answered with a problem."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}

    def answer(self) -> JSONResponse:
        """The problem as an HTTP response."""
        problem = Problem(title=phrase(self.status), status=self.status, code=self.code, detail=self.detail)
        return JSONResponse(problem.model_dump(), self.status, self.headers, media_type=PROBLEM_TYPE)


class Busy(Refused):
    """A request that may succeed when it is made again."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(503, code, detail, {"Retry-After": str(RETRY_AFTER_S)})


def phrase(status: int) -> str:
    """A status in words; the words of RFC 9110 on every Python."""
    return {413: "Content Too Large", 422: "Unprocessable Content"}.get(status) or HTTPStatus(status).phrase


def refusal(error: Exception) -> Refused:
    """What a client is told of an error of the codec or of Pillow; of what is not the client's fault, not the words."""
    match error:
        case Refused():
            return error
        case ModelMismatch():
            return Refused(409, "wrong_model", "The stream was made with another model than this service has.")
        case EngineMismatch():
            return Refused(
                409, "wrong_engine", "The stream is in float arithmetic, of another engine than this service."
            )
        case ImageTooLarge() | TooManyPixels():  # before the classes that they are of
            return Refused(413, "too_many_pixels", _sentence(error))
        case MemoryLimitTooSmall():
            return Refused(
                413, "too_large_for_memory", "The image does not fit into the memory that this service may take."
            )
        case BitstreamError():
            return Refused(422, "damaged_bitstream", _sentence(error))
        case ImageUnreadable():
            return Refused(422, "damaged_image", _sentence(error))
        case OutOfDeviceMemory() | MemoryError():
            return Busy("no_memory", "There is not enough memory for this image now.")
    return Refused(500, "internal_error", "The service failed; its log says why under the request's X-Request-Id.")


def _sentence(error: Exception) -> str:
    """An error of ours for people; its words start small, for a command line."""
    words = str(error)
    return f"{words[:1].upper()}{words[1:]}."
