"""OpenVINO with our own kernels: chains of convolutions and exact networks on AMX or AVX, the rest as in `ov`."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from glc.engines.chained import Chain, ChainedEngine
from glc.engines.conv_chain import FORM, ConvChain, activations, default_precision, pack, require_kernels
from glc.engines.conv_cut import SHORT, cut_convolutions
from glc.engines.exact_chain import ExactChain, best_kernel
from glc.engines.exact_chain import pack as pack_exact
from glc.engines.exact_cut import cut_exact
from glc.engines.kernel_memory import LONG, EngineMemory, PackedChain
from glc.engines.ov import OvEngine, OvLoader
from glc.engines.ov_cache import Compiled
from glc.engines.protocol import Engine
from glc.errors import EngineUnavailable

_PRECISIONS = {"openvino-amx": ("f16", "bf16"), "openvino-avx2": ("f32",)}

_MODEL, _CHAINS = "model", "packed rows"
"""Parts of a graph in the cache."""


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
        self._has_tiles = name == "openvino-amx"
        self._memory: EngineMemory | None = EngineMemory()

    @property
    def fingerprint(self) -> str:
        """All that its float results may depend on."""
        return f"{super().fingerprint.replace('openvino', self.name, 1)}, {FORM}"

    def sparing(self) -> OvChainedLoader:
        """A loader like this one; see `HostLoader.sparing`."""
        loader = copy.copy(self)
        loader._sparing, loader._memory = True, None
        return loader

    def recall(self, sha256: str, *, exact: bool) -> Engine | None:
        """Take a graph from the cache; see `HostLoader.recall`."""
        settings = self._settings(exact=exact)
        kept = self._cache.recalled_arrays(sha256, settings, self._way_of(_CHAINS, exact=exact))
        if kept is None:
            return super().recall(sha256, exact=exact)
        chains = _chains_of(kept)
        models = [
            self._recalled(sha256, settings, self._way_of(f"{_MODEL} {number}", exact=exact))
            for number in range(len(chains) + 1)
        ]
        found = [model for model in models if model is not None]
        return self._engine(found, chains, exact=exact) if len(found) == len(models) else None

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """Load a serialised ONNX graph; see `EngineLoader.load`. One without a chain is OpenVINO's alone."""
        sha256 = hashlib.sha256(graph).hexdigest()
        recalled = self.recall(sha256, exact=exact)
        if recalled is not None:
            return recalled
        parts, chains = self._cut_exact(graph) if exact else self._cut(graph)
        if not chains:
            return super().load(graph, exact=exact)
        about = (sha256, self._settings(exact=exact), self._way_of(_CHAINS, exact=exact))
        self._cache.keep_arrays(_arrays_of(chains), *about)
        kept = self._cache.recalled_arrays(*about)
        if kept is not None:  # in the file's pages, not in memory of its own
            chains = _chains_of(kept)
        made = [
            self._made(self._parsed(part), sha256, self._way_of(f"{_MODEL} {number}", exact=exact), exact=exact)
            for number, part in enumerate(parts)
        ]
        return self._engine(made, chains, exact=exact)

    def _cut(self, graph: bytes) -> tuple[Sequence[bytes], list[PackedChain]]:
        """Parts of an image graph, and what stands between them; no chain where there is none."""
        least, least_of_integers = SHORT, None
        if self._has_tiles:  # OpenVINO is as fast, but for having no 8-bit convolutions beside float16
            least, least_of_integers = LONG, SHORT if self._precision == "f16" else LONG
        parts = cut_convolutions(graph, activations(self._precision), least, least_of_integers=least_of_integers)
        return (parts.parts, [pack(each, self._precision) for each in parts.chains]) if parts else ((), [])

    def _cut_exact(self, graph: bytes) -> tuple[Sequence[bytes], list[PackedChain]]:
        """The same of an exact graph: as integers, but where OpenVINO multiplies float16 in tiles."""
        kernel = best_kernel() if self.exact_precision == "f32" else None
        parts = cut_exact(graph) if kernel else None
        if kernel is None or parts is None:
            return (), []
        return (parts.before, parts.behind), [pack_exact(parts.row, kernel)]

    def _engine(self, models: Sequence[Compiled], chains: Sequence[PackedChain], *, exact: bool) -> ChainedEngine:
        found: list[Chain]
        memory, kernel = self._memory, best_kernel() if exact else None
        if kernel is not None:
            found = [ExactChain(chain, kernel, self._threads, memory.exact if memory else None) for chain in chains]
        else:
            found = [
                ConvChain(chain, self._precision, self._threads, memory.of_convolutions(chain) if memory else None)
                for chain in chains
            ]
        return ChainedEngine([OvEngine(model, sparing=self._sparing) for model in models], found)

    def _way(self, *, exact: bool) -> str:
        """Other than OpenVINO's own way: a graph that it compiled whole may have a chain."""
        return self._way_of("no chain", exact=exact)

    def _way_of(self, part: str, *, exact: bool) -> str:
        """Weights are packed for one kernel, and which is best does not rest on the processor alone."""
        return f"{super()._way(exact=exact)}, {part}, {best_kernel() if exact else FORM}"


def _arrays_of(chains: Sequence[PackedChain]) -> dict[str, NDArray[Any]]:
    """Arrays of all chains, by names that `_chains_of` knows."""
    return {
        f"{number} {field.name}": getattr(chain, field.name)
        for number, chain in enumerate(chains)
        for field in dataclasses.fields(chain)
    }


def _chains_of(arrays: Mapping[str, NDArray[Any]]) -> list[PackedChain]:
    names = [field.name for field in dataclasses.fields(PackedChain)]
    return [
        PackedChain(**{name: arrays[f"{number} {name}"] for name in names})
        for number in range(len(arrays) // len(names))
    ]
