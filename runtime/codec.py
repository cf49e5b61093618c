"""The codec: images to bitstreams and back.

image --analysis--> y, z indices ------------------------------+
                         | hyper_prior                          |
                         v                                      v
      scale indices, means, quant_step, context --walk--> payload encoder --> bitstream
                         ^     (y_hat so far)                   |
                         | spatial_prior_1..3                   v
image <--synthesis-- y_hat <--walk-- payload decoder <---- bitstream
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from glc.engines import EngineLoader, StageListener, SupportsDevice, Tensor
from glc.errors import (
    CorruptBitstream,
    EngineError,
    EngineMismatch,
    EngineUnavailable,
    ImageTooLarge,
    ModelMismatch,
    TruncatedBitstream,
)
from glc.runtime.bitstream import (
    QUALITY_STEPS,
    Arithmetic,
    Form,
    Header,
    StreamInfo,
    as_bytes,
    quality_units,
    read_stream,
    write_stream,
)
from glc.runtime.bundle import Bundle
from glc.runtime.default_model import default_bundle
from glc.runtime.engine_choice import AUTO, loaders, named_engine
from glc.runtime.entropy import PayloadDecoder, PayloadEncoder, SymbolModels, least_payload_bytes
from glc.runtime.in_parallel import in_parallel
from glc.runtime.messages import one_line
from glc.runtime.networks import Networks, Passage, interpolated_row
from glc.runtime.signatures import EXACT_GRAPHS
from glc.runtime.symbol_coders import LatentCoder, PayloadCoder, ZeroCoder, write_parts

Image = NDArray[np.uint8]

_Out = TypeVar("_Out", bound=object)

DEFAULT_MAX_PIXELS = 1 << 27
"""Images with more pixels are refused before memory is taken: 134 million, four times 8K."""


@dataclass(frozen=True, slots=True, eq=False)
class PartialImage:
    """What the first bytes of a stream show."""

    image: Image
    """(H, W, 3)."""
    symbols: float
    """Share of the latent's symbols that the bytes tell: 0 is the preview, 1 the whole image."""


