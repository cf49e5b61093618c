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

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from glc.engines import Engine, EngineLoader, engine_loader
from glc.errors import (
    BundleNotFound,
    CorruptBitstream,
    EngineFailed,
    EngineMismatch,
    EngineRejectedGraph,
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
    quality_units,
    read_stream,
    write_stream,
)
from glc.runtime.bundle import Bundle
from glc.runtime.entropy import PayloadDecoder, PayloadEncoder, SymbolModels
from glc.runtime.spatial_walk import PartPrior, gather_part, walk

Image = NDArray[np.uint8]
Latent = NDArray[np.float32]

DEFAULT_MAX_PIXELS = 1 << 27
"""Images with more pixels are refused before memory is taken: 134 million, four times 8K."""

_MAX_SYMBOL = 1 << 23


class Codec:
    """Encodes and decodes with one bundle on one engine.

    Threads may share a codec: nothing is kept between calls but the loaded graphs. Graphs load when they are first
    needed. Close it, or use it in a `with` statement.
    """

    def __init__(
        self,
        bundle: Bundle,
        loader: EngineLoader,
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        on_stage: Callable[[str, float], None] | None = None,
    ) -> None:
        """Use `Codec.open` unless the bundle or the engine is yours.

        Args:
            bundle: an open bundle.
            loader: what runs the graphs.
            max_pixels: limit on width times height, in both directions.
            on_stage: called with the name and duration in milliseconds of every stage that ends, from the thread
                that ran it.
        """
        self.bundle = bundle
        self._loader = loader
        self._max_pixels = max_pixels
        self._on_stage = on_stage
        self._tables = bundle.tables()
        self._models = SymbolModels(self._tables.scales)
        self._arithmetic, self._identity = _identity(bundle, loader)
        self._engines: dict[str, Engine] = {}
        self._loading = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        engine: str = "auto",
        threads: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        on_stage: Callable[[str, float], None] | None = None,
    ) -> Codec:
        """Open a bundle.

        Args:
            bundle: its path; None takes the environment variable GLC_BUNDLE.
            engine: "auto" or an engine's name.
            threads: CPU threads for one run; None takes all that this process may use.
            max_pixels: limit on width times height, in both directions.
            on_stage: called with each stage's name and duration in milliseconds.

        Raises:
            BundleError: the bundle is missing, malformed, too new or altered.
            EngineUnavailable: the engine is unknown or not installed.
        """
        path = bundle or os.environ.get("GLC_BUNDLE")
        if not path:
            raise BundleNotFound("no bundle given: pass a path, or set the environment variable GLC_BUNDLE")
        return cls(Bundle.open(path), engine_loader(engine, threads), max_pixels=max_pixels, on_stage=on_stage)

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
            TypeError, ValueError: not such an image, or quality or form out of range.
            EngineError: the engine failed, or the latent cannot be coded.
        """
        image = self._checked_image(image)
        units = quality_units(quality, self.qualities)
        y, z_indices = self._run("analysis", image=image[None], q_row=self._q_row(self._tables.q_enc, units))
        first, quant_step, context = self._hyper_prior(z_indices)
        target = np.asarray(y / quant_step, np.float32)[0]
        payload = PayloadEncoder(self._models)
        with self._stage("entropy_coding"):
            payload.put_indices(z_indices, self.bundle.manifest.config.codebook_entries)
        walk(first, self._next_prior(context), _LatentCoder(target, payload, self._stage))
        header = Header(units, image.shape[1], image.shape[0])
        return write_stream(header, payload.finish(), self._arithmetic, self._identity, form)

    def decode(self, data: bytes, *, form: Form = "file") -> Image:
        """Decode one bitstream.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            BitstreamError: not a bitstream, damaged, too large, or made with another model or engine.
            EngineError: the engine failed.
        """
        info, payload = self._checked_stream(data, form)
        if not info.intact:
            raise CorruptBitstream("the checksum does not match: the file was damaged")
        decoder = PayloadDecoder(self._models, payload)
        with self._stage("entropy_coding"):
            z_indices = self._get_indices(decoder, info.header)
        return self._finish(info.header, z_indices, _PayloadCoder(decoder, self._stage))

    def preview(self, data: bytes, *, form: Form = "file") -> Image:
        """Decode from the z indices alone, every symbol zero; works on a stream cut behind them.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            TruncatedBitstream: the cut lies before the end of the z indices.
            BitstreamError: as `decode`, but for the checksum, which a cut stream cannot match.
            EngineError: the engine failed.
        """
        info, payload = self._checked_stream(data, form)
        # What was cut off lies between all zeros and all ones; indices that both ends agree on are certain.
        lowest, highest = (
            self._get_indices(PayloadDecoder(self._models, payload + bytes((fill,)) * 16), info.header)
            for fill in (0x00, 0xFF)
        )
        if not info.intact and (lowest != highest).any():
            raise TruncatedBitstream(f"the bitstream ends before its preview does, after {len(data)} bytes")
        return self._finish(info.header, lowest, _ZeroCoder())

    def encode_batch(self, images: Iterable[Image], quality: float = 1) -> list[bytes]:
        """Encode several images of any sizes; see `encode`."""
        return [self.encode(image, quality) for image in images]

    def decode_batch(self, streams: Iterable[bytes]) -> list[Image]:
        """Decode several bitstreams; see `decode`."""
        return [self.decode(data) for data in streams]

    def warm_up(self) -> None:
        """Load every graph now, rather than when it is first needed."""
        for name in self.bundle.manifest.graphs:
            self._engine(name)

    def close(self) -> None:
        """Free the loaded graphs; calls that still run elsewhere must have ended."""
        with self._loading:
            self._closed = True
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()

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
        info, payload = read_stream(bytes(data), form)
        if form == "file":
            self._require_identity(info)
        header, config = info.header, self.bundle.manifest.config
        if header.quality_units > (self.qualities - 1) * QUALITY_STEPS:
            raise CorruptBitstream(f"quality {header.quality:.2f} is out of range 0..{self.qualities - 1}")
        if header.width * header.height > self._max_pixels:
            raise ImageTooLarge(
                f"{header.width}x{header.height} pixels exceed max_pixels = {self._max_pixels}; "
                "raise the limit if you trust the source"
            )
        # Indices are equally probable, so their bits are known; the coder's final state may save 8 bytes.
        rows, columns = self._hyper_size(header)
        least = int(rows * columns * np.log2(config.codebook_entries) / 8) - 8
        if len(payload) < least:
            raise TruncatedBitstream(
                f"{header.width}x{header.height} pixels need a payload of at least {least} bytes; got {len(payload)}"
            )
        return info, payload

    def _require_identity(self, info: StreamInfo) -> None:
        if (info.arithmetic, info.identity) == (self._arithmetic, self._identity):
            return
        model_bytes = 2 if info.arithmetic.engine else 4
        ours = bytes.fromhex(self.bundle.manifest.model_id)
        if info.identity[:model_bytes] != ours[:model_bytes]:
            raise ModelMismatch(
                f"the stream was made with model {info.identity[:model_bytes].hex()}; this bundle is model "
                f"{ours[:model_bytes].hex()} ({self.bundle.manifest.label}): open the bundle that made it"
            )
        made = info.arithmetic.engine or "exact arithmetic"
        raise EngineMismatch(
            f"the stream was made by {made} (tag {info.identity[model_bytes:].hex()}) and float arithmetic decodes only "
            f"there; this codec is {self._loader.fingerprint} (tag {self._identity[2:].hex()})"
        )

    def _finish(self, header: Header, z_indices: NDArray[np.int32], coder: _ZeroCoder | _PayloadCoder) -> Image:
        first, quant_step, context = self._hyper_prior(z_indices)
        y_hat = walk(first, self._next_prior(context), coder)
        (image,) = self._run(
            "synthesis",
            y_hat=np.asarray(y_hat * quant_step, np.float32),
            q_row=self._q_row(self._tables.q_dec, header.quality_units),
        )
        return np.ascontiguousarray(image[0, : header.height, : header.width])

    def _hyper_size(self, header: Header) -> tuple[int, int]:
        multiple = 4 * self.bundle.manifest.config.downsampling
        return -(-header.height // multiple), -(-header.width // multiple)

    def _get_indices(self, decoder: PayloadDecoder, header: Header) -> NDArray[np.int32]:
        shape = (1, *self._hyper_size(header))
        return decoder.get_indices(shape, self.bundle.manifest.config.codebook_entries)

    def _hyper_prior(self, z_indices: NDArray[np.int32]) -> tuple[PartPrior, Latent, Latent]:
        scale_indices, means, quant_step, context = self._run("hyper_prior", z_indices=z_indices)
        return PartPrior(scale_indices[0], means[0]), quant_step, context

    def _next_prior(self, context: Latent) -> Callable[[int, Latent], PartPrior]:
        def prior(part: int, y_hat: Latent) -> PartPrior:
            scale_indices, means = self._run(f"spatial_prior_{part}", y_hat=y_hat[None], context=context)
            return PartPrior(scale_indices[0], means[0])

        return prior

    def _q_row(self, rows: Latent, units: int) -> Latent:
        low, fraction = divmod(units, QUALITY_STEPS)
        high = min(low + 1, len(rows) - 1)
        row = rows[low] + np.float32(fraction / QUALITY_STEPS) * (rows[high] - rows[low])
        return np.asarray(row, np.float32).reshape(1, -1, 1, 1)

    def _run(self, graph: str, **feeds: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        engine = self._engine(graph)
        with self._stage(graph):
            results = engine.run(feeds)
        return [results[spec.name] for spec in self.bundle.manifest.graphs[graph].outputs]

    def _engine(self, graph: str) -> Engine:
        engine = self._engines.get(graph)
        if engine is not None:
            return engine
        with self._loading:
            if self._closed:
                raise EngineFailed("this codec is closed")
            if graph not in self._engines:
                with self._stage(f"load_{graph}"):
                    self._engines[graph] = self._load(graph)
            return self._engines[graph]

    def _load(self, graph: str) -> Engine:
        entry, content = self.bundle.graph(graph)
        engine = self._loader.load(content)
        if (engine.inputs, engine.outputs) != (entry.inputs, entry.outputs):
            found = ", ".join(map(str, engine.inputs + engine.outputs))
            expected = ", ".join(map(str, entry.inputs + entry.outputs))
            raise EngineRejectedGraph(f"graph {graph} has {found}; the manifest says {expected}")
        return engine

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self._on_stage is not None:
            self._on_stage(name, 1e3 * (time.perf_counter() - start))


_StageTimer = Callable[[str], contextlib.AbstractContextManager[None]]


class _LatentCoder:
    """Symbol encoder: rounds the latent against the means, writes the symbols and returns them."""

    def __init__(self, target: Latent, payload: PayloadEncoder, stage: _StageTimer) -> None:
        self._target = target
        self._payload = payload
        self._stage = stage

    def code(self, part: int, prior: PartPrior) -> NDArray[np.int32]:
        with self._stage("entropy_coding"):
            rounded = np.rint(gather_part(self._target, part) - prior.means)
            if not (np.abs(rounded) < _MAX_SYMBOL).all():  # false for NaN too
                raise EngineFailed(f"part {part} of the latent is not finite or too large to code")
            symbols = rounded.astype(np.int32)
            self._payload.put_part(symbols, prior.scale_indices)
        return symbols


class _PayloadCoder:
    """Symbol decoder: reads the symbols."""

    def __init__(self, payload: PayloadDecoder, stage: _StageTimer) -> None:
        self._payload = payload
        self._stage = stage

    def code(self, part: int, prior: PartPrior) -> NDArray[np.int32]:  # noqa: ARG002 - payloads are in order
        with self._stage("entropy_coding"):
            return self._payload.get_part(prior.scale_indices)


class _ZeroCoder:
    """Every symbol zero."""

    def code(self, part: int, prior: PartPrior) -> NDArray[np.int32]:  # noqa: ARG002
        return np.zeros(prior.means.shape, np.int32)


def _identity(bundle: Bundle, loader: EngineLoader) -> tuple[Arithmetic, bytes]:
    """What streams of this codec are marked with: the model, and for float arithmetic the engine too."""
    model = bytes.fromhex(bundle.manifest.model_id)
    if bundle.manifest.arithmetic == "exact":
        return Arithmetic.EXACT, model[:4]
    tag = hashlib.sha256(loader.fingerprint.encode()).digest()
    return Arithmetic[f"FLOAT_{loader.name.upper()}"], model[:2] + tag[:2]
