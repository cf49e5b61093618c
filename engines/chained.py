"""A graph in parts: an engine's models, and between each two a chain of layers on our own kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from glc.engines.protocol import Array, Engine, TensorSpec, check_feeds

GIVEN = "chain_given"
"""Output of what stands before a chain, (1, H, W, C)."""
TAKEN = "chain_taken"
"""Input of what stands behind it, (1, h, w, O)."""


class Chain(Protocol):
    """Layers on our own kernels."""

    def run(self, given: NDArray[np.floating], /) -> NDArray[np.floating]:
        """Activations (H, W, C) to those of the last layer."""
        ...


class ChainedEngine:
    """Models in a row, and a chain between each two."""

    def __init__(self, models: Sequence[Engine], chains: Sequence[Chain]) -> None:
        self._models, self._chains = models, chains

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed."""
        found = (spec for model in self._models for spec in model.inputs if spec.name != TAKEN)
        return tuple(dict.fromkeys(found))

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        return self._models[-1].outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs; see `Engine.run`."""
        check_feeds(self.inputs, feeds)
        first, *others = self._models
        found = _run(first, feeds)
        for chain, model in zip(self._chains, others, strict=True):
            taken = chain.run(found[GIVEN][0])
            found = _run(model, {**feeds, TAKEN: taken[None]})
        return found

    def close(self) -> None:
        """Free the graph."""
        for model in self._models:
            model.close()


def _run(model: Engine, feeds: Mapping[str, Array]) -> dict[str, Array]:
    return model.run({spec.name: feeds[spec.name] for spec in model.inputs})
