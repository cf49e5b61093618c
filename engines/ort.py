"""ONNX Runtime on the CPU, or on a GPU by its CUDA or TensorRT provider. The only module that imports onnxruntime."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glc.engines.chained import Chain, ChainedEngine
from glc.engines.host_arrays import host_array
from glc.engines.kernel_memory import EngineMemory
from glc.engines.ort_rounding import rounding_in_blocks
from glc.engines.processor import available_threads, processor_name
from glc.engines.protocol import (
    Array,
    Engine,
    HostLoader,
    StageListener,
    TargetKey,
    Tensor,
    TensorSpec,
    Workspace,
    check_feeds,
    timed,
)
from glc.errors import EngineFailed, EngineRejectedGraph, EngineUnavailable

try:
    import onnxruntime
except ImportError as error:
    raise EngineUnavailable("engine onnxruntime is not installed; run: pip install 'glc-deploy[cpu]'") from error

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
}
_CPU_PROVIDER = "CPUExecutionProvider"

DEVICE_PROVIDERS = {"onnxruntime-cuda": "CUDAExecutionProvider", "onnxruntime-tensorrt": "TensorrtExecutionProvider"}
"""Engine on a GPU -> ONNX Runtime's name for what computes there."""


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

    def run_bound(self, feeds: Mapping[str, Tensor], device: str) -> dict[str, Tensor]:
        """Compute all outputs and leave them on a device; feeds are arrays, or outputs of another such run.

        Raises:
            EngineFailed: as `run`.
        """
        session = self._session
        if session is None:
            raise EngineFailed("this engine is closed; open the codec again")
        check_feeds(self._inputs, feeds)
        binding = session.io_binding()
        try:
            for name, tensor in feeds.items():
                if isinstance(tensor, _Bound):
                    binding.bind_ortvalue_input(name, tensor.value)
                else:
                    binding.bind_cpu_input(name, np.ascontiguousarray(tensor))
            for spec in self._outputs:
                binding.bind_output(spec.name, device)
            session.run_with_iobinding(binding)
            values = binding.get_outputs()
        except Exception as error:  # onnxruntime has no common base below Exception
            raise EngineFailed(f"onnxruntime: {_first_line(error)}") from error
        return {
            spec.name: _Bound(value, np.dtype(spec.dtype), tuple(value.shape()))
            for spec, value in zip(self._outputs, values, strict=True)
        }

    @property
    def providers(self) -> list[str]:
        """What computes, first where most is computed."""
        return [] if self._session is None else list(self._session.get_providers())

    def close(self) -> None:
        """Free the session."""
        self._session = None


class OrtLoader(HostLoader):
    """ONNX Runtime with its CPU execution provider."""

    def __init__(
        self,
        threads: int | None = None,
        *,
        optimise: bool = True,
        arena: bool = True,
        own_convolutions: bool = False,
    ) -> None:
        """Choose a form.

        Args:
            threads: see `engine_loader`.
            optimise: False for operations one by one, as the graph has them.
            arena: whether memory is kept from run to run.
            own_convolutions: engine `onnxruntime-avx2`: our own kernels compute rows of convolutions.

        Raises:
            EngineUnavailable: this processor, or this installation, has no such kernels.
        """
        self.name = "onnxruntime-avx2" if own_convolutions else "onnxruntime"
        self._threads = threads or available_threads()
        self._optimise, self._arena, self._own_convolutions = optimise, arena, own_convolutions
        self._memory = EngineMemory() if arena else None
        self._form = ""
        if own_convolutions:
            from glc.engines.conv_chain import FORM, require_kernels

            require_kernels("f32")
            self._form = f", {FORM}"

    @property
    def fingerprint(self) -> str:
        """All that its float results may depend on."""
        plain = "" if self._optimise else " without graph optimisation"
        about = f"{onnxruntime.__version__} float32{plain}, {self._threads} threads, {processor_name()}"
        return f"{self.name} {about}{self._form}"

    def sparing(self) -> OrtLoader:
        """A loader like this one; see `HostLoader.sparing`."""
        return OrtLoader(self._threads, optimise=self._optimise, arena=False, own_convolutions=self._own_convolutions)

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """Load a serialised ONNX graph; see `EngineLoader.load`."""
        if self._optimise:
            parts, chains = self._cut_exact(graph) if exact else self._cut(graph)
            if chains:
                return self._chained(parts, chains)
            graph = rounding_in_blocks(graph) if exact else graph
        return _engine(graph, self._options(), [_CPU_PROVIDER])

    def _cut(self, graph: bytes) -> tuple[Sequence[bytes], Sequence[Chain]]:
        """Parts of an image graph, and the convolutions between them on our own kernels, where they are asked for."""
        if not self._own_convolutions:
            return (), ()
        from glc.engines.conv_chain import ConvChain, pack
        from glc.engines.conv_cut import cut_convolutions

        found = cut_convolutions(graph, np.float32)
        if found is None:
            return (), ()
        memory, chains = self._memory, [pack(row, "f32") for row in found.chains]
        return found.parts, [
            ConvChain(chain, "f32", self._threads, memory.of_convolutions(chain) if memory else None)
            for chain in chains
        ]

    def _cut_exact(self, graph: bytes) -> tuple[Sequence[bytes], Sequence[Chain]]:
        """The same of an exact graph; no chain where our own kernels are no faster."""
        try:
            from glc.engines.exact_chain import ExactChain, best_kernel, pack
            from glc.engines.exact_cut import cut_exact
        except EngineUnavailable:  # they were not compiled
            return (), ()
        kernel = best_kernel()
        found = cut_exact(graph) if kernel else None
        if kernel is None or found is None:
            return (), ()
        parts = [rounding_in_blocks(part) for part in (found.before, found.behind)]
        memory = self._memory.exact if self._memory else None
        return parts, [ExactChain(pack(found.row, kernel), kernel, self._threads, memory)]

    def _chained(self, parts: Sequence[bytes], chains: Sequence[Chain]) -> Engine:
        options = self._options()
        # Its threads would wait for more work in a loop while ours compute.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return ChainedEngine([_engine(part, options, [_CPU_PROVIDER]) for part in parts], chains)

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        if not self._optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = self._arena
        return options


