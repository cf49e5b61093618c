"""The networks of a bundle as typed functions: graphs are loaded when first needed and timed when they run."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.engines import Array, Engine, EngineLoader, TensorSpec
from glc.errors import EngineFailed, EngineRejectedGraph
from glc.runtime.bitstream import QUALITY_STEPS
from glc.runtime.bundle import Bundle
from glc.runtime.conformance import require_conformance
from glc.runtime.messages import named, one_line
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

    def analysis(
        self, image: NDArray[np.uint8], q_row: Latent, hyper_size: tuple[int, int]
    ) -> tuple[Latent, NDArray[np.int32]]:
        """Image (H, W, 3) and row (N,) of q_enc to y (N, h, w) and z indices of the stated size (h/4, w/4)."""
        rows, columns = hyper_size
        results = self._run(
            "analysis",
            {"image": image[None], "q_row": q_row.reshape(1, -1, 1, 1)},
            {"y": self._latent(4 * rows, 4 * columns), "z_indices": (1, rows, columns)},
        )
        return results["y"][0], results["z_indices"][0]

    def hyper_prior(self, z_indices: NDArray[np.int32]) -> HyperPrior:
        """Z indices (h/4, w/4) to what they tell of the latent."""
        rows, columns = z_indices.shape
        latent, part = self._latent(4 * rows, 4 * columns), self._latent(2 * rows, 2 * columns)
        results = self._run(
            "hyper_prior",
            {"z_indices": z_indices[None]},
            {"scale_indices": part, "means": part, "quant_step": latent, "context": latent},
        )
        return HyperPrior(_part_prior(results), results["quant_step"][0], results["context"])

    def spatial_prior(self, part: int, y_hat: Latent, context: Latent) -> PartPrior:
        """y_hat so far (N, h, w) to the prior of part 1, 2 or 3."""
        shape = self._latent(y_hat.shape[1] // 2, y_hat.shape[2] // 2)
        feeds = {"y_hat": y_hat[None], "context": context}
        return _part_prior(self._run(f"spatial_prior_{part}", feeds, {"scale_indices": shape, "means": shape}))

    def synthesis(self, y_hat: Latent, q_row: Latent) -> NDArray[np.uint8]:
        """y_hat (N, h, w) and row (N,) of q_dec to an image (f h, f w, 3), padding included."""
        factor = self._bundle.manifest.config.downsampling
        results = self._run(
            "synthesis",
            {"y_hat": y_hat[None], "q_row": q_row.reshape(1, -1, 1, 1)},
            {"image": (1, factor * y_hat.shape[1], factor * y_hat.shape[2], 3)},
        )
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

    def _latent(self, rows: int, columns: int) -> tuple[int, ...]:
        return 1, self._bundle.manifest.config.latent_channels, rows, columns

    def _run(self, graph: str, feeds: dict[str, Array], shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
        """Run a graph; an SDK lets it give other shapes than it declares, so they are compared with the right ones."""
        engine = self._engine(graph)
        with self.stage(graph), _naming(graph):
            results = engine.run(feeds)
        for spec in engine.outputs:
            expected, found = TensorSpec(spec.name, spec.dtype, shapes[spec.name]), results[spec.name]
            if not expected.accepts(found):
                raise EngineRejectedGraph(
                    f"graph {graph} gives {found.dtype} {list(found.shape)}; expected {expected}: it is not the graph "
                    "that the manifest describes"
                )
        return results

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
        with _naming(graph):
            engine = self._loader.load(content, exact=cases is not None)
        if (engine.inputs, engine.outputs) != (entry.inputs, entry.outputs):
            found = ", ".join(map(str, engine.inputs + engine.outputs))
            expected = ", ".join(map(str, entry.inputs + entry.outputs))
            raise EngineRejectedGraph(
                f"graph {named(graph)} has {one_line(found)}; the manifest says {one_line(expected)}"
            )
        if cases is not None:
            with _naming(graph):
                require_conformance(graph, engine, self._loader.fingerprint, cases)
        return engine


@contextlib.contextmanager
def _naming(graph: str) -> Iterator[None]:
    """Name the graph in an engine's errors, whose words may come out of the graph itself."""
    try:
        yield
    except (EngineFailed, EngineRejectedGraph) as error:
        raise type(error)(f"graph {named(graph)}: {one_line(error)}") from error


def interpolated_row(rows: Latent, units: int) -> Latent:
    """Row (N,) of q_enc or q_dec (Q, N) at a quality in units of 1/21, linear between rows."""
    low, step = divmod(units, QUALITY_STEPS)
    high = min(low + 1, len(rows) - 1)
    with np.errstate(all="ignore"):  # of hostile rows the difference may overflow; what comes of it is an image
        return np.asarray(rows[low] + np.float32(step / QUALITY_STEPS) * (rows[high] - rows[low]), np.float32)


def _part_prior(results: dict[str, Array]) -> PartPrior:
    return PartPrior(results["scale_indices"][0], results["means"][0])
