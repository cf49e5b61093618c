"""What a thread does for one request: bytes in, bytes out, and what can be told of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from glc.runtime.bitstream import StreamInfo, inspect
from glc.runtime.codec import Codec, Image
from glc.runtime.images import decode_image, encode_image
from glc.service.intake import STREAM_TYPE
from glc.service.problems import Refused
from glc.service.stage_times import StageTimes

_READ_FORMATS = ("PNG", "JPEG", "WEBP")

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Format of a decoded image -> its media type, the default first."""


@dataclass(frozen=True, slots=True)
class Coded:
    """The answer to a request, and what its headers say."""

    body: bytes
    media_type: str
    stream: StreamInfo
    notes: tuple[str, ...]
    """What was changed when the image was read."""
    symbols: float
    """Share of the latent's symbols that the image shows: 1, or less of a cut stream or a preview."""
    stages_ms: dict[str, float]
    """Stage -> milliseconds, in their order."""


class Coder:
    """A codec for bytes of files, with the stages of each; threads may share it."""

    def __init__(self, codec: Codec, times: StageTimes, max_pixels: int) -> None:
        """Take a codec.

        Args:
            codec: opened with `times.add` as its `on_stage`, and with `max_pixels`.
            times: collects its stages.
            max_pixels: larger images are refused by what their header says.
        """
        self.codec = codec
        self._times = times
        self._max_pixels = max_pixels

    def encode(self, body: bytes, quality: float, encoder: str, submitted_s: float) -> Coded:
        """Image file to bitstream.

        Args:
            body: PNG, JPEG or WebP.
            quality: 0..Q-1.
            encoder: one of the codec's.
            submitted_s: of `time.perf_counter`, when the work was queued.

        Raises:
            FileError: the image is damaged or too large.
            EngineError: the engine failed.
        """
        with self._times.collected() as stages_ms:
            self._times.add("queue", _since_ms(submitted_s))
            with self._times.stage("read_image"):
                image = decode_image(body, "the image", self._max_pixels, _READ_FORMATS)
            data = self.codec.encode(image.pixels, quality, encoder=encoder)
        return Coded(data, STREAM_TYPE, inspect(data), image.notes, 1.0, stages_ms)

    def decode(self, body: bytes, kind: str, decoder: str, submitted_s: float, *, allow_partial: bool) -> Coded:
        """Bitstream to image file.

        Args:
            body: a bitstream in its file form.
            kind: one of `MEDIA_TYPES`.
            decoder: one of the codec's.
            submitted_s: as for `encode`.
            allow_partial: show what a cut stream holds.

        Raises:
            BitstreamError: as `Codec.decode`.
            Refused: the format cannot hold an image of this size.
            EngineError: the engine failed.
        """
        with self._times.collected() as stages_ms:
            self._times.add("queue", _since_ms(submitted_s))
            stream, symbols = self._inspected(body), 1.0
            if allow_partial:
                partial = self.codec.decode_partial(body, decoder=decoder)
                image, symbols = partial.image, partial.symbols
            else:
                image = self.codec.decode(body, decoder=decoder)
            packed = self._packed(image, kind)
        return Coded(packed, MEDIA_TYPES[kind], stream, (), symbols, stages_ms)

    def preview(self, body: bytes, kind: str, decoder: str, submitted_s: float) -> Coded:
        """Bitstream, or the front of one, to what its z indices show; see `decode`."""
        with self._times.collected() as stages_ms:
            self._times.add("queue", _since_ms(submitted_s))
            stream = self._inspected(body)
            packed = self._packed(self.codec.preview(body, decoder=decoder), kind)
        return Coded(packed, MEDIA_TYPES[kind], stream, (), 0.0, stages_ms)

    def _inspected(self, body: bytes) -> StreamInfo:
        """Refuse by the size that the header states, in words for somebody who cannot raise the limit."""
        stream = inspect(body)
        width, height = stream.header.width, stream.header.height
        if width * height > self._max_pixels:
            words = f"The stream states {width}x{height} pixels; the limit is {self._max_pixels}."
            raise Refused(413, "too_many_pixels", words)
        return stream

    def _packed(self, image: Image, kind: str) -> bytes:
        with self._times.stage("write_image"):
            try:
                return encode_image(image, Path(f"image.{kind}"))
            except (OSError, ValueError) as error:  # WebP ends at 16383 pixels a side, JPEG at 65500
                words = f"{image.shape[1]}x{image.shape[0]} pixels do not fit into {kind}; ask for png."
                raise Refused(422, "format_too_small", words) from error


def _since_ms(start_s: float) -> float:
    return 1e3 * (time.perf_counter() - start_s)
