"""OpenVINO with our own kernels: convolutions of image graphs as one chain on AMX or AVX2, the rest as in `ov`."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping

import numpy as np

from glc.engines.conv_chain import (
    ActivationMemory,
    ConvChain,
    PackedChain,
    default_precision,
    pack,
    require_kernels,
)
from glc.engines.ov import OvEngine, OvLoader
from glc.engines.ov_cache import Compiled
from glc.engines.ov_chain import GIVEN, TAKEN, cut
from glc.engines.protocol import Array, Engine, TensorSpec, check_feeds
from glc.errors import EngineUnavailable

_PRECISIONS = {"openvino-amx": ("f16", "bf16"), "openvino-avx2": ("f32",)}

_BEFORE, _CHAIN, _BEHIND = "before a chain", "packed convolutions", "behind a chain"


class OvChainedEngine:
    """A graph in three: what stands before the chain, the chain, and what stands behind."""

    def __init__(self, before: OvEngine, chain: ConvChain, behind: OvEngine) -> None:
        self._before, self._chain, self._behind = before, chain, behind
        self._rest = tuple(spec for spec in behind.inputs if spec.name != TAKEN)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed."""
        return tuple(dict.fromkeys((*self._before.inputs, *self._rest)))

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        return self._behind.outputs

    @property
    def streams(self) -> int:
        """Runs that may go on at once."""
        return self._before.streams

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs; see `Engine.run`."""
        check_feeds(self.inputs, feeds)
        given = self._before.run({spec.name: feeds[spec.name] for spec in self._before.inputs})[GIVEN]
        taken = self._chain.run(given[0])
        rest = {spec.name: feeds[spec.name] for spec in self._rest}
        return self._behind.run({TAKEN: taken[None].astype(np.float32, copy=False), **rest})

    def close(self) -> None:
        """Free the graph."""
        self._before.close()
        self._behind.close()


class OvChainedLoader(OvLoader):
    """OpenVINO's CPU device, with chains of convolutions on our own kernels."""

    def __init__(self, name: str, threads: int | None = None, precision: str | None = None) -> None:
        """Choose an engine.

        Args:
            name: `openvino-amx`, which computes in f16 or bf16, or `openvino-avx2`, in f32.
            threads: see `engine_loader`.
            precision: None for the more exact one of those that this processor multiplies.

        Raises:
            EngineUnavailable: this processor, or the engine, does not compute in the precision.
        """
        known = _PRECISIONS[name]
        precision = precision or default_precision(known)
        if precision not in known:
            raise EngineUnavailable(
                f"engine {name} computes in {' or '.join(known)}, not in {precision}: choose openvino"
            )
        require_kernels(precision)
        super().__init__(threads, precision)
        self.name = name
        self._memory: ActivationMemory | None = ActivationMemory()

    @property
    def fingerprint(self) -> str:
        """All that its float results may depend on."""
        return super().fingerprint.replace("openvino", self.name, 1)

    def sparing(self) -> OvChainedLoader:
        """A loader like this one; see `HostLoader.sparing`."""
        loader = copy.copy(self)
        loader._sparing, loader._memory = True, None
        return loader

    def recall(self, sha256: str, *, exact: bool) -> Engine | None:
        """Take a graph from the cache; see `HostLoader.recall`."""
        settings = self._settings(exact=False)
        kept = None if exact else self._cache.recalled_arrays(sha256, settings, self._way_of(_CHAIN))
        if kept is None:
            return super().recall(sha256, exact=exact)
        before, behind = (self._recalled(sha256, settings, self._way_of(part)) for part in (_BEFORE, _BEHIND))
        return None if before is None or behind is None else self._engine(before, PackedChain(**kept), behind)

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """Load a serialised ONNX graph; see `EngineLoader.load`. One without a chain is OpenVINO's alone."""
        sha256 = hashlib.sha256(graph).hexdigest()
        recalled = self.recall(sha256, exact=exact)
        if recalled is not None:
            return recalled
        parts = None if exact else cut(self._parsed(graph))
        if parts is None:
            return super().load(graph, exact=exact)
        packed = pack(parts.convolutions, self._precision)
        about = (sha256, self._settings(exact=False), self._way_of(_CHAIN))
        self._cache.keep_arrays({"layers": packed.layers, "channels": packed.channels, "values": packed.values}, *about)
        kept = self._cache.recalled_arrays(*about)
        if kept is not None:  # in the file's pages, not in memory of its own
            packed = PackedChain(**kept)
        before, behind = (
            self._made(part, sha256, self._way_of(name), exact=False)
            for name, part in ((_BEFORE, parts.before), (_BEHIND, parts.behind))
        )
        return self._engine(before, packed, behind)

    def _engine(self, before: Compiled, packed: PackedChain, behind: Compiled) -> OvChainedEngine:
        chain = ConvChain(packed, self._precision, self._threads, self._memory)
        first, last = (OvEngine(part, sparing=self._sparing) for part in (before, behind))
        return OvChainedEngine(first, chain, last)

    def _way(self, *, exact: bool) -> str:
        """Other than OpenVINO's own way for image graphs: one that it compiled whole may have a chain."""
        return super()._way(exact=exact) if exact else self._way_of("no chain")

    def _way_of(self, part: str) -> str:
        return f"{super()._way(exact=False)}, {part}"
