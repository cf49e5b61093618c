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
import os
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from glc.engines import EngineLoader, engine_loader
from glc.errors import (
    CorruptBitstream,
    EngineFailed,
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
from glc.runtime.entropy import PayloadDecoder, PayloadEncoder, SymbolModels, least_payload_bytes
from glc.runtime.messages import one_line
from glc.runtime.networks import HyperPrior, Networks, StageListener, interpolated_row
from glc.runtime.spatial_walk import PartPrior, SymbolCoder, walk
from glc.runtime.symbol_coders import LatentCoder, PayloadCoder, ZeroCoder

Image = NDArray[np.uint8]

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
        engine: str = "auto",
        threads: int | None = None,
        precision: str | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        on_stage: StageListener | None = None,
    ) -> Codec:
        """Open a bundle.

        Args:
            bundle: its path; None takes what the environment variable GLC_BUNDLE names, else the demonstration
                model that the package carries.
            engine: "auto" or an engine's name.
            threads: CPU threads for one run; None takes all that this process may use.
            precision: "f32", or "f16" or "bf16" where engine and processor can; exact graphs stay exact.
            max_pixels: limit on width times height, in both directions.
            on_stage: called with each stage's name and duration in milliseconds.

        Raises:
            BundleError: the bundle is missing, malformed, too new or altered.
            EngineUnavailable: the engine is unknown, not installed, or cannot compute in this precision here.
        """
        path = default_bundle() if bundle is None else bundle
        loader = engine_loader(engine, threads, precision)
        return cls(Bundle.open(path), loader, max_pixels=max_pixels, on_stage=on_stage)

    @property
    def qualities(self) -> int:
        """Q: qualities run from 0 to Q - 1."""
        return self.bundle.manifest.config.qualities

    @property
    def engine(self) -> str:
        """The engine with its version, precision, threads and processor."""
        return self._loader.fingerprint

    def encode(self, image: Image, quality: float = 1, *, form: Form = "file") -> bytes:
        """Encode one image.

        Args:
            image: (H, W, 3) uint8 RGB, from 1x1 up to the limit on pixels.
            quality: 0..Q-1; fractions interpolate and are rounded to the nearest 1/21.
            form: "file", or "bare" without signature, identity and checksum.

        Returns:
            The bitstream.

        Raises:
            TypeError: not an array of uint8.
            ValueError: the shape, the quality or the form is out of range.
            EngineError: the engine failed, or the latent cannot be coded.
        """
        image = self._checked_image(image)
        header = Header(quality_units(quality, self.qualities), image.shape[1], image.shape[0])
        q_row = interpolated_row(self._tables.q_enc, header.quality_units)
        y, z_indices = self._networks.analysis(image, q_row, self._hyper_size(header))
        prior = self._networks.hyper_prior(z_indices)
        payload = PayloadEncoder(self._models)
        with self._networks.stage("entropy_coding"):
            payload.put_indices(z_indices, self.bundle.manifest.config.codebook_entries)
        with np.errstate(all="ignore"):  # where a model gives no numbers, the coder says so
            self._walk(prior, LatentCoder(y / prior.quant_step, payload))
        return write_stream(header, payload.finish(), self._arithmetic, self._identity, form)

    def decode(self, data: bytes, *, form: Form = "file", allow_partial: bool = False) -> Image:
        """Decode one bitstream.

        Args:
            data: the bitstream.
            form: "file" or "bare", as it was encoded.
            allow_partial: show what a cut stream holds, as `decode_partial` does, instead of raising.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            TruncatedBitstream: it was cut, or damaged so that it ends too early.
            BitstreamError: not a bitstream, damaged, too large, or made with another model or engine.
            EngineError: the engine failed.
        """
        if allow_partial:
            return self.decode_partial(data, form=form).image
        header, y_hat = self._decode_latent(data, form)
        return self._synthesise(header, y_hat)

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
        header, y_hat, decoder = self._read_latent(info, payload, cut=form == "bare" or not info.intact)
        return PartialImage(self._synthesise(header, y_hat), decoder.symbols_read / y_hat.size)

    def decode_latent(self, data: bytes, *, form: Form = "file") -> NDArray[np.float32]:
        """Decode what the payload holds, without the synthesis transform; for measuring, or for synthesis elsewhere.

        Returns:
            y_hat (N, H/f, W/f) float32, multiplied by quant_step; H and W are the padded size.

        Raises:
            BitstreamError, EngineError: as `decode`.
        """
        return self._decode_latent(data, form)[1]

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
        return self._synthesise(info.header, self._y_hat(z_indices, ZeroCoder()))

    def encode_batch(self, images: Iterable[Image], quality: float = 1) -> list[bytes]:
        """Encode several images of any sizes; see `encode`."""
        return [self.encode(image, quality) for image in images]

    def decode_batch(self, streams: Iterable[bytes]) -> list[Image]:
        """Decode several bitstreams; see `decode`."""
        return [self.decode(data) for data in streams]

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

    def _checked_image(self, image: Image) -> Image:
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
            raise TypeError(f"image must be a numpy array of uint8; got {found}")
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"image must have shape (H, W, 3) and not be empty; got {image.shape}")
        if image.shape[0] * image.shape[1] > self._max_pixels:
            raise ValueError(f"{image.shape[1]}x{image.shape[0]} pixels exceed max_pixels = {self._max_pixels}")
        return np.ascontiguousarray(image)

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

    def _walk(self, prior: HyperPrior, coder: SymbolCoder) -> NDArray[np.float32]:
        """Walk the four parts; returns y_hat (N, h, w) in units of quant_step."""
        timed = _TimedCoder(coder, self._networks)
        return walk(prior.first, lambda part, y_hat: self._networks.spatial_prior(part, y_hat, prior.context), timed)

    def _decode_latent(self, data: bytes, form: Form) -> tuple[Header, NDArray[np.float32]]:
        info, payload = self._checked_stream(data, form)
        header, y_hat, decoder = self._read_latent(info, payload, cut=not info.intact)
        if decoder.ended:
            raise TruncatedBitstream(
                f"the bitstream was cut or damaged: it ends after {decoder.symbols_read} of {y_hat.size} symbols; "
                "allow_partial shows them"
            )
        if not info.intact:
            raise CorruptBitstream("the checksum does not match: the bitstream was damaged")
        return header, y_hat

    def _read_latent(
        self, info: StreamInfo, payload: bytes, *, cut: bool
    ) -> tuple[Header, NDArray[np.float32], PayloadDecoder]:
        decoder = PayloadDecoder(self._models, payload, cut=cut)
        with self._networks.stage("entropy_coding"):
            z_indices = self._get_indices(decoder, info.header)
        return info.header, self._y_hat(z_indices, PayloadCoder(decoder)), decoder

    def _y_hat(self, z_indices: NDArray[np.int32], coder: SymbolCoder) -> NDArray[np.float32]:
        prior = self._networks.hyper_prior(z_indices)
        with np.errstate(all="ignore"):
            y_hat = self._walk(prior, coder) * prior.quant_step
        if not np.isfinite(y_hat).all():
            raise EngineFailed("the decoded latent is not finite")
        return y_hat

    def _synthesise(self, header: Header, y_hat: NDArray[np.float32]) -> Image:
        image = self._networks.synthesis(y_hat, interpolated_row(self._tables.q_dec, header.quality_units))
        return np.ascontiguousarray(image[: header.height, : header.width])

    def _hyper_size(self, header: Header) -> tuple[int, int]:
        multiple = 4 * self.bundle.manifest.config.downsampling
        return -(-header.height // multiple), -(-header.width // multiple)

    def _get_indices(self, decoder: PayloadDecoder, header: Header) -> NDArray[np.int32]:
        return decoder.get_indices(self._hyper_size(header), self.bundle.manifest.config.codebook_entries)


class _TimedCoder:
    """Times another coder as the stage `entropy_coding`."""

    def __init__(self, coder: SymbolCoder, networks: Networks) -> None:
        self._coder = coder
        self._networks = networks

    def code(self, part: int, prior: PartPrior) -> NDArray[np.int32]:
        with self._networks.stage("entropy_coding"):
            return self._coder.code(part, prior)


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
