"""Analysis and synthesis in strips, with the statistics of the whole image: the same functions, in less memory.

Between two GroupNorms everything is local, so a strip and its neighbouring rows tell all. Before a GroupNorm comes a
pass over all strips that gathers its statistics, and keeps what it computes where the plan has room for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from glc.engines import Array
from glc.runtime.moments import Moments, group_statistics, merged
from glc.runtime.tile_layout import GROUPS, NARROW, WIDEN, TileLayout, TileLevel
from glc.runtime.tile_plan import Kept, TilePlan, graph_runs
from glc.runtime.tiled_features import (
    ComputedLayer,
    GraphLayer,
    ImageLayer,
    KeptLayer,
    Layer,
    ResidualLayer,
    RunGraph,
    Sampling,
)

Progress = Callable[[float], None]
"""Called with the share of the work that is done, from 0 to 1."""


def _nothing(_: object) -> None:
    """What happens where nothing is kept."""


class TiledTransforms:
    """Computes one image by one plan; for one thread."""

    def __init__(
        self,
        layout: TileLayout,
        plan: TilePlan,
        run: RunGraph,
        forget: Callable[[], None],
        on_progress: Progress | None,
    ) -> None:
        """Prepare.

        Args:
            layout: of the bundle's tile graphs.
            plan: what is kept.
            run: runs a tile graph.
            forget: called behind every pass: frees the graphs of the pass, whose primitives hold memory too.
            on_progress: hears of the work that is done.
        """
        self._layout = layout
        self._plan = plan
        self._run_graph = run
        self._forget = forget
        self._on_progress = on_progress
        self._expected = 1.0
        self._done = 0.0

    def analysis(self, image: Array, q_row: Array, height: int, width: int) -> tuple[Array, Array]:
        """Image (1, h, w, 3) uint8, to be padded to height and width, and q row to y and z indices."""
        levels = self._layout.analysis
        self._expect(levels, height, width)
        layer: ComputedLayer = ImageLayer(self._run, "tile_analysis_start", image, height, width)
        moments = self._measured(layer, self._plan.strip_rows(levels[0], width))
        features: Layer = layer
        for number, level in enumerate(levels):
            kept, prefix = self._plan.kept[number], f"tile_analysis_{number}"
            rows = self._plan.strip_rows(level, width >> number)
            for block in range(level.blocks):
                layer = self._block(f"{prefix}_{block}", features, moments, rows, kept)
                if block + 1 < level.blocks:
                    features, moments = self._settled(layer, rows, kept)
            down = GraphLayer(self._run, f"{prefix}_down", layer, Sampling.HALVED)
            after = self._plan.kept[number + 1] if number + 1 < len(levels) else Kept.FEATURES
            features, moments = self._settled(down, rows // 2, after)  # of twice as many rows of this level
        whole = features.rows(0, features.height)
        features.forget(features.height)
        results = self._run("tile_analysis_deepest", {"features": whole, "q_row": q_row})
        self._forget()
        return results["y"], results["z_indices"]

    def synthesis(self, y_hat: Array, q_row: Array, image: Array) -> None:
        """Write y_hat (1, N, h, w) as an image (1, H, W, 3) uint8, without the padding that is not in `image`."""
        levels = self._layout.synthesis
        factor = 1 << len(levels)
        self._expect(levels, factor * y_hat.shape[2], factor * y_hat.shape[3])
        deepest = self._run("tile_synthesis_deepest", {"y_hat": y_hat, "q_row": q_row})["result"]
        self._forget()
        features: Layer = _held(deepest)
        moments: Moments | None = None
        for number in reversed(range(len(levels))):
            level, kept, prefix = levels[number], self._plan.kept[number], f"tile_synthesis_{number}"
            layer: ComputedLayer = GraphLayer(self._run, f"{prefix}_up", features, Sampling.DOUBLED)
            strip = self._plan.strip_rows(level, layer.width)
            for block in range(level.blocks):
                features, moments = self._settled(layer, strip, kept)
                layer = self._block(f"{prefix}_{block}", features, moments, strip, kept)
            features, moments = self._settled(layer, strip, kept)
        if moments is None:
            raise ValueError("a synthesis transform of one level has no tiles")
        _, rows, columns, _ = image.shape
        statistics = group_statistics(moments, GROUPS)
        step = self._plan.strip_rows(levels[0], features.width)
        for first in range(0, rows, step):
            end = min(first + step, rows)
            window = Sampling.SAME.window(first, end, features.height)
            feeds = {
                "features": features.rows(window.first, window.end),
                "rows": window.chosen(first, end),
                **statistics,
            }
            image[:, first:end] = self._run("tile_synthesis_end", feeds)["image"][:, :, :columns]
            features.forget(end - 1)
        self._forget()

    def _block(self, prefix: str, below: Layer, moments: Moments, rows: int, kept: Kept) -> ComputedLayer:
        """A residual block, whose hidden features were gone through."""
        first = GraphLayer(self._run, f"{prefix}_1", below, Sampling.SAME, group_statistics(moments, GROUPS))
        hidden: KeptLayer | GraphLayer = first
        # Where the layer below is not kept, its room is free for what is within the block.
        if kept is Kept.ALL or (kept is Kept.FEATURES and not isinstance(below, KeptLayer)):
            hidden, of_hidden = self._keep(first, rows)
        else:
            of_hidden = self._measured(first, rows)
        return ResidualLayer(self._run, f"{prefix}_2", hidden, below, group_statistics(of_hidden, GROUPS))

    def _settled(self, layer: ComputedLayer, rows: int, kept: Kept) -> tuple[Layer, Moments]:
        """Go through a layer; keep it in place of those that it is made of, where there is room for it."""
        if kept is Kept.NOTHING:
            return layer, self._measured(layer, rows)
        return self._keep(layer, rows, layer.forget)

    def _measured(self, layer: ComputedLayer, rows: int) -> Moments:
        return self._gone_through(layer, rows, _nothing, _nothing)

    def _keep(
        self, layer: ComputedLayer, rows: int, forget: Callable[[int], None] = _nothing
    ) -> tuple[KeptLayer, Moments]:
        kept = KeptLayer(layer.height, layer.width, rows, self._restored)
        return kept, self._gone_through(layer, rows, lambda strip: kept.append(self._stored(strip)), forget)

    def _gone_through(
        self, layer: ComputedLayer, strip_rows: int, store: Callable[[Array], None], forget: Callable[[int], None]
    ) -> Moments:
        parts = []
        for first in range(0, layer.height, strip_rows):
            end = min(first + strip_rows, layer.height)
            strip, moments = layer.strip(first, end)
            parts.append(moments)
            store(strip)
            forget(end)
        self._forget()
        return merged(parts)

    def _stored(self, values: Array) -> Array:
        return self._converted(NARROW, values)

    def _restored(self, values: Array) -> Array:
        return self._converted(WIDEN, values)

    def _converted(self, graph: str, values: Array) -> Array:
        return values if self._plan.storage == "float32" else self._run_graph(graph, {"features": values})["result"]

    def _expect(self, levels: tuple[TileLevel, ...], height: int, width: int) -> None:
        runs = graph_runs(self._plan, levels)
        self._expected = sum(runs[n] * (height >> n) * (width >> n) for n in range(len(levels)))

    def _run(self, graph: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        results = self._run_graph(graph, feeds)
        if self._on_progress is not None and "result" in results:
            self._done += results["result"].shape[2] * results["result"].shape[3]
            self._on_progress(min(self._done / self._expected, 1.0))
        return results


def _held(values: Array) -> KeptLayer:
    """A layer that is there in one piece."""
    layer = KeptLayer(values.shape[2], values.shape[3], values.shape[2], lambda whole: whole)
    layer.append(values)
    return layer
