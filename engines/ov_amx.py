"""OpenVINO with our own kernels for AMX: convolutions of image graphs as one chain, the rest as `ov` computes it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import openvino

from glc.engines.conv_chain import ActivationMemory, ConvChain, PackedChain, default_precision, pack, require_kernels
from glc.engines.ov import OvEngine, OvLoader, graph_specs
from glc.engines.ov_cache import Compiled
from glc.engines.ov_chain import GIVEN, TAKEN, cut
from glc.engines.protocol import Array, Engine, TensorSpec, check_feeds

_BEFORE, _CHAIN, _BEHIND = "before a chain", "its convolutions", "behind a chain"


class OvAmxEngine:
    """A graph in three: what stands before the chain, the chain, and what stands behind."""

    def __init__(self, before: OvEngine, chain: ConvChain, behind: OvEngine, specs: _Specs) -> None:
        self._before, self._chain, self._behind = before, chain, behind
        self._specs = specs

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed."""
        return self._specs.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        return self._specs.outputs

    @property
    def streams(self) -> int:
        """Runs that may go on at once."""
        return self._before.streams

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs; see `Engine.run`."""
        check_feeds(self.inputs, feeds)
        given = self._before.run({spec.name: feeds[spec.name] for spec in self._before.inputs})[GIVEN]
        taken = self._chain.run(given[0])
        rest = {spec.name: feeds[spec.name] for spec in self._behind.inputs if spec.name != TAKEN}
        return self._behind.run({TAKEN: taken[None].astype(np.float32, copy=False), **rest})

    def close(self) -> None:
        """Free the graph."""
        self._before.close()
        self._behind.close()


@dataclass(frozen=True, slots=True)
class _Specs:
    """Of a whole graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class OvAmxLoader(OvLoader):
    """OpenVINO's CPU device, with chains of convolutions on AMX in float16 or bfloat16."""

    name = "openvino-amx"

    def __init__(self, threads: int | None = None, precision: str | None = None) -> None:
        precision = precision or default_precision()
        require_kernels(precision)
        super().__init__(threads, precision)
        self._memory: ActivationMemory | None = ActivationMemory()

    @property
    def fingerprint(self) -> str:
        """All that its float results may depend on."""
        return super().fingerprint.replace("openvino", self.name, 1)

    def sparing(self) -> OvAmxLoader:
        """A loader like this one; see `HostLoader.sparing`."""
        loader = copy.copy(self)
        loader._sparing, loader._memory = True, None
        return loader

    def recall(self, sha256: str, *, exact: bool) -> Engine | None:
        """Take a graph from the cache; see `HostLoader.recall`."""
        if exact:
            return super().recall(sha256, exact=True)
        settings = self._settings(exact=False)
        kept = self._cache.recalled_arrays(sha256, settings, self._way_of(_CHAIN))
        parts = [self._cache.recalled(sha256, settings, self._way_of(part)) for part in (_BEFORE, _BEHIND)]
        before, behind = parts
        if kept is None or before is None or behind is None or kept.keys() != {"layers", "channels", "values", "specs"}:
            return None
        named = json.loads(str(kept["specs"]))
        inputs, outputs = (
            tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in named[end])
            for end in ("inputs", "outputs")
        )
        packed = PackedChain(kept["layers"], kept["channels"], kept["values"])
        return self._engine(before, packed, behind, _Specs(inputs, outputs))

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """Load a serialised ONNX graph; see `EngineLoader.load`. One without a chain is OpenVINO's alone."""
        if exact:
            return super().load(graph, exact=True)
        sha256 = hashlib.sha256(graph).hexdigest()
        recalled = self.recall(sha256, exact=False)
        if recalled is not None:
            return recalled
        source = self._parsed(graph)
        specs = _Specs(*graph_specs(source))
        parts = cut(source)
        if parts is None:
            return super().load(graph)
        packed = pack(parts.convolutions, self._precision)
        named = {
            end: [(spec.name, spec.dtype, spec.shape) for spec in getattr(specs, end)] for end in ("inputs", "outputs")
        }
        arrays = {"layers": packed.layers, "channels": packed.channels, "values": packed.values}
        arrays["specs"] = np.array(json.dumps(named))
        self._cache.keep_arrays(arrays, sha256, self._settings(exact=False), self._way_of(_CHAIN))
        before, behind = (
            self._part(part, name, sha256) for name, part in ((_BEFORE, parts.before), (_BEHIND, parts.behind))
        )
        return self._engine(before, packed, behind, specs)

    def _part(self, source: openvino.Model, name: str, sha256: str) -> Compiled:
        settings = self._settings(exact=False)
        specs = graph_specs(source)
        self._rewrite(source, exact=False)
        compiled = Compiled(self._compiled(source, settings), *specs)
        self._cache.keep(compiled, sha256, settings, self._way_of(name))
        return compiled

    def _engine(self, before: Compiled, packed: PackedChain, behind: Compiled, specs: _Specs) -> OvAmxEngine:
        chain = ConvChain(packed, self._precision, self._threads, self._memory)
        ends = (OvEngine(part, sparing=self._sparing) for part in (before, behind))
        return OvAmxEngine(next(ends), chain, next(ends), specs)

    def _way_of(self, part: str) -> str:
        return f"{self._way(exact=False)}, {part}"
