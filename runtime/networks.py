"""The networks of a bundle as typed functions: graphs are loaded when first needed and timed when they run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.engines import Array, Engine, EngineLoader, StageListener, Tensor, TensorSpec, Workspace
from glc.engines.protocol import HostLoader, timed
from glc.errors import EngineFailed, EngineRejectedGraph
from glc.runtime.bitstream import QUALITY_STEPS
from glc.runtime.bundle import Bundle
from glc.runtime.conformance import require_conformance
from glc.runtime.latent_steps import HostSteps, LatentSteps
from glc.runtime.messages import named, one_line
from glc.runtime.signatures import step_signatures
from glc.runtime.spatial_walk import PARTS, PartPrior, SymbolCoder, walk
from glc.runtime.transforms import ANALYSIS, SYNTHESIS, further_graphs

Latent = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class HyperPrior:
    """What the z indices tell of the latent."""

    first: PartPrior
    """Prior of part 0."""
    quant_step: Tensor
    """(1, N, h, w) float32: size of the quantisation steps."""
    context: Tensor
    """(1, N, h, w) float32: what the spatial prior is given beside the decoded parts."""


class Networks:
    """The graphs of one bundle on one engine; threads may share it, and each take a `Passage` for an image."""

    def __init__(self, bundle: Bundle, loader: EngineLoader, on_stage: StageListener | None) -> None:
        self.bundle = bundle
        self._loader = loader
        self._on_stage = on_stage
        self._engines: dict[str, Engine] = {}
        # One a graph: who needs a loaded graph, or another one, waits for nobody.
        steps = step_signatures(bundle.manifest.config.latent_channels)
        names = {*bundle.manifest.graphs, *bundle.manifest.tiles, *steps}  # older bundles lack steps, which is an error
        self._loading = {name: threading.Lock() for name in names}

    @contextlib.contextmanager
    def passage(self) -> Iterator[Passage]:
        """Take what one image needs to pass through the graphs; its tensors are valid inside the block.

        Raises:
            EngineFailed: the device has no room for another image.
        """
        with self._loader.workspace(self._on_stage) as workspace:
            yield Passage(self, workspace, on_device=self._loader.on_device)

    def load_all(self, analysis: str, synthesis: str) -> None:
        """Load every graph that this engine needs now, of analysis and synthesis transforms those that are named."""
        graphs = self.bundle.manifest.graphs
        unneeded = {ANALYSIS, SYNTHESIS, *further_graphs(graphs)} - {analysis, synthesis}
        if not self._loader.on_device:
            unneeded |= step_signatures(self.bundle.manifest.config.latent_channels).keys()
        for name in graphs:
            if name not in unneeded:
                self.engine(name)

    def unload(self) -> None:
        """Free the loaded graphs, which load again when they are needed; none may run meanwhile."""
        while self._engines:
            self._engines.popitem()[1].close()

    def is_loaded(self, graph: str) -> bool:
        """Whether a graph is there already."""
        return graph in self._engines

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time what runs inside."""
        return timed(name, self._on_stage)

    def engine(self, graph: str) -> Engine:
        """Load a graph, once.

        Raises:
            BundleError: the bundle lacks it, or it was altered.
            EngineError: it cannot be loaded, or is not exact here.
        """
        engine = self._engines.get(graph)
        if engine is not None:
            return engine
        with self._loading[graph]:
            if graph not in self._engines:
                with self.stage(f"load_{graph}"):
                    self._engines[graph] = self._load(graph)
            return self._engines[graph]

    def run(self, graph: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run a graph on arrays, as part of a longer stage.

        Raises:
            EngineFailed: as `Engine.run`; the message names the graph.
        """
        engine = self.engine(graph)
        with _naming(graph):
            return engine.run({name: np.ascontiguousarray(array) for name, array in feeds.items()})

    def _load(self, graph: str) -> Engine:
        cases = self.bundle.conformance(graph)
        entry = self.bundle.entry(graph)
        with _naming(graph):
            engine = self._loaded(graph, entry.file.sha256, exact=cases is not None)
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

    def _loaded(self, graph: str, sha256: str, *, exact: bool) -> Engine:
        """Load a graph of which nothing is known to be right yet."""
        if isinstance(self._loader, HostLoader):
            engine = self._loader.recall(sha256, exact=exact)
            if engine is not None:
                return engine
        _, content = self.bundle.graph(graph, self._loader.target)
        return self._loader.load(content, exact=exact)


class Passage:
    """One image's way through the graphs, as typed functions on tensors; for one thread."""

    def __init__(self, networks: Networks, workspace: Workspace, *, on_device: bool) -> None:
        self._networks = networks
        self._workspace = workspace
        self.steps: LatentSteps = _GraphSteps(self) if on_device else HostSteps()
        """What happens between the networks."""

    def analysis(self, graph: str, image: Tensor, q_row: Latent, hyper_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Image (1, H, W, 3) and row (N,) of q_enc to y (1, N, h, w) and z indices of the stated size (1, h/4, w/4).

        The graph is `analysis`, or another encoder's.
        """
        rows, columns = hyper_size
        results = self.run(
            graph,
            {"image": image, "q_row": q_row.reshape(1, -1, 1, 1)},
            {"y": self._latent(4 * rows, 4 * columns), "z_indices": (1, rows, columns)},
        )
        return results["y"], results["z_indices"]

    def hyper_prior(self, z_indices: Tensor) -> HyperPrior:
        """Z indices (1, h/4, w/4) to what they tell of the latent."""
        _, rows, columns = z_indices.shape
        latent, part = self._latent(4 * rows, 4 * columns), self._latent(2 * rows, 2 * columns)
        results = self.run(
            "hyper_prior",
            {"z_indices": z_indices},
            {"scale_indices": part, "means": part, "quant_step": latent, "context": latent},
        )
        return HyperPrior(_part_prior(results), results["quant_step"], results["context"])

    def spatial_prior(self, part: int, y_hat: Tensor, context: Tensor) -> PartPrior:
        """y_hat so far (1, N, h, w) to the prior of part 1, 2 or 3."""
        shape = self._latent(y_hat.shape[2] // 2, y_hat.shape[3] // 2)
        feeds = {"y_hat": y_hat, "context": context}
        return _part_prior(self.run(f"spatial_prior_{part}", feeds, {"scale_indices": shape, "means": shape}))

    def walk(self, prior: HyperPrior, coder: SymbolCoder) -> Tensor:
        """Walk the four parts; returns y_hat (1, N, h, w) in units of quant_step."""
        return walk(
            prior.first,
            lambda part, y_hat: self.spatial_prior(part, y_hat, prior.context),
            coder,
            self.steps.assemble,
        )

    def synthesise(self, graph: str, y_hat: Tensor, q_row: Latent, out: Tensor) -> None:
        """Write the image of y_hat (1, N, h, w) and row (N,) of q_dec into `out` (1, H, W, 3), without its padding.

        The graph is `synthesis`, or another decoder's.
        """
        factor = self._networks.bundle.manifest.config.downsampling
        shape = (1, factor * y_hat.shape[2], factor * y_hat.shape[3], 3)
        feeds = {"y_hat": y_hat, "q_row": q_row.reshape(1, -1, 1, 1)}
        self._workspace.store(self.run(graph, feeds, {"image": shape})["image"], out)

    def run(self, graph: str, feeds: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Run a graph; an SDK lets it give other shapes than it declares, so they are compared with the right ones."""
        engine = self._networks.engine(graph)
        with _naming(graph):
            results = self._workspace.run(graph, engine, feeds)
        for spec in engine.outputs:
            expected, found = TensorSpec(spec.name, spec.dtype, shapes[spec.name]), results[spec.name]
            if not expected.accepts(found):
                raise EngineRejectedGraph(
                    f"graph {graph} gives {found.dtype} {list(found.shape)}; expected {expected}: it is not the graph "
                    "that the manifest describes"
                )
        return results

    def fetch(self, tensors: Mapping[str, Tensor]) -> dict[str, Array]:
        """Bring tensors to the CPU; see `Workspace.fetch`."""
        return self._workspace.fetch(tensors)

    def _latent(self, rows: int, columns: int) -> tuple[int, ...]:
        return 1, self._networks.bundle.manifest.config.latent_channels, rows, columns


class _GraphSteps:
    """`LatentSteps` by the graphs of the bundle, where tensors stay on a device."""

    def __init__(self, passage: Passage) -> None:
        self._passage = passage

    def split(self, y: Tensor, quant_step: Tensor) -> tuple[Tensor, ...]:
        names = [f"target_{part}" for part in range(PARTS)]
        results = self._passage.run("split", {"y": y, "quant_step": quant_step}, dict.fromkeys(names, _part_of(y)))
        return tuple(results[name] for name in names)

    def quantise(self, target: Tensor, means: Tensor) -> Tensor:
        feeds = {"target": target, "means": means}
        return self._passage.run("quantise", feeds, {"symbols": target.shape})["symbols"]

    def assemble(self, part: int, y_hat: Tensor | None, symbols: Tensor, means: Tensor) -> Tensor:
        feeds = {"symbols": symbols, "means": means} | ({} if y_hat is None else {"y_hat": y_hat})
        batch, channels, rows, columns = means.shape
        shape = (batch, channels, 2 * rows, 2 * columns)
        return self._passage.run(f"assemble_{part}", feeds, {"y_hat_next": shape})["y_hat_next"]

    def dequantise(self, y_hat: Tensor, quant_step: Tensor) -> Tensor:
        feeds = {"y_hat": y_hat, "quant_step": quant_step}
        return self._passage.run("dequantise", feeds, {"latent": y_hat.shape})["latent"]


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


def _part_prior(results: Mapping[str, Tensor]) -> PartPrior:
    return PartPrior(results["scale_indices"], results["means"])


def _part_of(latent: Tensor) -> tuple[int, ...]:
    batch, channels, rows, columns = latent.shape
    return batch, channels, rows // 2, columns // 2
