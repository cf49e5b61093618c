"""One input to one output: read, coded, written whole and renamed. Runs in threads here and in actors of a cluster."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from glc.batch.containers import Contents
from glc.batch.journal import Outcome, Task
from glc.errors import OutputNotWritable
from glc.runtime.bitstream import inspect
from glc.runtime.codec import Codec
from glc.runtime.images import decode_image, encode_image
from glc.runtime.messages import one_line
from glc.runtime.transforms import OWN

_OF_THE_PLACE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE))
"""What would keep every further output from being written, too."""


IMAGE_ENDINGS = frozenset(
    (".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
"""Of the files that are taken for images in folders and archives."""
STREAM_ENDING = ".glc"


@dataclass(frozen=True, slots=True)
class Encoding:
    """Images become bitstreams."""

    quality: float
    max_pixels: int
    encoder: str = OWN
    """One of the bundle's."""
    progressive: bool = False
    """Whether streams never show less when more arrives."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """Bitstreams become images."""

    ending: str
    """Of an image format, such as `.png`."""
    decoder: str = OWN
    """One of the bundle's."""


Work = Encoding | Decoding


@dataclass(frozen=True, slots=True)
class _Coded:
    stream: bytes
    output: bytes


class Worker:
    """Does tasks with one codec; threads may share it."""

    def __init__(self, codec: Codec, work: Work, out: Path, scratch: Path) -> None:
        """It closes nothing.

        Args:
            codec: with the limit on pixels that the work states.
            work: what to do.
            out: the output folder.
            scratch: a folder on the same file system, where outputs are written before they are renamed.
        """
        self._codec = codec
        self._work = work
        self._out = out
        self._scratch = scratch
        self._contents = Contents()

    def __call__(self, task: Task) -> Outcome:
        """Do a task; what is wrong with the input or its own output becomes part of the outcome.

        Raises:
            OutputNotWritable: nothing at all can be written any more: the disk is full, or gone.
        """
        begin = time.perf_counter()
        try:
            coded = self._coded(self._contents.read(task.place), task.input)
            _publish(coded.output, self._out / task.output, self._scratch)
        except (
            Exception
        ) as error:  # one image of a million, whatever is wrong with it, keeps none of the others waiting
            if _concerns_all(error):
                raise
            words = one_line(error) or "not enough memory for this image"
            return Outcome(
                task.input,
                milliseconds=_since_ms(begin),
                status="failed",
                error=type(error).__name__,
                message=words,
            )
        info = inspect(coded.stream)
        return Outcome(
            task.input,
            output=task.output,
            width=info.header.width,
            height=info.header.height,
            bytes=len(coded.stream),
            bpp=info.bpp,
            quality=info.header.quality,
            milliseconds=_since_ms(begin),
            sha256=hashlib.sha256(coded.output).hexdigest(),
            output_bytes=len(coded.output),
        )

    def _coded(self, data: bytes, name: str) -> _Coded:
        if isinstance(self._work, Encoding):
            image = decode_image(data, name, self._work.max_pixels)
            stream = self._codec.encode(
                image.pixels, self._work.quality, encoder=self._work.encoder, progressive=self._work.progressive
            )
            return _Coded(stream, stream)
        pixels = self._codec.decode(data, decoder=self._work.decoder)
        return _Coded(data, encode_image(pixels, Path(f"output{self._work.ending}")))


def _publish(data: bytes, target: Path, scratch: Path) -> None:
    """Write a whole file or none, in its place only when it is on the disk.

    Raises:
        OutputNotWritable: the place cannot be written.
    """
    temporary = scratch / secrets.token_hex(8)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputNotWritable(f"cannot write {target}: {error.strerror or error}") from error


def _concerns_all(error: Exception) -> bool:
    cause = error.__cause__
    return isinstance(error, OutputNotWritable) and isinstance(cause, OSError) and cause.errno in _OF_THE_PLACE


def _since_ms(begin: float) -> float:
    return 1000 * (time.perf_counter() - begin)
