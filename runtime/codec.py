"""The codec: images to bitstreams and back, for threads and event loops.

encode  image --Checks--> (1, H, W, 3) --Coding--> payload --write_stream--> bitstream
decode  bitstream --Checks--> header, payload --Coding--> image
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from glc.engines import LentPixels, Tensor
from glc.runtime.bitstream import Form, Header, quality_units, write_stream
from glc.runtime.in_parallel import in_parallel
from glc.runtime.open_codec import DEFAULT_MAX_PIXELS, OpenCodec
from glc.runtime.refinement import find_refinements
from glc.runtime.transforms import OWN

__all__ = ["DEFAULT_MAX_PIXELS", "Codec", "Image", "PartialImage"]

Image = NDArray[np.uint8]

_Out = TypeVar("_Out", bound=object)


@dataclass(frozen=True, slots=True, eq=False)
class PartialImage:
    """What the first bytes of a stream show."""

    image: Image
    """(H, W, 3)."""
    symbols: float
    """Share of the latent's symbols that the bytes tell: 0 is the preview, 1 the whole image."""


class Codec(OpenCodec):
    """Encodes and decodes with one bundle on one engine.

    Threads and event loops may share a codec: nothing is kept between calls but the loaded graphs, which load when
    they are first needed. Close it, or use it in a `with` statement. A forked process must open its own
    (docs/embedding.md).
    """

    def encode(
        self,
        image: LentPixels,
        quality: float = 1,
        *,
        form: Form = "file",
        encoder: str = OWN,
        progressive: bool = False,
    ) -> bytes:
        """Encode one image.

        Args:
            image: (H, W, 3) uint8 RGB, from 1x1 up to the limit on pixels: an array of any strides, or what lends
                its memory by the buffer protocol, `__array_interface__` or DLPack; where the engine is on a device,
                also what lies there, with `__cuda_array_interface__` too, which is then read without the CPU.
            quality: 0..Q-1; fractions interpolate and are rounded to the nearest 1/21.
            form: "file", or "bare" without signature, identity and checksum.
            encoder: one of `encoders`; every decoder decodes what any of them made.
            progressive: state at which bytes the image gets better, so that a stream which arrives bit by bit never
                shows a worse one. It takes 3 bytes, 4 from 2 KiB on, and the time of 18 decodings.

        Returns:
            The bitstream.

        Raises:
            TypeError: not of uint8, or not where the engine can read it.
            ValueError: the shape, the quality or the form is out of range, there is no such encoder, or a progressive
                stream is to have the bare form.
            EngineError: the engine failed, or the latent cannot be coded.
        """
        if progressive and form == "bare":
            raise ValueError("a progressive stream cannot have the bare form: take form 'file'")
        analysis = self._checks.encoder(encoder)
        pixels = self._checks.image(image)
        wanted = _on_cpu(pixels) if progressive else None
        _, height, width, _ = pixels.shape
        header = Header(quality_units(quality, self.qualities), width, height)
        with self._lifetime.call():
            payload = self._coding.payload(pixels, header, analysis)
        data = write_stream(header, payload, self._checks.arithmetic, self._checks.identity, form)
        if wanted is not None:
            header = replace(header, refinements=find_refinements(self, data, wanted))
            data = write_stream(header, payload, self._checks.arithmetic, self._checks.identity, form)
        return data

    @overload
    def decode(
        self, data: bytes, *, form: Form = "file", allow_partial: bool = False, out: None = None, decoder: str = OWN
    ) -> Image: ...
    @overload
    def decode(
        self, data: bytes, *, form: Form = "file", allow_partial: bool = False, out: _Out, decoder: str = OWN
    ) -> _Out: ...
    def decode(
        self,
        data: bytes,
        *,
        form: Form = "file",
        allow_partial: bool = False,
        out: _Out | None = None,
        decoder: str = OWN,
    ) -> Image | _Out:
        """Decode one bitstream.

        Args:
            data: the bitstream.
            form: "file" or "bare", as it was encoded.
            allow_partial: show what a cut stream holds, as `decode_partial` does, instead of raising.
            out: (H, W, 3) uint8 to write the image into: anything that `encode` takes and that can be written.
            decoder: one of `decoders`, whatever encoder made the stream.

        Returns:
            (H, W, 3) uint8 RGB; `out` itself where it was given.

        Raises:
            TruncatedBitstream: it was cut, or damaged so that it ends too early.
            BitstreamError: not a bitstream, damaged, too large, or made with another model or engine.
            EngineError: the engine failed.
            TypeError: `out` is not of uint8, or not where the engine can write it.
            ValueError: `out` has another shape than the image, or is read-only, or there is no such decoder.
        """
        synthesis = self._checks.decoder(decoder)
        info, payload = self._checks.stream(data, form)
        image = _empty_image(info.header) if out is None else out
        target = self._checks.out(image, info.header)
        with self._lifetime.call():
            self._coding.image(target, info, payload, synthesis, partial=allow_partial)
        return image

    def decode_partial(self, data: bytes, *, form: Form = "file", decoder: str = OWN) -> PartialImage:
        """Decode a stream of which only the first bytes may be there; missing symbols are zero.

        A progressive stream shows what its last refinement that is there shows, before the first one the preview.

        A damaged stream cannot be told from a cut one: where the checksum does not match, the image shows what the
        bytes say. The bare form has no checksum, and its streams are taken for cut ones: the last symbols of a whole
        one, which rest on bytes that the encoder left out as zeros, may then be zero too.

        Raises:
            TruncatedBitstream: not even the z indices are whole.
            BitstreamError: as `decode`, but for the checksum.
            EngineError: the engine failed.
            ValueError: there is no such decoder.
        """
        synthesis = self._checks.decoder(decoder)
        info, payload = self._checks.stream(data, form)
        image = _empty_image(info.header)
        with self._lifetime.call():
            return PartialImage(image, self._coding.image(image[None], info, payload, synthesis, partial=True))

    def decode_latent(self, data: bytes, *, form: Form = "file") -> NDArray[np.float32]:
        """Decode what the payload holds, without the synthesis transform; for measuring, or for synthesis elsewhere.

        Returns:
            y_hat (N, H/f, W/f) float32, multiplied by quant_step; H and W are the padded size.

        Raises:
            BitstreamError, EngineError: as `decode`.
        """
        info, payload = self._checks.stream(data, form)
        with self._lifetime.call():
            return self._coding.latent(info, payload)

    def preview(self, data: bytes, *, form: Form = "file", decoder: str = OWN) -> Image:
        """Decode from the z indices alone, every symbol zero; works on a stream cut behind them.

        The bare form has no checksum that would tell a cut stream from a whole one: there the caller must know.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            TruncatedBitstream: the cut lies before the end of the z indices.
            BitstreamError: as `decode`, but for the checksum, which a cut stream cannot match.
            EngineError: the engine failed.
            ValueError: there is no such decoder.
        """
        synthesis = self._checks.decoder(decoder)
        info, payload = self._checks.stream(data, form)
        image = _empty_image(info.header)
        with self._lifetime.call():
            self._coding.preview(image[None], info, payload, synthesis)
        return image

    def encode_batch(
        self,
        images: Iterable[Image],
        quality: float = 1,
        *,
        workers: int = 1,
        encoder: str = OWN,
        progressive: bool = False,
    ) -> list[bytes]:
        """Encode several images of any sizes; see `encode`.

        Args:
            images: read as they are needed.
            quality: of all of them.
            workers: images under way at once, each with the codec's threads and an image's memory. Most images a
                second come from as many workers as there are cores, and a codec of one thread.
            encoder: of all of them.
            progressive: all of them.
        """
        return in_parallel(
            lambda image: self.encode(image, quality, encoder=encoder, progressive=progressive), images, workers
        )

    def decode_batch(self, streams: Iterable[bytes], *, workers: int = 1, decoder: str = OWN) -> list[Image]:
        """Decode several bitstreams; see `decode`, and `encode_batch` for workers."""
        return in_parallel(lambda stream: self.decode(stream, decoder=decoder), streams, workers)

    async def aencode(
        self,
        image: LentPixels,
        quality: float = 1,
        *,
        form: Form = "file",
        encoder: str = OWN,
        progressive: bool = False,
    ) -> bytes:
        """Await `encode`; cancelled, it may still read the image until the codec is closed."""
        return await self._background.run(
            lambda: self.encode(image, quality, form=form, encoder=encoder, progressive=progressive)
        )

    @overload
    async def adecode(
        self, data: bytes, *, form: Form = "file", allow_partial: bool = False, out: None = None, decoder: str = OWN
    ) -> Image: ...
    @overload
    async def adecode(
        self, data: bytes, *, form: Form = "file", allow_partial: bool = False, out: _Out, decoder: str = OWN
    ) -> _Out: ...
    async def adecode(
        self,
        data: bytes,
        *,
        form: Form = "file",
        allow_partial: bool = False,
        out: _Out | None = None,
        decoder: str = OWN,
    ) -> Image | _Out:
        """Await `decode`; cancelled, it may still write into `out` until the codec is closed."""
        return await self._background.run(
            lambda: self.decode(data, form=form, allow_partial=allow_partial, out=out, decoder=decoder)
        )

    async def adecode_partial(self, data: bytes, *, form: Form = "file", decoder: str = OWN) -> PartialImage:
        """Await `decode_partial`."""
        return await self._background.run(lambda: self.decode_partial(data, form=form, decoder=decoder))

    async def apreview(self, data: bytes, *, form: Form = "file", decoder: str = OWN) -> Image:
        """Await `preview`."""
        return await self._background.run(lambda: self.preview(data, form=form, decoder=decoder))


def _on_cpu(pixels: Tensor) -> Image:
    """Image (H, W, 3) of (1, H, W, 3)."""
    if not isinstance(pixels, np.ndarray):
        raise TypeError("a progressive stream needs its image in memory of the CPU")
    image: Image = pixels[0]
    return image


def _empty_image(header: Header) -> Image:
    return np.empty((header.height, header.width, 3), np.uint8)
