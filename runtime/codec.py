"""The codec: images to bitstreams and back, for threads and event loops.

encode  image --Checks--> (1, H, W, 3) --Coding--> payload --write_stream--> bitstream
decode  bitstream --Checks--> header, payload --Coding--> image
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from glc.engines import EngineLoader, LentPixels, StageListener
from glc.engines.processor import available_threads
from glc.errors import EngineError, EngineUnavailable
from glc.runtime.background import Background
from glc.runtime.bitstream import Form, Header, quality_units, write_stream
from glc.runtime.bounded_networks import BoundedNetworks
from glc.runtime.bundle import Bundle
from glc.runtime.checks import Checks
from glc.runtime.coding import Coding
from glc.runtime.default_model import default_bundle
from glc.runtime.engine_choice import AUTO, loaders, named_engine
from glc.runtime.entropy import SymbolModels
from glc.runtime.in_parallel import in_parallel
from glc.runtime.lifetime import Lifetime
from glc.runtime.networks import Networks
from glc.runtime.signatures import EXACT_GRAPHS
from glc.runtime.tile_plan import TilePlan
from glc.runtime.tiled_transforms import Progress

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

    Threads and event loops may share a codec: nothing is kept between calls but the loaded graphs, which load when
    they are first needed. Close it, or use it in a `with` statement. A forked process must open its own
    (docs/embedding.md).
    """

    def __init__(
        self,
        bundle: Bundle,
        loader: EngineLoader,
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        memory_limit_bytes: int | None = None,
        on_stage: StageListener | None = None,
        on_progress: Progress | None = None,
        async_workers: int = 2,
    ) -> None:
        """`Codec.open` does this for a path and an engine's name.

        Args:
            bundle: an open bundle.
            loader: what runs the graphs.
            max_pixels: limit on width times height, in both directions.
            memory_limit_bytes: as in `open`.
            on_stage: called with each stage's name and duration in milliseconds.
            on_progress: as in `open`.
            async_workers: calls of `aencode` and its like that run at once.
        """
        self.bundle = bundle
        self._loader = loader
        self._checks = Checks.of(bundle, loader, max_pixels)
        self._networks = (
            Networks(bundle, loader, on_stage)
            if memory_limit_bytes is None
            else BoundedNetworks(bundle, loader, on_stage, memory_limit_bytes, on_progress)
        )
        tables = bundle.tables()
        self._coding = Coding(self._networks, bundle.manifest.config, tables, SymbolModels(tables.scales))
        self._lifetime = Lifetime(self._networks)
        self._background = Background(self._lifetime, async_workers)

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        engine: str | None = None,
        threads: int | None = None,
        precision: str | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        memory_limit_bytes: int | None = None,
        on_stage: StageListener | None = None,
        on_progress: Progress | None = None,
        async_workers: int | None = None,
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
            memory_limit_bytes: of this process's resident memory, all that it holds included; larger images are then
                computed in tiles, which gives the same within rounding, and images pass one at a time. None: no limit.
            on_stage: called with each stage's name and duration in milliseconds.
            on_progress: called with the share, 0 to 1, of an analysis or synthesis in tiles that is done.
            async_workers: calls of `aencode` and its like that run at once, each with `threads` and an image's memory;
                None takes as many as this process has processors for, 2 at least.

        Raises:
            BundleError: the bundle is missing, malformed, too new or altered, or has no tile graphs for a limit.
            EngineUnavailable: the engine is unknown, not installed, or cannot compute in this precision here.
        """
        opened = Bundle.open(default_bundle() if bundle is None else bundle)
        named = named_engine(engine)
        if async_workers is None:
            async_workers = max(2, available_threads() // (threads or available_threads()))
        refused: list[str] = []
        for loader in loaders(opened, named, threads, precision):
            codec = cls(
                opened,
                loader,
                max_pixels=max_pixels,
                memory_limit_bytes=memory_limit_bytes,
                on_stage=on_stage,
                on_progress=on_progress,
                async_workers=async_workers,
            )
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

    @property
    def tile_plan(self) -> TilePlan | None:
        """How the last image that did not fit into the limit on memory was computed; None before there is one."""
        return self._networks.plan if isinstance(self._networks, BoundedNetworks) else None

    def encode(self, image: LentPixels, quality: float = 1, *, form: Form = "file") -> bytes:
        """Encode one image.

        Args:
            image: (H, W, 3) uint8 RGB, from 1x1 up to the limit on pixels: an array of any strides, or what lends
                its memory by the buffer protocol, `__array_interface__` or DLPack; where the engine is on a device,
                also what lies there, with `__cuda_array_interface__` too, which is then read without the CPU.
            quality: 0..Q-1; fractions interpolate and are rounded to the nearest 1/21.
            form: "file", or "bare" without signature, identity and checksum.

        Returns:
            The bitstream.

        Raises:
            TypeError: not of uint8, or not where the engine can read it.
            ValueError: the shape, the quality or the form is out of range.
            EngineError: the engine failed, or the latent cannot be coded.
        """
        pixels = self._checks.image(image)
        _, height, width, _ = pixels.shape
        header = Header(quality_units(quality, self.qualities), width, height)
        with self._lifetime.call():
            payload = self._coding.payload(pixels, header)
            return write_stream(header, payload, self._checks.arithmetic, self._checks.identity, form)

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
            out: (H, W, 3) uint8 to write the image into: anything that `encode` takes and that can be written.

        Returns:
            (H, W, 3) uint8 RGB; `out` itself where it was given.

        Raises:
            TruncatedBitstream: it was cut, or damaged so that it ends too early.
            BitstreamError: not a bitstream, damaged, too large, or made with another model or engine.
            EngineError: the engine failed.
            TypeError: `out` is not of uint8, or not where the engine can write it.
            ValueError: `out` has another shape than the image, or is read-only.
        """
        info, payload = self._checks.stream(data, form)
        image = _empty_image(info.header) if out is None else out
        target = self._checks.out(image, info.header)
        with self._lifetime.call():
            self._coding.image(target, info, payload, partial=allow_partial)
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
        info, payload = self._checks.stream(data, form)
        image = _empty_image(info.header)
        with self._lifetime.call():
            return PartialImage(image, self._coding.image(image[None], info, payload, partial=True))

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
        info, payload = self._checks.stream(data, form)
        image = _empty_image(info.header)
        with self._lifetime.call():
            self._coding.preview(image[None], info, payload)
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
            with self._lifetime.call():
                self._networks.engine(EXACT_GRAPHS[0])

    def warm_up(self) -> None:
        """Load every graph now, rather than when it is first needed."""
        with self._lifetime.call():
            self._networks.load_all()

    async def aencode(self, image: LentPixels, quality: float = 1, *, form: Form = "file") -> bytes:
        """Await `encode`; cancelled, it may still read the image until the codec is closed."""
        return await self._background.run(lambda: self.encode(image, quality, form=form))

    @overload
    async def adecode(
        self, data: bytes, *, form: Form = "file", allow_partial: bool = False, out: None = None
    ) -> Image: ...
    @overload
    async def adecode(self, data: bytes, *, form: Form = "file", allow_partial: bool = False, out: _Out) -> _Out: ...
    async def adecode(
        self, data: bytes, *, form: Form = "file", allow_partial: bool = False, out: _Out | None = None
    ) -> Image | _Out:
        """Await `decode`; cancelled, it may still write into `out` until the codec is closed."""
        return await self._background.run(lambda: self.decode(data, form=form, allow_partial=allow_partial, out=out))

    async def adecode_partial(self, data: bytes, *, form: Form = "file") -> PartialImage:
        """Await `decode_partial`."""
        return await self._background.run(lambda: self.decode_partial(data, form=form))

    async def apreview(self, data: bytes, *, form: Form = "file") -> Image:
        """Await `preview`."""
        return await self._background.run(lambda: self.preview(data, form=form))

    def close(self) -> None:
        """Wait for the calls under way and free the loaded graphs; every later call raises EngineFailed.

        Closing twice is harmless; in a forked child, closing what the parent opened does nothing.

        Raises:
            RuntimeError: from inside a call of this codec, say by its listener.
        """
        self._lifetime.close(self._free)

    def _free(self) -> None:
        self._background.close()
        self._networks.unload()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a codec cannot be pickled or copied, since it holds loaded graphs: open one where it is used")

    def __enter__(self) -> Codec:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _empty_image(header: Header) -> Image:
    return np.empty((header.height, header.width, 3), np.uint8)
