"""Symbols drawn at a given rate in place of those that the networks give.

The time of a network does not depend on its weights' values, that of the entropy coder does on the rate. So that
models with synthetic weights, and torch beside the runtime, code what the paper's model would, every network runs as
it is and then its outputs that reach the coder are replaced: scales by drawn ones, the latent by symbols drawn under
them. Streams decode to what was drawn.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from glc.engines import Array, Engine, EngineLoader, StageListener, Tensor, Workspace
from glc.runtime.bundle import Bundle
from glc.runtime.codec import Codec
from glc.runtime.scale_table import PROBABILITY_BITS, ScaleTable

_STEPS = 40
"""Of the bisection for a rate: the interval is halved down to 1e-12."""


class DrawnLoader:
    """Another loader in whose workspaces the scale indices and symbols that the coder fetches are drawn ones."""

    def __init__(self, inner: EngineLoader, table: ScaleTable, bits_per_symbol: float, seed: int = 0) -> None:
        """Prepare drawing.

        Args:
            inner: loads what runs.
            table: of the bundle.
            bits_per_symbol: mean cost of a symbol of the latent.
            seed: of the draws.

        Raises:
            ValueError: no mixture of the table's scales has this rate.
        """
        self._inner = inner
        self._levels = level_probabilities(table, bits_per_symbol)
        self._table = table
        self._seed = seed
        self._drawn: dict[tuple[int, ...], tuple[NDArray[np.uint8], NDArray[np.int32]]] = {}
        self.name, self.fingerprint = inner.name, inner.fingerprint
        self.on_device, self.target = inner.on_device, inner.target

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """See `EngineLoader.load`."""
        return self._inner.load(graph, exact=exact)

    def adopt(self, value: object, name: str) -> Tensor:
        """See `EngineLoader.adopt`."""
        return self._inner.adopt(value, name)

    @contextlib.contextmanager
    def workspace(self, on_stage: StageListener | None) -> Iterator[Workspace]:
        """See `EngineLoader.workspace`."""
        with self._inner.workspace(on_stage) as workspace:
            yield _DrawnWorkspace(workspace, self)

    def part(self, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Scale indices and symbols (1, N, h/2, w/2), the same for all four parts."""
        if shape not in self._drawn:
            self._drawn[shape] = draw_part(self._table, self._levels, shape, self._seed)
        return self._drawn[shape]


class _DrawnWorkspace:
    def __init__(self, inner: Workspace, loader: DrawnLoader) -> None:
        self._loader = loader
        self._inner = inner
        self.store = inner.store

    def run(self, stage: str, engine: Engine, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Workspace.run`; on the CPU means are zero, since in float arithmetic drawn symbols drive them to NaN."""
        results = self._inner.run(stage, engine, feeds)
        if not self._loader.on_device and "means" in results:
            results["means"] = np.zeros(results["means"].shape, np.float32)
        return results

    def fetch(self, tensors: Mapping[str, Tensor]) -> dict[str, Array]:
        """See `Workspace.fetch`; what is replaced is fetched first, so that its way to the CPU takes its time."""
        arrays = self._inner.fetch(tensors)
        for name, array in arrays.items():
            if name.startswith(("scale_indices_", "symbols_")):
                indices, symbols = self._loader.part(array.shape)
                arrays[name] = indices if name.startswith("scale") else symbols
        return arrays


def drawn_codec(
    bundle: Bundle, loader: EngineLoader, bits_per_symbol: float, on_stage: StageListener | None = None
) -> Codec:
    """A codec with every graph loaded and checked, that draws.

    Raises:
        ValueError: as `DrawnLoader`.
        GlcError: the bundle or the engine cannot be used.
    """
    drawn = DrawnLoader(loader, bundle.tables().scales, bits_per_symbol)
    codec = Codec(bundle, drawn, on_stage=on_stage)
    codec.warm_up()
    return codec


def symbol_bits(bundle: Bundle, height: int, width: int, bpp: float) -> float:
    """Mean cost of a symbol of the latent that makes a payload of a rate; the z indices have their share of it.

    Args:
        bundle: says how many symbols an image has.
        height: of the image in pixels.
        width: likewise.
        bpp: bits per pixel of the payload.
    """
    config = bundle.manifest.config
    cells = math.prod(-(-side // (4 * config.downsampling)) for side in (height, width))
    return (bpp * height * width - cells * math.log2(config.codebook_entries)) / (16 * cells * config.latent_channels)


def level_probabilities(table: ScaleTable, bits_per_symbol: float) -> NDArray[np.float64]:
    """Geometric distribution over the scale indices whose symbols cost so many bits on average.

    Raises:
        ValueError: no such distribution has this rate.
    """
    entropies = np.array([_entropy(row) for row in table.frequencies])
    levels = np.arange(len(entropies))

    def mixture(quotient: float) -> NDArray[np.float64]:
        weights = quotient**levels
        return np.asarray(weights / weights.sum(), np.float64)

    low, high = 0.0, 1.0
    if not entropies @ mixture(low) <= bits_per_symbol <= entropies @ mixture(high):
        raise ValueError(f"no mixture of this table's scales costs {bits_per_symbol:.4f} bits a symbol")
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if entropies @ mixture(middle) < bits_per_symbol else (low, middle)
    return mixture(low)


def draw_part(
    table: ScaleTable, levels: NDArray[np.float64], shape: tuple[int, ...], seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Draw scale indices, and symbols under them; no escapes."""
    random = np.random.default_rng(seed)
    indices = random.choice(len(levels), shape, p=levels).astype(np.uint8)
    symbols = np.zeros(shape, np.int32)
    for index in np.unique(indices).tolist():
        reach, here = int(table.reach[index]), indices == index
        weights = table.frequencies[index][: 2 * reach + 1]
        symbols[here] = random.choice(2 * reach + 1, np.count_nonzero(here), p=weights / weights.sum()) - reach
    return indices, symbols


def _entropy(frequencies: NDArray[np.int64]) -> float:
    probabilities = frequencies / (1 << PROBABILITY_BITS)
    return float(-(probabilities * np.log2(probabilities)).sum())
