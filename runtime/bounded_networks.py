"""The networks of a bundle within a limit on this process's memory: whole where there is room, else in tiles.

What comes of it is the same, within the rounding of another order of sums; the prior's integers are the same to the
last bit. Nothing of it is in the bitstream.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from glc.engines import Array, Engine, EngineLoader, HostLoader, StageListener, StripLoader, Tensor, Workspace
from glc.errors import MemoryLimitTooSmall
from glc.runtime.bundle import Bundle
from glc.runtime.memory_limit import (
    deepest_graph_bytes,
    give_back,
    image_graph_bytes,
    loading_bytes,
    prior_graph_bytes,
    resident_bytes,
    reuse_memory,
)
from glc.runtime.messages import named
from glc.runtime.networks import HyperPrior, Latent, Networks, Passage
from glc.runtime.spatial_walk import PartPrior
from glc.runtime.tile_layout import NARROW, WIDEN, TileLevel
from glc.runtime.tile_plan import TilePlan, fastest_plan, least_bytes
from glc.runtime.tiled_priors import tiled_hyper_prior, tiled_spatial_prior
from glc.runtime.tiled_transforms import Progress, TiledTransforms
from glc.runtime.transforms import ANALYSIS, SYNTHESIS, beside, own_name

_DEEPEST = {ANALYSIS: "tile_analysis_deepest", SYNTHESIS: "tile_synthesis_deepest"}
"""Graph -> its deepest level, which is one tile."""

_LEAST_PRIOR_ROWS = 32
"""Of the latent, in a strip of a prior graph."""

_FEEDS_AT_WORK = 4
"""Memory that must be left for a run on a strip, in multiples of its inputs: 3 to 7 were measured, of which some is
found among what glibc keeps; 6 in place of 4 made images at the narrowest limits 5 % slower."""


class BoundedNetworks(Networks):
    """Networks that keep this process's resident memory below a limit; images pass one at a time."""

    _loader: StripLoader

    def __init__(
        self,
        bundle: Bundle,
        loader: EngineLoader,
        on_stage: StageListener | None,
        limit_bytes: int,
        on_progress: Progress | None = None,
    ) -> None:
        """Prepare.

        Args:
            bundle: with tile graphs.
            loader: of an engine on the CPU.
            on_stage: as in `Networks`.
            limit_bytes: of this process, all that it holds included.
            on_progress: called with the share of a tiled analysis or synthesis that is done.

        Raises:
            TilesMissing: the bundle has no tile graphs.
            ValueError: the limit is not positive, or the engine is not on the CPU.
        """
        if limit_bytes < 1:
            raise ValueError(f"memory_limit_bytes must be positive; got {limit_bytes}")
        if not isinstance(loader, HostLoader):
            raise ValueError(f"memory_limit_bytes is for engines on the CPU, not for {loader.fingerprint}")
        super().__init__(bundle, loader.sparing(), on_stage)
        self.layout = bundle.tile_layout()
        reuse_memory()
        self.limit_bytes = limit_bytes
        self.on_progress = on_progress
        self.plan: TilePlan | None = None
        """By which the last transform was computed in tiles."""
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def passage(self) -> Iterator[Passage]:
        """Take what one image needs; see `Networks.passage`. The next image waits."""
        with self._turn, self._loader.workspace(self._on_stage) as workspace:
            yield BoundedPassage(self, workspace)

    def run(self, graph: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run a graph on arrays; see `Networks.run`."""
        if self.room_bytes() < _FEEDS_AT_WORK * sum(array.nbytes for array in feeds.values()):
            give_back()  # what glibc kept of earlier runs, where it leaves too little
        return super().run(graph, feeds)

    def _loaded(self, graph: str, sha256: str, *, exact: bool) -> Engine:
        if graph in self.bundle.manifest.tiles and own_name(graph) not in _DEEPEST.values():
            return self._loader.load_strips(self.bundle.graph(graph)[1])
        return super()._loaded(graph, sha256, exact=exact)

    def room_bytes(self) -> int:
        """What this process may still take."""
        return self.limit_bytes - resident_bytes()

    def fits(self, graph: str, needed_bytes: int) -> bool:
        """Whether a graph can run on a whole tensor; makes room by freeing other graphs.

        Args:
            graph: its name.
            needed_bytes: by a run.
        """
        if not self.is_loaded(graph):
            needed_bytes += loading_bytes(self.file_bytes(graph))
        if needed_bytes <= self.room_bytes():
            return True
        self.free()
        return needed_bytes <= self.room_bytes()

    @property
    def takes_half(self) -> bool:
        """Whether tile graphs take features of float16 as they are."""
        return self._loader.strips_take_half

    def free(self) -> None:
        """Free every loaded graph."""
        self.unload()
        give_back()

    def file_bytes(self, graph: str) -> int:
        """Size of a graph's file."""
        manifest = self.bundle.manifest
        return (manifest.graphs.get(graph) or manifest.tiles[graph]).file.size_bytes


class BoundedPassage(Passage):
    """One image's way through the graphs; see `Passage`."""

    def __init__(self, networks: BoundedNetworks, workspace: Workspace) -> None:
        super().__init__(networks, workspace, on_device=False)
        self._bounded = networks
        config = networks.bundle.manifest.config
        self._config = config
        # In float arithmetic the stream depends on the order of sums, so that the prior has to stay in one piece.
        self._may_tile_priors = networks.bundle.manifest.arithmetic == "exact"

    def analysis(self, graph: str, image: Tensor, q_row: Latent, hyper_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `Passage.analysis`."""
        multiple = 4 * self._config.downsampling
        height, width = (multiple * side for side in hyper_size)
        levels = self._bounded.layout.analysis
        if self._bounded.fits(graph, image_graph_bytes(levels[0].channels, height, width)):
            return super().analysis(graph, image, q_row, hyper_size)
        # The deepest level has twice the channels of the one above it, which synthesis counts among that one's own.
        plan = self._plan(graph, 2 * levels[-1].channels, levels, height, width)
        with self._networks.stage(graph):
            return self._transforms(graph, plan).analysis(np.asarray(image), _as_input(q_row), height, width)

    def synthesise(self, graph: str, y_hat: Tensor, q_row: Latent, out: Tensor) -> None:
        """See `Passage.synthesise`."""
        factor = self._config.downsampling
        height, width = (factor * side for side in y_hat.shape[2:])
        levels = self._bounded.layout.synthesis
        if self._bounded.fits(graph, image_graph_bytes(levels[0].channels, height, width)):
            super().synthesise(graph, y_hat, q_row, out)
            return
        plan = self._plan(graph, levels[-1].channels, levels, height, width)
        with self._networks.stage(graph):
            self._transforms(graph, plan).synthesis(np.asarray(y_hat), _as_input(q_row), np.asarray(out))

    def hyper_prior(self, z_indices: Tensor) -> HyperPrior:
        """See `Passage.hyper_prior`."""
        rows, columns = (4 * side for side in z_indices.shape[1:])
        if self._fits_whole("hyper_prior", rows, columns):
            return super().hyper_prior(z_indices)
        return tiled_hyper_prior(super().hyper_prior, np.asarray(z_indices), self._prior_rows(columns))

    def spatial_prior(self, part: int, y_hat: Tensor, context: Tensor) -> PartPrior:
        """See `Passage.spatial_prior`."""
        rows, columns = y_hat.shape[2:]
        if self._fits_whole(f"spatial_prior_{part}", rows, columns):
            return super().spatial_prior(part, y_hat, context)
        whole = super().spatial_prior
        return tiled_spatial_prior(
            lambda y_rows, context_rows: whole(part, y_rows, context_rows),
            np.asarray(y_hat),
            np.asarray(context),
            self._prior_rows(columns),
        )

    def _fits_whole(self, graph: str, rows: int, columns: int) -> bool:
        needed = prior_graph_bytes(self._config.latent_channels, rows, columns)
        if self._bounded.fits(graph, needed):
            return True
        if not self._may_tile_priors:
            raise self._too_small(needed + loading_bytes(self._bounded.file_bytes(graph)))
        return False

    def _prior_rows(self, columns: int) -> int:
        """Rows of the latent in a strip of the prior, a multiple of 4."""
        of_four = prior_graph_bytes(self._config.latent_channels, 4, columns)
        rows = 4 * int(self._bounded.room_bytes() / 2 // of_four)
        if rows < _LEAST_PRIOR_ROWS:
            raise self._too_small(2 * prior_graph_bytes(self._config.latent_channels, _LEAST_PRIOR_ROWS, columns))
        return rows

    def _plan(self, graph: str, channels: int, levels: tuple[TileLevel, ...], height: int, width: int) -> TilePlan:
        """How a graph computes an image within the limit, in tiles; its deepest level has `channels`."""
        bounded = self._bounded
        deepest = beside(_DEEPEST[own_name(graph)], graph)
        if deepest not in bounded.bundle.manifest.tiles:
            whole = image_graph_bytes(levels[0].channels, height, width)
            raise self._too_small(whole, f" in one piece, since the bundle has no tile graphs of {named(graph)}")
        bounded.free()
        factor = self._config.downsampling
        needed_deepest = loading_bytes(bounded.file_bytes(deepest)) + deepest_graph_bytes(
            channels, self._config.attention_patch, height // factor, width // factor
        )
        tiles = bounded.bundle.manifest.tiles.items()
        largest = max(entry.file.size_bytes for name, entry in tiles if own_name(name) not in _DEEPEST.values())
        room = bounded.room_bytes()
        plan = fastest_plan(levels, height, width, room - loading_bytes(largest))
        if plan is None or needed_deepest > room:
            raise self._too_small(max(least_bytes(levels, height, width) + loading_bytes(largest), needed_deepest))
        bounded.plan = plan
        return plan

    def _too_small(self, needed_bytes: int, why: str = "") -> MemoryLimitTooSmall:
        """An error that says how much would do."""
        held, limit = resident_bytes(), self._bounded.limit_bytes
        return MemoryLimitTooSmall(
            f"this image needs a memory limit of about {(held + needed_bytes) / 2**30:.2f} GiB{why}; it is "
            f"{limit / 2**30:.2f} GiB, of which this process holds {held / 2**30:.2f} already"
        )

    def _transforms(self, graph: str, plan: TilePlan) -> TiledTransforms:
        bounded = self._bounded

        def run_tile(tile: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
            return self._networks.run(tile if tile in (NARROW, WIDEN) else beside(tile, graph), feeds)

        return TiledTransforms(
            bounded.layout, plan, run_tile, bounded.free, bounded.on_progress, takes_half=bounded.takes_half
        )


def _as_input(q_row: Latent) -> NDArray[np.float32]:
    return q_row.reshape(1, -1, 1, 1)
