"""OpenVINO on the CPU, in float32, float16 or bfloat16. With what it consists of, `ov_*`, all that imports openvino."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from glc.engines.processor import available_threads, has_float16_matrices, processor_name
from glc.engines.protocol import Array, Engine, HostLoader, TensorSpec, check_feeds
from glc.errors import EngineFailed, EngineRejectedGraph, EngineUnavailable

try:
    import openvino
except ImportError as error:
    raise EngineUnavailable("engine openvino is not installed; run: pip install 'glc-deploy[openvino]'") from error

from glc.engines.ov_cache import Cache, Compiled
from glc.engines.ov_errors import last_line
from glc.engines.ov_group_norm import merge_group_norms
from glc.engines.ov_precision import codebook_search, narrow, narrow_exact
from glc.engines.ov_strips import OvStripEngine, keep_sums_apart
from glc.engines.ov_upsampling import merge_upsampling

_DEVICE = "CPU"
_MOST_STREAMS = 8
"""Each takes time to set up and memory."""
_MOST_IDLE = 8
"""Requests that wait to be used again: each keeps the memory of its last results, which a burst of threads must not."""
_DTYPES = {"f32": "float32", "f16": "float16", "u8": "uint8", "i32": "int32"}
_CAPABILITIES = {"f32": "FP32", "f16": "FP16", "bf16": "BF16"}
"""Precision -> what the processor must be capable of; OpenVINO would take another one in silence."""
_EXACT_HINT = "dynamic"
_HINTS = {"f32": "f32", "f16": "dynamic", "bf16": "bf16"}
"""Precision -> OpenVINO's hint. Under `dynamic` operations have the types of the graph: float16 is too coarse for some.
bfloat16 is a hint, since 8-bit convolutions beside it fall back to slow ones under `dynamic`."""


@contextlib.contextmanager
def _rejecting() -> Iterator[None]:
    """Turn what OpenVINO raises at a graph into our error."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        raise EngineRejectedGraph(f"openvino cannot load the graph: {last_line(error)}") from error


