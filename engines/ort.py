"""ONNX Runtime on the CPU, in float32. The only module that imports onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping

from glc.engines.processor import available_threads, processor_name
from glc.engines.protocol import Array, Engine, HostLoader, TensorSpec, check_feeds
from glc.errors import EngineFailed, EngineRejectedGraph, EngineUnavailable

try:
    import onnxruntime
except ImportError as error:
    raise EngineUnavailable("engine onnxruntime is not installed; run: pip install 'glc-deploy[cpu]'") from error

_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int32)": "int32"}
_PROVIDER = "CPUExecutionProvider"


class OrtEngine:
    """One graph in an ONNX Runtime session."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._inputs = tuple(map(_spec, session.get_inputs()))
        self._outputs = tuple(map(_spec, session.get_outputs()))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        return self._outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs; see `Engine.run`."""
        session = self._session
        if session is None:
            raise EngineFailed("this engine is closed; open the codec again")
        check_feeds(self._inputs, feeds)
        names = [spec.name for spec in self._outputs]
        try:
            results = session.run(names, dict(feeds))
        except Exception as error:  # onnxruntime has no common base below Exception
            raise EngineFailed(f"onnxruntime: {_first_line(error)}") from error
        return dict(zip(names, results, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None


class OrtLoader(HostLoader):
    """ONNX Runtime with its CPU execution provider."""

    name = "onnxruntime"

    def __init__(self, threads: int | None = None, *, optimise: bool = True) -> None:
        self._threads = threads or available_threads()
        self._optimise = optimise

    @property
    def fingerprint(self) -> str:
        """All that its float results may depend on."""
        plain = "" if self._optimise else " without graph optimisation"
        return f"onnxruntime {onnxruntime.__version__} float32{plain}, {self._threads} threads, {processor_name()}"

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:  # noqa: ARG002 - float32 is exact as it is
        """Load a serialised ONNX graph; see `EngineLoader.load`."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        if not self._optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4  # errors arrive as exceptions; nothing may be printed beside them
        try:
            session = onnxruntime.InferenceSession(graph, options, providers=[_PROVIDER], enable_fallback=False)
        except Exception as error:  # onnxruntime has no common base below Exception
            raise EngineRejectedGraph(f"onnxruntime cannot load the graph: {_first_line(error)}") from error
        try:
            return OrtEngine(session)
        except UnicodeDecodeError as error:
            raise EngineRejectedGraph(f"a name in the graph is not UTF-8: {error}") from error


def _spec(value: onnxruntime.NodeArg) -> TensorSpec:
    if value.type not in _DTYPES:
        raise EngineRejectedGraph(f"{value.name} has type {value.type}; expected one of {', '.join(_DTYPES)}")
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(value.name, _DTYPES[value.type], shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
