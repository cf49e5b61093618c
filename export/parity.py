"""Proof that exported graphs compute what the torch model computes, at sizes other than those of the examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glc.engines import Array, Engine
from glc.errors import GraphMismatch
from glc.export.config import ModelConfig
from glc.export.graphs import GraphSource
from glc.runtime.tile_layout import TileLayout
from glc.runtime.tile_plan import Kept, TilePlan
from glc.runtime.tiled_transforms import TiledTransforms
from glc.runtime.transforms import ANALYSIS, SYNTHESIS

Run = tuple[dict[str, Array], dict[str, Array]]
"""Feeds of a graph, and its results."""

_RELATIVE_TOLERANCE = 1e-3
"""Largest difference of a float output, as a part of its largest magnitude."""
_CHANGED_PIXELS = 1e-2
"""Part of the pixel values that may change by one: x_hat itself agrees to 5e-4, a tenth of a step (GLC.md)."""
_CHANGED_INDICES = 1e-3
"""Part of the scale indices (by one) and codebook indices that may change, where a value lies on a boundary."""
_STRIP_BYTES = 1 << 20
"""Of a strip: a few rows of the finest level, so that each level has several."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one graph is from torch over all sizes."""

    largest: float
    """Largest absolute difference of a float output."""
    floats: int
    """Floats compared."""
    changed: int
    """Integers that differ (pixels, scale indices, codebook indices)."""
    integers: int
    """Integers compared."""


def parity_sizes(config: ModelConfig) -> tuple[tuple[int, int], ...]:
    """Three image sizes (height, width): one pixel, odd, and ragged attention patches both ways."""
    f, (rows, columns) = config.downsampling, config.ragged_latent
    return (1, 1), (5 * f + 3, 9 * f - 1), ((rows - 3) * f + 1, (columns - 6) * f)


def test_image(height: int, width: int) -> NDArray[np.uint8]:
    """Waves with a little noise, (height, width, 3) uint8, the same everywhere."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (7 + 9 * c) + columns / (23 - 6 * c)) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    return np.clip(128 + 80 * np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


test_image.__test__ = False  # type: ignore[attr-defined] # its name does not make it a test


@torch.inference_mode()
def expected_runs(
    sources: Sequence[GraphSource], image: NDArray[np.uint8], q_rows: tuple[Tensor, Tensor]
) -> dict[str, Run]:
    """Pass an image through all torch modules; graph name -> (feeds, results), with realistic latents.

    Args:
        sources: the graphs of a bundle.
        image: (h, w, 3) uint8.
        q_rows: rows of q_enc and q_dec, (1, N, 1, 1).
    """
    tensors: dict[str, Tensor] = {"image": torch.from_numpy(image)[None], "q_row": q_rows[0]}
    runs: dict[str, Run] = {}
    for source in sources:
        if source.name == "synthesis":
            tensors["q_row"] = q_rows[1]
            tensors["y_hat"] = tensors["y_hat"] * tensors["quant_step"]
        run = expected_run(source, {i.name: tensors[i.name].numpy() for i in source.inputs})
        runs[source.name] = run
        tensors |= {name: torch.from_numpy(array) for name, array in run[1].items()}
        if source.name == "hyper_prior":
            tensors["y_hat"] = torch.round(tensors["y"] / tensors["quant_step"])
    return runs


@torch.inference_mode()
def expected_run(source: GraphSource, feeds: Mapping[str, Array]) -> Run:
    """Feeds of a graph, and what torch makes of them."""
    results = source.module(*(torch.from_numpy(feeds[i.name]) for i in source.inputs))
    named = zip(source.outputs, results if isinstance(results, tuple) else (results,), strict=True)
    return dict(feeds), {name: tensor.numpy() for name, tensor in named}


def compare(name: str, engine: Engine, runs: Sequence[Run], *, exact: bool = False) -> Difference:
    """Run a graph on the feeds of several sizes and compare; in exact arithmetic nothing may differ.

    Raises:
        GraphMismatch: an output differs by more than the tolerance.
    """
    return _compared(name, [(feeds, engine.run(feeds), expected) for feeds, expected in runs], exact=exact)


def compare_tiles(
    engines: Mapping[str, Engine],
    layout: TileLayout,
    runs: Mapping[str, Run],
) -> None:
    """Put analysis and synthesis together out of their tile graphs, in strips of a few rows, and compare with torch.

    Args:
        engines: of every tile graph of what is compared, by the names of the model's own.
        layout: of them.
        runs: feeds and results of `analysis`, of `synthesis`, or of both, for one image.

    Raises:
        GraphMismatch: an output differs by more than the tolerance.
    """
    plan = TilePlan((Kept(1, 1, "float32"),) * len(layout.analysis), _STRIP_BYTES)
    tiled = TiledTransforms(layout, plan, lambda graph, feeds: engines[graph].run(feeds), lambda: None, None)
    if ANALYSIS in runs:
        feeds, expected = runs[ANALYSIS]
        factor = 1 << len(layout.analysis)
        height, width = (factor * side for side in expected["y"].shape[2:])
        y, z_indices = tiled.analysis(feeds["image"], feeds["q_row"], height, width)
        _compared("analysis in tiles", [(feeds, {"y": y, "z_indices": z_indices}, expected)], exact=False)
    if SYNTHESIS in runs:
        feeds, expected = runs[SYNTHESIS]
        image = np.empty_like(expected["image"])
        tiled.synthesis(feeds["y_hat"], feeds["q_row"], image)
        _compared("synthesis in tiles", [(feeds, {"image": image}, expected)], exact=False)


def _compared(
    name: str, runs: Sequence[tuple[Mapping[str, Array], Mapping[str, Array], Mapping[str, Array]]], *, exact: bool
) -> Difference:
    """Compare feeds, found and expected results of several runs."""
    largest, floats, changed, integers = 0.0, 0, 0, 0
    for feeds, found, expected in runs:
        for output, want in expected.items():
            got = found[output]
            where = f"graph {name}, output {output}, inputs {[list(f.shape) for f in feeds.values()]}"
            if got.shape != want.shape:
                raise GraphMismatch(f"{where}: shape {list(got.shape)}; torch gives {list(want.shape)}")
            distance = np.abs(got.astype(np.float64) - want.astype(np.float64))
            if np.issubdtype(want.dtype, np.floating):
                limit = 0.0 if exact else _RELATIVE_TOLERANCE * max(1.0, float(np.abs(want).max()))
                if not distance.max() <= limit:
                    raise GraphMismatch(f"{where}: differs from torch by {distance.max():.3g}; allowed {limit:.3g}")
                largest = max(largest, float(distance.max()))
                floats += want.size
                continue
            differing = int(np.count_nonzero(distance))
            allowed = (
                0 if exact else max(1, int((_CHANGED_PIXELS if output == "image" else _CHANGED_INDICES) * want.size))
            )
            step = np.inf if output == "z_indices" else 1
            if differing > allowed or distance.max() > step:
                raise GraphMismatch(
                    f"{where}: {differing} of {want.size} integers differ from torch, by up to {distance.max():.0f}; "
                    f"allowed {allowed}"
                )
            changed += differing
            integers += want.size
    return Difference(largest, floats, changed, integers)
