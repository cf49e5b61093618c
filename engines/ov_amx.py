"""OpenVINO with our own kernels for AMX: convolutions of image graphs as one chain, the rest as `ov` computes it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import openvino

from glc.engines.conv_chain import ConvChain, Kind, default_precision, require_kernels
from glc.engines.ov import OvEngine, OvLoader, graph_specs
from glc.engines.ov_cache import Compiled
from glc.engines.ov_chain import GIVEN, TAKEN, cut
from glc.engines.protocol import Array, Engine, TensorSpec, check_feeds


class OvAmxEngine:
    """A graph in three: what stands before the chain, the chain, and what stands behind."""

    def __init__(
        self,
        before: OvEngine,
        chain: ConvChain,
        behind: OvEngine,
        specs: tuple[tuple[TensorSpec, ...], ...],
        given: type,
        *,
        sparing: bool,
    ) -> None:
        self._before, self._chain, self._behind = before, chain, behind
        self._inputs, self._outputs = specs
        self._given = given
        self._keep = not sparing

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        return self._outputs

    @property
    def streams(self) -> int:
        """Runs that may go on at once."""
        return self._before.streams

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs; see `Engine.run`."""
        check_feeds(self._inputs, feeds)
        given = self._before.run({spec.name: feeds[spec.name] for spec in self._before.inputs})[GIVEN]
        taken = self._chain.run(given[0].astype(self._given, copy=False), keep=self._keep)
        rest = {spec.name: feeds[spec.name] for spec in self._behind.inputs if spec.name != TAKEN}
        return self._behind.run({TAKEN: taken[None].astype(np.float32, copy=False), **rest})

    def close(self) -> None:
        """Free the graph."""
        self._before.close()
        self._chain.close()
        self._behind.close()


class OvAmxLoader(OvLoader):
    """OpenVINO's CPU device, with chains of convolutions on AMX in float16 or bfloat16."""

    name = "openvino-amx"

    def __init__(self, threads: int | None = None, precision: str | None = None) -> None:
        precision = precision or default_precision()
        require_kernels(precision)
        super().__init__(threads, precision)

    @property
    def fingerprint(self) -> str:
        """All that its float results may depend on."""
        return super().fingerprint.replace("openvino", self.name, 1)

    def recall(self, sha256: str, *, exact: bool) -> Engine | None:
        """Take a compiled graph from the cache; see `HostLoader.recall`. Weights of a chain are in the graph's file."""
        return super().recall(sha256, exact=exact) if exact else None

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """Load a serialised ONNX graph; see `EngineLoader.load`. One without a chain is OpenVINO's alone."""
        if exact:
            return super().load(graph, exact=True)
        source = self._parsed(graph)
        specs = graph_specs(source)
        parts = cut(source)
        if parts is None:
            return super().load(graph)
        sha256 = hashlib.sha256(graph).hexdigest()
        chain = ConvChain(parts.convolutions, self._precision, self._threads)
        given = np.float32 if parts.convolutions[0].kind == Kind.FIRST else np.float16
        before, behind = (self._part(part, sha256) for part in (parts.before, parts.behind))
        return OvAmxEngine(before, chain, behind, specs, given, sparing=self._sparing)

    def _part(self, source: openvino.Model, sha256: str) -> OvEngine:
        settings, way = self._settings(exact=False), f"{self._way(exact=False)}, {source.get_friendly_name()} a chain"
        compiled = self._cache.recalled(sha256, settings, way)
        if compiled is None:
            specs = graph_specs(source)
            self._rewrite(source, exact=False)
            compiled = Compiled(self._compiled(source, settings), *specs)
            self._cache.keep(compiled, sha256, settings, way)
        return OvEngine(compiled, sparing=self._sparing)