class Codec:
    """Encodes and decodes with one bundle on one engine.

    Threads may share a codec: nothing is kept between calls but the loaded graphs. Graphs load when they are first
    needed. Close it when no call runs any more, or use it in a `with` statement.
    """

    def __init__(
        self,
        bundle: Bundle,
        loader: EngineLoader,
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        on_stage: StageListener | None = None,
    ) -> None:
        """`Codec.open` does this for a path and an engine's name.

        Args:
            bundle: an open bundle.
            loader: what runs the graphs.
            max_pixels: limit on width times height, in both directions.
            on_stage: called with each stage's name and duration in milliseconds.
        """
        self.bundle = bundle
        self._loader = loader
        self._max_pixels = max_pixels
        self._tables = bundle.tables()
        self._models = SymbolModels(self._tables.scales)
        self._arithmetic, self._identity = _identity(bundle, loader)
        self._networks = Networks(bundle, loader, on_stage)

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        engine: str | None = None,
        threads: int | None = None,
        precision: str | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        on_stage: StageListener | None = None,
    ) -> Codec:
        """Open a bundle.

        Args:
            bundle: its path; None takes what the environment variable GLC_BUNDLE names, else the demonstration
                model that the package carries.
            engine: its name; None takes what the environment variable GLC_ENGINE names, else "auto": the fastest that
                is installed and gets the bundle's conformance cases right. `Codec.engine` says which.
            threads: CPU threads for one run; None takes all that this process may use.
            precision: "f32", or "f16" or "bf16" where engine and processor can; exact graphs stay exact.
            max_pixels: limit on width times height, in both directions.
            on_stage: called with each stage's name and duration in milliseconds.

        Raises:
            BundleError: the bundle is missing, malformed, too new or altered.
            EngineUnavailable: the engine is unknown, not installed, or cannot compute in this precision here.
        """
        opened = Bundle.open(default_bundle() if bundle is None else bundle)
        named = named_engine(engine)
        refused: list[str] = []
        for loader in loaders(opened, named, threads, precision):
            codec = cls(opened, loader, max_pixels=max_pixels, on_stage=on_stage)
            if named != AUTO:
                return codec
            try:
                codec.require_conformance()
            except EngineError as error:
                codec.close()
                refused.append(str(error))
            else:
                return codec
        raise EngineUnavailable(f"no engine that is here runs this bundle: {'; '.join(refused)}")

    @property
    def qualities(self) -> int:
        """Q: qualities run from 0 to Q - 1."""
        return self.bundle.manifest.config.qualities

    @property
    def engine(self) -> str:
        """The engine with its version, precision, threads and processor."""
        return self._loader.fingerprint

    @property
    def engine_name(self) -> str:
        """The engine's name, as `open` takes it."""
        return self._loader.name

    def encode(self, image: Image | SupportsDevice, quality: float = 1, *, form: Form = "file") -> bytes:
        """Encode one image.

        Args:
            image: (H, W, 3) uint8 RGB, from 1x1 up to the limit on pixels; where the engine is on a device, also what
                lies there and speaks DLPack or `__cuda_array_interface__`, which is then read without the CPU.
            quality: 0..Q-1; fractions interpolate and are rounded to the nearest 1/21.
            form: "file", or "bare" without signature, identity and checksum.

        Returns:
            The bitstream.

        Raises:
            TypeError: not of uint8, or not where the engine can read it.
            ValueError: the shape, the quality or the form is out of range.
            EngineError: the engine failed, or the latent cannot be coded.
        """
        pixels = self._checked_image(image)
        _, height, width, _ = pixels.shape
        header = Header(quality_units(quality, self.qualities), width, height)
        q_row = interpolated_row(self._tables.q_enc, header.quality_units)
        with self._networks.passage() as passage:
            y, z_indices = passage.analysis(pixels, q_row, self._hyper_size(header))
            prior = passage.hyper_prior(z_indices)
            coder = LatentCoder(passage.steps.split(y, prior.quant_step), passage.steps)
            passage.walk(prior, coder)
            made = passage.fetch({"z_indices": z_indices, **coder.made})
        with self._networks.stage("entropy_coding"):
            payload = PayloadEncoder(self._models)
            payload.put_indices(made.pop("z_indices")[0], self.bundle.manifest.config.codebook_entries)
            write_parts(made, payload)
            return write_stream(header, payload.finish(), self._arithmetic, self._identity, form)

    @overload
    def decode(self, data: bytes, *, form: Form = "file", allow_partial: bool = False, out: None = None) -> Image: ...
    @overload
    def decode(self, data: bytes, *, form: Form = "file", allow_partial: bool = False, out: _Out) -> _Out: ...
    def decode(
        self, data: bytes, *, form: Form = "file", allow_partial: bool = False, out: _Out | None = None
    ) -> Image | _Out:
        """Decode one bitstream.

        Args:
            data: the bitstream.
            form: "file" or "bare", as it was encoded.
            allow_partial: show what a cut stream holds, as `decode_partial` does, instead of raising.
            out: (H, W, 3) uint8 to write the image into: an array, or where the engine is on a device also what lies
                there and speaks DLPack or `__cuda_array_interface__`, which is then written without the CPU.

        Returns:
            (H, W, 3) uint8 RGB; `out` itself where it was given.

        Raises:
            TruncatedBitstream: it was cut, or damaged so that it ends too early.
            BitstreamError: not a bitstream, damaged, too large, or made with another model or engine.
            EngineError: the engine failed.
            TypeError: `out` is not of uint8, or not where the engine can write it.
            ValueError: `out` has another shape than the image, or is read-only.
        """
        info, payload = self._checked_stream(data, form)
        image = _empty_image(info.header) if out is None else out
        self._decode_into(self._checked_out(image, info.header), info, payload, partial=allow_partial)
        return image

    def decode_partial(self, data: bytes, *, form: Form = "file") -> PartialImage:
        """Decode a stream of which only the first bytes may be there; missing symbols are zero.

        A damaged stream cannot be told from a cut one: where the checksum does not match, the image shows what the
        bytes say. The bare form has no checksum, and its streams are taken for cut ones: the last symbols of a whole
        one, which rest on bytes that the encoder left out as zeros, may then be zero too.

        Raises:
            TruncatedBitstream: not even the z indices are whole.
            BitstreamError: as `decode`, but for the checksum.
            EngineError: the engine failed.
        """
        info, payload = self._checked_stream(data, form)
        image = _empty_image(info.header)
        return PartialImage(image, self._decode_into(image[None], info, payload, partial=True))

    def decode_latent(self, data: bytes, *, form: Form = "file") -> NDArray[np.float32]:
        """Decode what the payload holds, without the synthesis transform; for measuring, or for synthesis elsewhere.

        Returns:
            y_hat (N, H/f, W/f) float32, multiplied by quant_step; H and W are the padded size.

        Raises:
            BitstreamError, EngineError: as `decode`.
        """
        info, payload = self._checked_stream(data, form)
        with self._networks.passage() as passage:
            latent, decoder = self._read_latent(passage, info, payload, cut=not info.intact)
            _require_whole(info, decoder, latent)
            y_hat: NDArray[np.float32] = passage.fetch({"latent": latent})["latent"][0]
        return y_hat

    def preview(self, data: bytes, *, form: Form = "file") -> Image:
        """Decode from the z indices alone, every symbol zero; works on a stream cut behind them.

        The bare form has no checksum that would tell a cut stream from a whole one: there the caller must know.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            TruncatedBitstream: the cut lies before the end of the z indices.
            BitstreamError: as `decode`, but for the checksum, which a cut stream cannot match.
            EngineError: the engine failed.
        """
        info, payload = self._checked_stream(data, form)
        decoder = PayloadDecoder(self._models, payload, cut=not info.intact)
        z_indices = self._get_indices(decoder, info.header)
        image = _empty_image(info.header)
        with self._networks.passage() as passage:
            prior = passage.hyper_prior(z_indices)
            latent = passage.steps.dequantise(passage.walk(prior, ZeroCoder()), prior.quant_step)
            self._synthesise(passage, info.header, latent, image[None])
        return image

    def encode_batch(self, images: Iterable[Image], quality: float = 1, *, workers: int = 1) -> list[bytes]:
        """Encode several images of any sizes; see `encode`.

        Args:
            images: read as they are needed.
            quality: of all of them.
            workers: images under way at once, each with the codec's threads and an image's memory. Most images a
                second come from as many workers as there are cores, and a codec of one thread.
        """
        return in_parallel(lambda image: self.encode(image, quality), images, workers)

    def decode_batch(self, streams: Iterable[bytes], *, workers: int = 1) -> list[Image]:
        """Decode several bitstreams; see `decode`, and `encode_batch` for workers."""
        return in_parallel(self.decode, streams, workers)

    def require_conformance(self) -> None:
        """Load the first exact graph, which the engine must compute to the last bit; in float arithmetic do nothing.

        Raises:
            EngineNotExact: it does not.
            EngineError: it cannot load the graph.
        """
        if self.bundle.manifest.arithmetic == "exact":
            self._networks.engine(EXACT_GRAPHS[0])

    def warm_up(self) -> None:
        """Load every graph now, rather than when it is first needed."""
        self._networks.load_all()

    def close(self) -> None:
        """Free the loaded graphs; every later call raises EngineFailed. Closing twice is harmless."""
        self._networks.close()

    def __enter__(self) -> Codec:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked_image(self, image: Image | SupportsDevice) -> Tensor:
        """Image (1, H, W, 3), where the engine reads it."""
        pixels = self._loader.adopt(image, "image")
        if pixels.dtype != np.uint8:
            raise TypeError(f"image must be of uint8; got {pixels.dtype}")
        shape = pixels.shape[1:]
        if len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"image must have shape (H, W, 3) and not be empty; got {shape}")
        if shape[0] * shape[1] > self._max_pixels:
            raise ValueError(f"{shape[1]}x{shape[0]} pixels exceed max_pixels = {self._max_pixels}")
        return pixels

    def _checked_out(self, out: object, header: Header) -> Tensor:
        """What an image (1, H, W, 3) is written into."""
        target = self._loader.adopt(out, "out")
        if target.dtype != np.uint8:
            raise TypeError(f"out must be of uint8; got {target.dtype}")
        if target.shape != (1, header.height, header.width, 3):
            raise ValueError(f"out has shape {target.shape[1:]}; the image has {(header.height, header.width, 3)}")
        if isinstance(target, np.ndarray) and not target.flags.writeable:
            raise ValueError("out is read-only")
        return target

    def _checked_stream(self, data: bytes, form: Form) -> tuple[StreamInfo, bytes]:
        """Refuse what cannot be decoded here before any memory is taken for it."""
        info, payload = read_stream(as_bytes(data), form)
        if form == "file":
            self._require_identity(info)
        header = info.header
        if header.quality_units > (self.qualities - 1) * QUALITY_STEPS:
            raise CorruptBitstream(f"quality {header.quality:.2f} is out of range 0..{self.qualities - 1}")
        if header.width * header.height > self._max_pixels:
            raise ImageTooLarge(
                f"{header.width}x{header.height} pixels exceed max_pixels = {self._max_pixels}; "
                "raise the limit if you trust the source"
            )
        rows, columns = self._hyper_size(header)
        least = least_payload_bytes(rows * columns, self.bundle.manifest.config.codebook_entries)
        if len(payload) < least:
            raise TruncatedBitstream(
                f"{header.width}x{header.height} pixels need a payload of at least {least} bytes; got {len(payload)}"
            )
        return info, payload

    def _require_identity(self, info: StreamInfo) -> None:
        if (info.arithmetic, info.identity) == (self._arithmetic, self._identity):
            return
        model_bytes = 2 if info.arithmetic.engine else 4
        ours = bytes.fromhex(self.bundle.manifest.model_id)[:model_bytes].hex()
        made = info.identity[:model_bytes].hex()
        if made != ours:
            label = one_line(self.bundle.manifest.label)
            raise ModelMismatch(
                f"the stream was made with model {made}; this bundle is model {ours} ({label}): "
                "open the bundle that made it"
            )
        raise EngineMismatch(
            f"the stream was made with {info.arithmetic.engine or 'exact arithmetic'}, tag {info.identity[2:].hex()}; "
            f"this codec is {self._loader.fingerprint}, tag {self._identity[2:].hex()}. Float arithmetic decodes only "
            "where it was encoded: same engine, version, threads and processor"
        )

    def _read_latent(
        self, passage: Passage, info: StreamInfo, payload: bytes, *, cut: bool
    ) -> tuple[Tensor, PayloadDecoder]:
        """Latent (1, N, h, w) times quant_step, and the decoder behind the last symbol."""
        decoder = PayloadDecoder(self._models, payload, cut=cut)
        with self._networks.stage("entropy_coding"):
            z_indices = self._get_indices(decoder, info.header)
        prior = passage.hyper_prior(z_indices)
        coder = PayloadCoder(decoder, passage.fetch, lambda: self._networks.stage("entropy_coding"))
        return passage.steps.dequantise(passage.walk(prior, coder), prior.quant_step), decoder

    def _decode_into(self, out: Tensor, info: StreamInfo, payload: bytes, *, partial: bool) -> float:
        """Write the image into `out` (1, H, W, 3); returns the share of symbols that the payload tells."""
        with self._networks.passage() as passage:
            cut = not info.intact or (partial and info.form == "bare")
            latent, decoder = self._read_latent(passage, info, payload, cut=cut)
            if not partial:
                _require_whole(info, decoder, latent)
            self._synthesise(passage, info.header, latent, out)
        return decoder.symbols_read / math.prod(latent.shape)

    def _synthesise(self, passage: Passage, header: Header, latent: Tensor, out: Tensor) -> None:
        """Write the image into `out` (1, H, W, 3)."""
        passage.store(passage.synthesis(latent, interpolated_row(self._tables.q_dec, header.quality_units)), out)

    def _hyper_size(self, header: Header) -> tuple[int, int]:
        multiple = 4 * self.bundle.manifest.config.downsampling
        return -(-header.height // multiple), -(-header.width // multiple)

    def _get_indices(self, decoder: PayloadDecoder, header: Header) -> NDArray[np.int32]:
        """Z indices (1, h/4, w/4)."""
        return decoder.get_indices(self._hyper_size(header), self.bundle.manifest.config.codebook_entries)[None]


def _require_whole(info: StreamInfo, decoder: PayloadDecoder, latent: Tensor) -> None:
    """Refuse a stream that has not told all symbols of the latent."""
    if decoder.ended:
        raise TruncatedBitstream(
            f"the bitstream was cut or damaged: it ends after {decoder.symbols_read} of {math.prod(latent.shape)} "
            "symbols; allow_partial shows them"
        )
    if not info.intact:
        raise CorruptBitstream("the checksum does not match: the bitstream was damaged")


def _empty_image(header: Header) -> Image:
    return np.empty((header.height, header.width, 3), np.uint8)


def _identity(bundle: Bundle, loader: EngineLoader) -> tuple[Arithmetic, bytes]:
    """What streams of this codec are marked with: the model, and for float arithmetic the engine too."""
    model = bytes.fromhex(bundle.manifest.model_id)
    if bundle.manifest.arithmetic == "exact":
        return Arithmetic.EXACT, model[:4]
    tag = hashlib.sha256(loader.fingerprint.encode()).digest()
    code = f"FLOAT_{loader.name.upper()}"
    if code not in Arithmetic.__members__:
        raise EngineUnavailable(f"streams in float arithmetic have no code for engine {loader.name!r}")
    return Arithmetic[code], model[:2] + tag[:2]
