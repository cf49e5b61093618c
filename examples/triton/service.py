"""What the two models compute: the items of all requests that Triton hands over together, each with its own fate.

requests --flat--> items --pool--> outcomes --as the requests were--> responses
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import glc
from glc.errors import ImageUnreadable

_logger = logging.getLogger(__name__)

_INTERNAL = "InternalError: the server failed on this item; its log says why"


class Request(Protocol):
    """What PyTriton hands over: some items that a client sent together, as arrays (items, 1) by name."""

    @property
    def data(self) -> Mapping[str, NDArray[Any]]: ...

    def __getitem__(self, name: str) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one item: its bytes, or why there are none."""

    data: bytes
    error: str


class CodecService:
    """Encodes and decodes what requests hold, with as many items under way at once as the pool has threads.

    An exception would fail every request that Triton put into the batch, whoever sent it. So an item that cannot be
    computed says so in its output `error`, which is empty otherwise, and the others are as if it were not there.
    That is also why items are computed one by one rather than by `Codec.encode_batch`, which ends with the first
    error and has one quality for all.
    """

    def __init__(self, codec: glc.Codec, pool: ThreadPoolExecutor, max_pixels: int) -> None:
        """Serve a codec.

        Args:
            codec: open as long as requests come.
            pool: both models share it.
            max_pixels: larger images are refused before they are unpacked.
        """
        self._codec = codec
        self._pool = pool
        self._max_pixels = max_pixels

    def encode(self, requests: Sequence[Request]) -> list[dict[str, NDArray[Any]]]:
        """Model `glc_encode`: `image` and, if given, `quality` -> `stream`, `error`."""
        items = [(photo, quality) for request in requests for photo, quality in zip(*_photos(request), strict=True)]
        return self._compute(requests, "stream", lambda item: self._encode_one(*item), items)

    def decode(self, requests: Sequence[Request]) -> list[dict[str, NDArray[Any]]]:
        """Model `glc_decode`: `stream` -> `image`, `error`."""
        items = [stream for request in requests for stream in request["stream"][:, 0]]
        return self._compute(requests, "image", self._decode_one, items)

    def _encode_one(self, photo: bytes, quality: float) -> bytes:
        return self._codec.encode(_pixels(photo, self._max_pixels), quality)

    def _decode_one(self, stream: bytes) -> bytes:
        png = io.BytesIO()
        Image.fromarray(self._codec.decode(stream)).save(png, "PNG", compress_level=1)
        return png.getvalue()

    def _compute(
        self, requests: Sequence[Request], output: str, function: Callable[[Any], bytes], items: Sequence[Any]
    ) -> list[dict[str, NDArray[Any]]]:
        outcomes = list(self._pool.map(lambda item: _outcome(function, item), items))
        responses = []
        for request in requests:
            count = len(next(iter(request.data.values())))
            mine, outcomes = outcomes[:count], outcomes[count:]
            responses.append(
                {
                    output: _column([outcome.data for outcome in mine]),
                    "error": _column([outcome.error.encode() for outcome in mine]),
                }
            )
        return responses


def _outcome(function: Callable[[Any], bytes], item: object) -> Outcome:
    try:
        return Outcome(function(item), "")
    except (glc.GlcError, ValueError) as error:
        return Outcome(b"", f"{type(error).__name__}: {error}")
    except Exception:  # whatever else happens is a defect here, and still that of one item
        _logger.exception("an item failed")
        return Outcome(b"", _INTERNAL)


def _photos(request: Request) -> tuple[list[bytes], list[float]]:
    photos = list(request["image"][:, 0])
    if "quality" not in request.data:
        return photos, [1.0] * len(photos)
    return photos, [float(quality) for quality in request["quality"][:, 0]]


def _pixels(photo: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Unpack a photograph (H, W, 3) in any format that Pillow reads."""
    try:
        with Image.open(io.BytesIO(photo)) as image:
            if image.width * image.height > max_pixels:
                raise ImageUnreadable(f"the image has {image.width}x{image.height} pixels; the limit is {max_pixels}")
            return np.asarray(image.convert("RGB"))
    except ImageUnreadable:
        raise
    except Exception as error:  # Pillow's formats raise whatever their parser meets in a damaged file
        raise ImageUnreadable("not an image that Pillow can read, or damaged") from error


def _column(values: Sequence[bytes]) -> NDArray[np.object_]:
    """Values (items, 1) as objects: numpy's own bytes would drop zeros at the end."""
    return np.array([[value] for value in values], dtype=object)
