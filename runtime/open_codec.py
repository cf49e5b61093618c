"""What a codec holds from when it is opened until it is closed: a bundle, an engine, loaded graphs, threads."""

from __future__ import annotations

import os
from types import TracebackType
from typing import NoReturn, Self

from glc.engines import EngineLoader, StageListener
from glc.engines.processor import available_threads
from glc.errors import EngineError, EngineUnavailable
from glc.runtime.background import Background
from glc.runtime.bounded_networks import BoundedNetworks
from glc.runtime.bundle import Bundle
from glc.runtime.checks import Checks
from glc.runtime.coding import Coding
from glc.runtime.default_model import default_bundle
from glc.runtime.engine_choice import AUTO, loaders, named_engine
from glc.runtime.entropy import SymbolModels
from glc.runtime.lifetime import Lifetime
from glc.runtime.networks import Networks
from glc.runtime.signatures import EXACT_GRAPHS
from glc.runtime.tile_plan import TilePlan
from glc.runtime.tiled_transforms import Progress
from glc.runtime.transforms import OWN

DEFAULT_MAX_PIXELS = 1 << 27
"""Images with more pixels are refused before memory is taken: 134 million, four times 8K."""


class OpenCodec:
    """Opens, loads and frees; `Codec` codes with it."""

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
    ) -> Self:
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
    def encoders(self) -> tuple[str, ...]:
        """Names of encoders, such as for restoration; the model's own first, which is "default"."""
        return tuple(self._checks.encoders)

    @property
    def decoders(self) -> tuple[str, ...]:
        """Names of decoders, such as for styles; the model's own first, which is "default"."""
        return tuple(self._checks.decoders)

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

    def require_conformance(self) -> None:
        """Load the first exact graph, which the engine must compute to the last bit; in float arithmetic do nothing.

        Raises:
            EngineNotExact: it does not.
            EngineError: it cannot load the graph.
        """
        if self.bundle.manifest.arithmetic == "exact":
            with self._lifetime.call():
                self._networks.engine(EXACT_GRAPHS[0])

    def warm_up(self, *, encoder: str = OWN, decoder: str = OWN) -> None:
        """Load every graph that an encoder and a decoder need now, rather than when it is first needed.

        Raises:
            ValueError: the bundle has no encoder or decoder of this name.
        """
        analysis, synthesis = self._checks.encoder(encoder), self._checks.decoder(decoder)
        with self._lifetime.call():
            self._networks.load_all(analysis, synthesis)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
