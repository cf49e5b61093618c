"""TensorRT on an NVIDIA GPU: engines that `glc-export --target` compiled, run without leaving the device.

loader --load--> engines, shared by threads
loader --workspace--> lane (trt_lane.py): one stream, its execution contexts and buffers; one of a pool
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from glc.engines import trt_sdk
from glc.engines.cuda import Device
from glc.engines.device_arrays import DeviceTensor, from_foreign
from glc.engines.host_arrays import host_array
from glc.engines.protocol import Array, Engine, StageListener, TargetKey, Tensor, TensorSpec, Workspace
from glc.engines.trt_lane import Lane
from glc.errors import BitstreamError, EngineFailed, EngineRejectedGraph, EngineUnavailable


class TrtLoader:
    """TensorRT or TensorRT for RTX on the first visible GPU."""

    name = "tensorrt"
    on_device = True

    def __init__(self, library: str, precision: str | None = None) -> None:
        """Prepare the device.

        Args:
            library: one of `trt_sdk.LIBRARIES`.
            precision: of the image graphs, "f16" by default or "f32"; the bundle must hold engines of it.

        Raises:
            EngineUnavailable: the library, a driver or a GPU is not there, or the driver is too old.
        """
        self._trt: ModuleType = trt_sdk.library(library)
        self.device = Device()
        self.target: TargetKey | None = TargetKey(
            library, trt_sdk.version(library), self.device.capability, precision or "f16"
        )
        self._messages = trt_sdk.Messages(self._trt)
        with self.device.active():
            self._runtime = self._trt.Runtime(self._messages.logger)
        if self._runtime is None or self._messages.errors:
            raise EngineUnavailable(
                f"{library} cannot start on {self.device.name}, whose driver supports CUDA {self.device.cuda}: "
                f"{self._messages.said()}; if the driver is too old, update it"
            )
        self._idle: list[Lane] = []
        self._pool = threading.Lock()
        """Held while `_idle` changes."""
        self.lock = threading.Lock()
        """Held while the library's own objects change, which may take seconds."""

    @property
    def fingerprint(self) -> str:
        """All that its float results may depend on."""
        return f"{self.target}, {self.device.name}"

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """Load a compiled engine; see `EngineLoader.load`."""
        with self.lock, self.device.active():
            self._messages.errors.clear()
            engine = self._runtime.deserialize_cuda_engine(graph)
            if engine is None:
                raise EngineRejectedGraph(f"{self.target} cannot load its engine: {self._messages.said()}")
        return TrtEngine(self, self._trt, engine, exact=exact)

    @contextlib.contextmanager
    def workspace(self, on_stage: StageListener | None) -> Iterator[Workspace]:
        """Take a lane out of the pool, or make one; see `EngineLoader.workspace`."""
        with self.device.active():
            with self._pool:
                lane = self._idle.pop() if self._idle else None
            lane = lane or Lane(self.device)
            whole = False
            try:
                lane.enter(on_stage)
                yield lane
                whole = True
            except BitstreamError:  # hostile streams cost a service neither buffers nor recordings
                whole = True
                raise
            finally:
                if whole:
                    lane.leave()
                    with self._pool:
                        self._idle.append(lane)
                else:
                    lane.close()  # whatever it was in the middle of

    def adopt(self, value: object, name: str) -> Tensor:
        """Take memory of the CPU or of this device; see `EngineLoader.adopt`."""
        lent = host_array(value, name)
        if lent is not None:
            return lent[None]
        found = from_foreign(value, name)
        if not self.device.owns(found.address):
            raise TypeError(
                f"{name} is not in the primary context of {self.device.name}; with PyCUDA, import "
                "pycuda.autoprimaryctx in place of pycuda.autoinit"
            )
        return DeviceTensor(found.address, (1, *found.shape), found.dtype, found.after, found.owner)

    def release(self) -> None:
        """Free all lanes that are not in use."""
        with self._pool, self.device.active():
            while self._idle:
                self._idle.pop().close()


class TrtEngine:
    """One compiled graph."""

    def __init__(self, loader: TrtLoader, trt: ModuleType, engine: Any, *, exact: bool) -> None:
        self._loader, self._trt, self._engine, self._exact = loader, trt, engine, exact
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        specs = [(engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT, self._spec(name)) for name in names]
        self.inputs = tuple(spec for is_input, spec in specs if is_input)
        self.outputs = tuple(spec for is_input, spec in specs if not is_input)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs; see `Engine.run`."""
        with self._loader.workspace(None) as workspace:
            return workspace.fetch(workspace.run("", self, feeds))

    def context(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """An execution context for input shapes, without memory yet.

        Raises:
            EngineFailed: closed, or a shape is outside of what was compiled.
        """
        if self._engine is None:
            raise EngineFailed("this engine is closed; open the codec again")
        with self._loader.lock:
            context = self._new_context()
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                smallest, _, largest = map(list, self._engine.get_tensor_profile_shape(name, 0))
                raise EngineFailed(
                    f"{name} {list(shape)} is outside of what was compiled, {smallest} to {largest}: compile with "
                    "glc-export --largest, or take an engine on the CPU for this image"
                )
        return context

    def close(self) -> None:
        """Free the engine, and the lanes' contexts that hold on to it."""
        self._engine = None
        self._loader.release()

    def _new_context(self) -> Any:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(self._engine, "create_runtime_config"):
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
                # For exact graphs the kernels that conformance ran, for the others the fastest, before the recording.
                kernels = self._trt.DynamicShapesKernelSpecializationStrategy
                config.dynamic_shapes_kernel_specialization_strategy = kernels.NONE if self._exact else kernels.EAGER
            return self._engine.create_execution_context(config)
        return self._engine.create_execution_context(strategy)

    def _spec(self, name: str) -> TensorSpec:
        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))).name
        shape = tuple(None if size < 0 else int(size) for size in self._engine.get_tensor_shape(name))
        return TensorSpec(name, dtype, shape)