class OvEngine:
    """One compiled graph; sizes are free, and requests are reused, so that a new size compiles nothing anew."""

    def __init__(self, compiled: Compiled, *, sparing: bool = False) -> None:
        self._compiled: Compiled | None = compiled
        self._sparing = sparing
        self._inputs, self._outputs = compiled.inputs, compiled.outputs
        self._idle: list[openvino.InferRequest] = []
        self._lock = threading.Lock()

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
        return 0 if self._compiled is None else int(self._compiled.model.get_property("NUM_STREAMS"))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs; see `Engine.run`."""
        compiled = self._compiled
        if compiled is None:
            raise EngineFailed("this engine is closed; open the codec again")
        check_feeds(self._inputs, feeds)
        with self._lock:
            request = self._idle.pop() if self._idle else None
        is_first = request is None
        if request is None:
            request = compiled.model.create_infer_request()
        try:
            request.infer([np.ascontiguousarray(feeds[spec.name]) for spec in self._inputs], share_inputs=True)
            tensors = [request.get_output_tensor(number).data for number in range(len(self._outputs))]
            if self._sparing:
                compiled.model.release_memory()
        except RuntimeError as error:
            raise EngineFailed(f"openvino: {last_line(error)}") from error
        if is_first:  # later runs come back to those pages alone that are used as they lie
            compiled.leave_pages()
        names = [spec.name for spec in self._outputs]
        if self._sparing:  # the request ends here, and leaves its results
            return dict(zip(names, tensors, strict=True))
        # The request's own buffers are written again by its next run.
        results = {name: tensor.copy() for name, tensor in zip(names, tensors, strict=True)}
        with self._lock:
            if len(self._idle) < _MOST_IDLE:
                self._idle.append(request)
        return results

    def close(self) -> None:
        """Free the graph."""
        self._idle.clear()
        self._compiled = None


class OvLoader(HostLoader):
    """OpenVINO's CPU device; compiled graphs are kept in `ov_cache.cache_folder`."""

    name = "openvino"
    strips_take_half = True

    def __init__(self, threads: int | None = None, precision: str | None = None) -> None:
        self._threads = threads or available_threads()
        # Runs at once, each with its threads: by itself, OpenVINO lets one wait for the other.
        self._streams = min(max(1, available_threads() // self._threads), _MOST_STREAMS)
        self._precision = precision or "f32"
        # Where its constants allow; a graph that was made before that rule takes float32.
        self.exact_precision = "f16" if has_float16_matrices() else "f32"
        self._sparing = False
        self._core = openvino.Core()
        self._cache = Cache(self._core, _DEVICE)
        capabilities = self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        if _CAPABILITIES[self._precision] not in capabilities:
            able = [name for name, capability in _CAPABILITIES.items() if capability in capabilities]
            raise EngineUnavailable(
                f"this processor does not compute in {self._precision} under openvino; choose one of {', '.join(able)}"
            )

    @property
    def fingerprint(self) -> str:
        """All that its float results may depend on."""
        version = openvino.__version__.partition("-")[0]
        return f"openvino {version} {self._precision}, {self._threads} threads, {processor_name()}"

    def sparing(self) -> OvLoader:
        """A loader like this one; see `HostLoader.sparing`."""
        loader = copy.copy(self)
        loader._sparing = True
        return loader

    def recall(self, sha256: str, *, exact: bool) -> Engine | None:
        """Take a compiled graph from the cache; see `HostLoader.recall`."""
        compiled = self._recalled(sha256, self._settings(exact=exact), self._way(exact=exact))
        return None if compiled is None else OvEngine(compiled, sparing=self._sparing)

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """Load a serialised ONNX graph; see `EngineLoader.load`."""
        sha256 = hashlib.sha256(graph).hexdigest()
        recalled = self.recall(sha256, exact=exact)
        if recalled is not None:
            return recalled
        source = self._parsed(graph)
        compiled = self._made(source, sha256, self._way(exact=exact), exact=exact)
        return OvEngine(compiled, sparing=self._sparing)

    def load_strips(self, graph: bytes) -> Engine:
        """Load a graph for strips; see `HostLoader.load_strips`. Compiling takes less than a strip, and is not kept."""
        source, settings = self._parsed(graph), self._settings(exact=False)
        self._rewrite(source, exact=False)
        inputs, outputs = _specs(source)
        keep_sums_apart(source)
        return OvStripEngine(
            source,
            inputs,
            outputs,
            lambda model: self._compiled(model, settings),
        )

    def _recalled(self, sha256: str, settings: Mapping[str, Any], way: str) -> Compiled | None:
        """What was compiled so, from the cache."""
        compiled = self._cache.recalled(sha256, settings, way)
        if compiled is not None:
            _require_precision(compiled.model, settings)
        return compiled

    def _made(self, source: openvino.Model, sha256: str, way: str, *, exact: bool) -> Compiled:
        """Rewrite and compile a graph as it was read, and keep it."""
        settings, specs = self._settings(exact=exact), _specs(source)
        self._rewrite(source, exact=exact)
        compiled = Compiled(self._compiled(source, settings), *specs)
        kept = self._cache.keep(compiled, sha256, settings, way)
        # The file's memory is shared with other processes, and its pages can be let go.
        recalled = self._recalled(sha256, settings, way) if kept else None
        return compiled if recalled is None else recalled

    def _parsed(self, graph: bytes) -> openvino.Model:
        with _rejecting():
            return self._core.read_model(graph)

    def _compiled(self, source: openvino.Model, settings: Mapping[str, Any]) -> openvino.CompiledModel:
        with _rejecting():
            model = self._core.compile_model(source, _DEVICE, dict(settings))
        _require_precision(model, settings)
        return model

    def _settings(self, *, exact: bool) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": _EXACT_HINT if exact else _HINTS[self._precision],
            "INFERENCE_NUM_THREADS": self._threads * self._streams,
            "NUM_STREAMS": self._streams,
            "PERFORMANCE_HINT": "LATENCY",
        }

    def _way(self, *, exact: bool) -> str:
        """What a compiled graph depends on beside its settings: how it was rewritten."""
        if exact:
            return f"exact in {self.exact_precision}"
        return f"{self._precision}, merged upsampling and group norms"

    @_rejecting()
    def _rewrite(self, source: openvino.Model, *, exact: bool) -> None:
        """Give a graph the types that it is computed in, and forms that are faster here."""
        if exact:
            if self.exact_precision == "f16":
                narrow_exact(source)
            return
        if self._precision == "f16" and _has_eight_bits(source):
            raise EngineRejectedGraph("openvino has no 8-bit convolutions with results in f16; choose bf16 or f32")
        merge_upsampling(source)
        wide = merge_group_norms(source)
        if self._precision == "f16":
            narrow(source, wide | codebook_search(source))


def _require_precision(model: openvino.CompiledModel, settings: Mapping[str, Any]) -> None:
    """Raise EngineUnavailable where OpenVINO took another precision than it was asked for."""
    hint = settings["INFERENCE_PRECISION_HINT"]
    with _rejecting():
        given = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if given != hint:
        raise EngineUnavailable(f"openvino compiled for {given} instead of {hint}; choose another precision")


def _has_eight_bits(source: openvino.Model) -> bool:
    """Whether anything in a graph is turned into integers."""
    return any(node.get_type_name() == "FakeQuantize" for node in source.get_ordered_ops())


def _specs(source: openvino.Model) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a graph; compiled, it has further names, of fused operations."""
    return tuple(map(_spec, source.inputs)), tuple(map(_spec, source.outputs))


def _spec(port: Any) -> TensorSpec:
    kind = port.get_element_type().get_type_name()
    if kind not in _DTYPES:
        raise EngineRejectedGraph(f"{port.any_name} has type {kind}; expected one of {', '.join(_DTYPES)}")
    shape = tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape)
    return TensorSpec(port.any_name, _DTYPES[kind], shape)
