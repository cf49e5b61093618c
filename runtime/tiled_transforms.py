"""Analysis and synthesis in strips, with the statistics of the whole image: the same functions, in less memory.

Between two GroupNorms everything is local, so a strip and its neighbouring rows tell all. Before a GroupNorm comes a
pass over all strips that gathers its statistics, and keeps what it computes where the plan has room for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from glc.engines import Array
from glc.runtime.moments import Moments, group_statistics, merged
from glc.runtime.row_store import RowMemory
from glc.runtime.tile_layout import GROUPS, NARROW, WIDEN, TileLayout
from glc.runtime.tile_plan import Kept, Storage, TilePlan
from glc.runtime.tiled_features import (
    ComputedLayer,
    GraphLayer,
    ImageLayer,
    Layer,
    PassedLayer,
    ResidualLayer,
    RunGraph,
    Sampling,
    Storing,
    WholeLayer,
)

Progress = Callable[[float], None]
"""Called with the share of the work that is done, from 0 to 1."""


class TiledTransforms:
    """Computes one image by one plan; for one thread."""

    def __init__(
        self,
        layout: TileLayout,
        plan: TilePlan,
        run: RunGraph,
        forget: Callable[[], None],
        on_progress: Progress | None,
        *,
        takes_half: bool = False,
    ) -> None:
        """Prepare.

        Args:
            layout: of the bundle's tile graphs.
            plan: what is kept.
            run: runs a tile graph.
            forget: called behind every pass: frees the graphs of the pass, whose primitives hold memory too.
            on_progress: hears of the work that is done.
            takes_half: whether graphs take features of float16 as they are (`StripLoader.strips_take_half`).
        """
        self._layout = layout
        self._plan = plan
        self._run = run
        self._forget = forget
        self._on_progress = on_progress
        self._expected = 1
        self._done = 0
        self._storing: Mapping[Storage, Storing] = {
            "float32": Storing(_itself, _itself),
            "float16": Storing(
                partial(self._converted, NARROW), _itself if takes_half else partial(self._converted, WIDEN)
            ),
        }

    def analysis(self, image: Array, q_row: Array, height: int, width: int) -> tuple[Array, Array]:
        """Image (1, h, w, 3) uint8, to be padded to height and width, and q row to y and z indices."""
        levels = self._layout.analysis
        # The deepest level is kept in whole for its graph, which takes float32.
        nexts = (*self._plan.kept[1:], Kept(1, 0, "float32"))
        # The last block of a level is gone through with the halving behind it.
        self._expect(height, width, [2 * levels[0].blocks - 1, *(2 * level.blocks for level in levels[1:]), 1])
        layer: ComputedLayer = ImageLayer(self._run, "tile_analysis_start", image, height, width)
        # Of three channels a pixel, and never kept: it costs a fortieth of the next convolution.
        moments = self._gone_through(layer, self._plan.strip_rows(levels[0], height, width), _nothing)
        features: Layer = layer
        between = RowMemory()
        for number, (level, kept, kept_next) in enumerate(zip(levels, self._plan.kept, nexts, strict=True)):
            prefix = f"tile_analysis_{number}"
            rows = self._plan.strip_rows(level, height >> number, width >> number)
            within = RowMemory()
            for block in range(level.blocks):
                layer = self._block(f"{prefix}_{block}", features, moments, rows, kept, between, within)
                if block + 1 < level.blocks:
                    features, moments = self._settled(layer, rows, kept, between)
            within.end()
            between.end()
            between = RowMemory()
            down = GraphLayer(self._run, f"{prefix}_down", layer, Sampling.HALVED)
            # In strips of as many rows of this level.
            features, moments = self._settled(down, rows // 2, kept_next, between)
        results = self._run("tile_analysis_deepest", {"features": features.rows(0, features.height), "q_row": q_row})
        features.forget(features.height)
        self._forget()
        return results["y"], results["z_indices"]

    def synthesis(self, y_hat: Array, q_row: Array, image: Array) -> None:
        """Write y_hat (1, N, h, w) as an image (1, H, W, 3) uint8, without the padding that is not in `image`."""
        levels = self._layout.synthesis
        factor = 1 << len(levels)
        self._expect(factor * y_hat.shape[2], factor * y_hat.shape[3], [1 + 2 * level.blocks for level in levels])
        features: Layer = WholeLayer(self._run("tile_synthesis_deepest", {"y_hat": y_hat, "q_row": q_row})["result"])
        self._forget()
        moments: Moments | None = None
        for number in reversed(range(len(levels))):
            level, kept, prefix = levels[number], self._plan.kept[number], f"tile_synthesis_{number}"
            layer: ComputedLayer = GraphLayer(self._run, f"{prefix}_up", features, Sampling.DOUBLED)
            strip = self._plan.strip_rows(level, layer.height, layer.width)
            between, within = RowMemory(), RowMemory()
            for block in range(level.blocks):
                features, moments = self._settled(layer, strip, kept, between)
                layer = self._block(f"{prefix}_{block}", features, moments, strip, kept, between, within)
            within.end()
            features, moments = self._settled(layer, strip, kept, between)
            between.end()
        if moments is None:
            raise ValueError("a synthesis transform of one level has no tiles")
        _, rows, columns, _ = image.shape
        statistics = group_statistics(moments, GROUPS)
        step = self._plan.strip_rows(levels[0], features.height, features.width)
        for first in range(0, rows, step):
            window = Sampling.SAME.window(first, first + step)
            feeds = window.normalised(features.rows(*window.within(features.height)), features.height, statistics)
            end = min(first + step, rows)
            image[:, first:end] = self._run("tile_synthesis_end", feeds)["image"][:, : end - first, :columns]
            needed, passed = (end - 1, end) if end < rows else (features.height, features.height)
            features.forget(needed)
            self._progress(features.width * (passed - first))
        self._forget()

    def _block(
        self,
        prefix: str,
        below: Layer,
        moments: Moments,
        rows: int,
        kept: Kept,
        between: RowMemory,
        within: RowMemory,
    ) -> ComputedLayer:
        """A residual block, whose hidden features were gone through; memory is that of the level."""
        first_half = GraphLayer(self._run, f"{prefix}_1", below, Sampling.SAME, group_statistics(moments, GROUPS))
        # Where the layer below is not kept, its room is free for what is within the block.
        share, memory = (kept.features, between) if isinstance(below, ImageLayer) else (kept.within, within)
        hidden = PassedLayer(first_half, rows, share, self._storing[kept.storage], memory)
        of_hidden = self._gone_through(first_half, rows, hidden.take)
        statistics = group_statistics(of_hidden, GROUPS)
        return ResidualLayer(self._run, f"{prefix}_2", first_half, hidden, below, statistics)

    def _settled(self, layer: ComputedLayer, rows: int, kept: Kept, memory: RowMemory) -> tuple[Layer, Moments]:
        """Go through a layer; keep what there is room for in place of the layers that it is made of."""
        passed = PassedLayer(layer, rows, kept.features, self._storing[kept.storage], memory)

        def take(first: int, strip: Array) -> None:
            layer.forget(min(first + strip.shape[1], passed.kept_end))  # first, since the strip may take its place
            passed.take(first, strip)

        return passed, self._gone_through(layer, rows, take)

    def _gone_through(self, layer: ComputedLayer, strip_rows: int, take: Callable[[int, Array], None]) -> Moments:
        """Compute every strip of a layer, hand it on with the number of its first row, and gather its moments."""
        parts = []
        for first in range(0, layer.height, strip_rows):
            end = min(first + strip_rows, layer.height)
            strip, moments = layer.strip(first, end)
            parts.append(moments)
            take(first, strip)
            self._progress(layer.width * (end - first))
        self._forget()
        return merged(parts)

    def _converted(self, graph: str, values: Array) -> Array:
        return self._run(graph, {"features": values})["result"]

    def _expect(self, height: int, width: int, passes: Sequence[int]) -> None:
        """Count the positions that all passes will go through: one at full resolution, and some at each level."""
        self._expected = height * width + sum(n * (height >> k) * (width >> k) for k, n in enumerate(passes))
        self._done = 0

    def _progress(self, positions: int) -> None:
        self._done += positions
        if self._on_progress is not None:
            self._on_progress(self._done / self._expected)


def _nothing(_: int, __: Array) -> None:
    """What is done with a strip of which only the moments are needed."""


def _itself(values: Array) -> Array:
    """Storing of float32 in float32."""
    return values
