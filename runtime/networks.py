"""The networks of a bundle as typed functions: graphs are loaded when first needed and timed when they run."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.engines import Array, Engine, EngineLoader
from glc.errors import EngineFailed, EngineRejectedGraph
from glc.runtime.bitstream import QUALITY_STEPS
from glc.runtime.bundle import Bundle
from glc.runtime.conformance import require_conformance
from glc.runtime.spatial_walk import PartPrior

Latent = NDArray[np.float32]

StageListener = Callable[[str, float], None]
"""Called with the name and the duration in milliseconds of a stage that ended, from the thread that ran it."""


@dataclass(frozen=True, slots=True, eq=False)
class HyperPrior:
    """What the z indices tell of the latent."""

    first: PartPrior
    """Prior of part 0."""
    quant_step: Latent
    """(N, h, w): size of the quantisation steps."""
    context: Latent
    """(1, N, h, w): what the spatial prior is given beside the decoded parts."""


class Networks:
    """Runs the graphs of one bundle on one engine; threads may share it."""

    def __init__(self, bundle: Bundle, loader: EngineLoader, on_stage: StageListener | None) -> None:
        self._bundle = bundle
        self._loader = loader
        self._on_stage = on_stage
        self._engines: dict[str, Engine] = {}
        self._loading = threading.Lock()
        self._closed = False

    def analysis(self, image: NDArray[np.uint8], q_row: Latent) -> tuple[Latent, NDArray[np.int32]]:
        """Image (H, W, 3) and row (N,) of q_enc to y (N, h, w) and z indices (h/4, w/4)."""
        results = self._run("analysis", image=image[None], q_row=q_row.reshape(1, -1, 1, 1))
        return results["y"][0], results["z_indices"][0]

    def hyper_prior(self, z_indices: NDArray[np.int32]) -> HyperPrior:
        """Z indices (h/4, w/4) to what they tell of the latent."""
        results = self._run("hyper_prior", z_indices=z_indices[None])
        return HyperPrior(_part_prior(results), results["quant_step"][0], results["context"])

    def spatial_prior(self, part: int, y_hat: Latent, context: Latent) -> PartPrior:
        """y_hat so far (N, h, w) to the prior of part 1, 2 or 3."""
        return _part_prior(self._run(f"spatial_prior_{part}", y_hat=y_hat[None], context=context))

    def synthesis(self, y_hat: Latent, q_row: Latent) -> NDArray[np.uint8]:
        """y_hat (N, h, w) and row (N,) of q_dec to an image (f h, f w, 3), padding included."""
        results = self._run("synthesis", y_hat=y_hat[None], q_row=q_row.reshape(1, -1, 1, 1))
        image: NDArray[np.uint8] = results["image"][0]
        return image

    def load_all(self) -> None:
        """Load every graph now."""
        for name in self._bundle.manifest.graphs:
            self._engine(name)

    def close(self) -> None:
        """Free the loaded graphs."""
        with self._loading:
            self._closed = True
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        start = time.perf_counter()
        yield
        if self._on_stage is not None:
            self._on_stage(name, 1e3 * (time.perf_counter() - start))

    def _run(self, graph: str, **feeds: Array) -> dict[str, Array]:
        engine = self._engine(graph)
        with self.stage(graph):
            return engine.run(feeds)

    def _engine(self, graph: str) -> Engine:
        engine = self._engines.get(graph)
        if engine is not None:
            return engine
        with self._loading:
            if self._closed:
                raise EngineFailed("this codec is closed; open it again")
            if graph not in self._engines:
                with self.stage(f"load_{graph}"):
                    self._engines[graph] = self._load(graph)
            return self._engines[graph]

    def _load(self, graph: str) -> Engine:
        entry, content = self._bundle.graph(graph)
        cases = self._bundle.conformance(graph)
        engine = self._loader.load(content, exact=cases is not None)
        if (engine.inputs, engine.outputs) != (entry.inputs, entry.outputs):
            found = ", ".join(map(str, engine.inputs + engine.outputs))
            expected = ", ".join(map(str, entry.inputs + entry.outputs))
            raise EngineRejectedGraph(f"graph {graph} has {found}; the manifest says {expected}")
        if cases is not None:
            require_conformance(graph, engine, self._loader.fingerprint, cases)
        return engine


def interpolated_row(rows: Latent, units: int) -> Latent:
    """Row (N,) of q_enc or q_dec (Q, N) at a quality in units of 1/21, linear between rows."""
    low, step = divmod(units, QUALITY_STEPS)
    high = min(low + 1, len(rows) - 1)
    return np.asarray(rows[low] + np.float32(step / QUALITY_STEPS) * (rows[high] - rows[low]), np.float32)


def _part_prior(results: dict[str, Array]) -> PartPrior:
    return PartPrior(results["scale_indices"][0], results["means"][0])