class OrtDeviceLoader:
    """ONNX Runtime on a GPU; tensors stay there between graphs, bound by address."""

    on_device = True
    target: TargetKey | None = None

    def __init__(self, name: str, precision: str | None = None, *, provider: str | None = None, device: str = "cuda"):
        """Find the provider.

        Args:
            name: one of `DEVICE_PROVIDERS`.
            precision: of the image graphs: "f32", the default, or with TensorRT "f16".
            provider: in place of the name's; for tests.
            device: ONNX Runtime's name of the memory; for tests.

        Raises:
            EngineUnavailable: this ONNX Runtime has no such provider, or it does not compute in this precision.
        """
        self.name = "onnxruntime"
        self._provider = provider or DEVICE_PROVIDERS[name]
        self._device = device
        self._precision = precision or "f32"
        if self._precision not in (("f32", "f16") if name == "onnxruntime-tensorrt" else ("f32",)):
            raise EngineUnavailable(f"engine {name} does not compute in {self._precision}: choose tensorrt")
        known = onnxruntime.get_available_providers()
        if self._provider not in known:
            raise EngineUnavailable(
                f"engine {name} needs {self._provider}, and this onnxruntime {onnxruntime.__version__} has "
                f"{', '.join(known)}; run: pip uninstall onnxruntime, then pip install 'glc-deploy[onnxruntime-gpu]'"
            )

    @property
    def fingerprint(self) -> str:
        """All that its float results may depend on, but for the GPU, which ONNX Runtime does not name."""
        return f"onnxruntime {onnxruntime.__version__} {self._provider} {self._precision}"

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """Load a serialised ONNX graph; see `EngineLoader.load`."""
        settings = provider_settings(self._provider, "f32" if exact else self._precision, exact=exact)
        engine = _engine(graph, onnxruntime.SessionOptions(), [(self._provider, settings)])
        found = engine.providers
        if found[0] != self._provider:  # it warns and goes on without, where a driver or a library is missing
            raise EngineUnavailable(
                f"onnxruntime cannot use {self._provider} here, and would take {found[0]}: see that nvidia-smi lists a "
                "GPU, and that CUDA, cuDNN and, for its provider, TensorRT are of the versions that it needs"
            )
        return engine

    @contextlib.contextmanager
    def workspace(self, on_stage: StageListener | None) -> Iterator[Workspace]:
        """Give a workspace; see `EngineLoader.workspace`."""
        yield _DeviceWorkspace(self._device, on_stage)

    def adopt(self, value: object, name: str) -> Tensor:
        """Take memory of the CPU; see `EngineLoader.adopt`. What lies on a GPU is taken by engine tensorrt alone."""
        found = host_array(value, name)
        if found is None:
            raise TypeError(
                f"{name} must be a numpy array, or lend memory of the CPU; got {type(value).__name__}: engine tensorrt "
                "takes device arrays"
            )
        return found[None]


def provider_settings(provider: str, precision: str, *, exact: bool) -> dict[str, str]:
    """Options of a GPU's provider.

    Exact graphs may use TF32 products, which hold their integers, and in the CUDA provider cuDNN's implicit GEMM alone:
    its search might take Winograd's convolution for some sizes, whose sums are not of integers.
    """
    if provider == "TensorrtExecutionProvider":
        return {"trt_fp16_enable": str(precision == "f16")}
    if provider == "CUDAExecutionProvider":
        return {
            "use_tf32": "1" if exact else "0",
            "cudnn_conv_algo_search": "DEFAULT" if exact else "HEURISTIC",
        }
    return {}


@dataclass(frozen=True, slots=True, eq=False)
class _Bound:
    """A tensor that ONNX Runtime keeps on its device."""

    value: onnxruntime.OrtValue
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class _DeviceWorkspace:
    """Runs graphs at once; results stay on the device."""

    def __init__(self, device: str, on_stage: StageListener | None) -> None:
        self._device = device
        self._on_stage = on_stage

    def run(self, stage: str, engine: Engine, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute all outputs; see `Workspace.run`."""
        if not isinstance(engine, OrtEngine):
            raise EngineFailed(f"a workspace of onnxruntime runs its own engines; got {type(engine).__name__}")
        with timed(stage, self._on_stage):
            return engine.run_bound(feeds, self._device)

    def fetch(self, tensors: Mapping[str, Tensor]) -> dict[str, Array]:
        """Bring tensors to the CPU; see `Workspace.fetch`."""
        return {name: t.value.numpy() if isinstance(t, _Bound) else np.asarray(t) for name, t in tensors.items()}

    def store(self, image: Tensor, out: Tensor) -> None:
        """Write the top left of an image; see `Workspace.store`."""
        _, height, width, _ = out.shape
        np.copyto(np.asarray(out), self.fetch({"image": image})["image"][:, :height, :width])


def _engine(graph: bytes, options: onnxruntime.SessionOptions, providers: list[Any]) -> OrtEngine:
    options.log_severity_level = 4  # errors arrive as exceptions; nothing may be printed beside them
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=False)
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
