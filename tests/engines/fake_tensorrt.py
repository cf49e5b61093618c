"""TensorRT without a GPU: an "engine" is an ONNX graph, run by ONNX Runtime on the memory of `fake_cuda`."""

from __future__ import annotations

import ctypes
import enum
from typing import Any

import numpy as np
import onnxruntime
from tests.engines.fake_cuda import FakeDriver

VERSION = "10.99.1"

_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int32)": "int32"}


class FakeTensorRT:
    """What `glc.engines.trt` uses of the module `tensorrt`."""

    __version__ = VERSION

    class ILogger:
        class Severity(enum.Enum):
            INTERNAL_ERROR = 0
            ERROR = 1
            WARNING = 2

    class TensorIOMode(enum.Enum):
        INPUT = 0
        OUTPUT = 1

    class ExecutionContextAllocationStrategy(enum.Enum):
        STATIC = 0
        USER_MANAGED = 2

    def __init__(self, driver: FakeDriver, *, largest: int = 1 << 20, start_error: str | None = None) -> None:
        self.driver = driver
        self.largest = largest
        """Largest size along a free axis that an engine takes."""
        self.start_error = start_error
        self.capturable = True
        self.contexts = 0

    def Runtime(self, logger: Any) -> FakeRuntime | None:  # noqa: N802 - TensorRT's name
        if self.start_error is not None:
            logger.log(self.ILogger.Severity.ERROR, self.start_error)
            return None
        return FakeRuntime(self, logger)

    @staticmethod
    def nptype(dtype: str) -> type:
        return np.dtype(dtype).type


class FakeRuntime:
    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, data: bytes) -> FakeEngine | None:
        try:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 4
            return FakeEngine(self._trt, onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"]))
        except Exception as error:
            self._logger.log(FakeTensorRT.ILogger.Severity.ERROR, f"deserialize failed:\n{type(error).__name__}")
            return None


class FakeEngine:
    def __init__(self, trt: FakeTensorRT, session: onnxruntime.InferenceSession) -> None:
        self.trt, self.session = trt, session
        self.values = {value.name: value for value in (*session.get_inputs(), *session.get_outputs())}
        self.inputs = [value.name for value in session.get_inputs()]
        self.num_io_tensors = len(self.values)

    def get_tensor_name(self, number: int) -> str:
        names: list[str] = list(self.values)
        return names[number]

    def get_tensor_mode(self, name: str) -> FakeTensorRT.TensorIOMode:
        return FakeTensorRT.TensorIOMode.INPUT if name in self.inputs else FakeTensorRT.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return _DTYPES[str(self.values[name].type)]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.values[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        return [tuple(x if s < 0 else s for s in self.get_tensor_shape(name)) for x in (1, 1, self.trt.largest)]

    def create_execution_context(self, strategy: object) -> FakeContext:
        assert strategy is FakeTensorRT.ExecutionContextAllocationStrategy.USER_MANAGED
        self.trt.contexts += 1
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch: tuple[int, int] | None = None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        declared = self._engine.get_tensor_shape(name)
        return all(s == d or (d < 0 and s <= self._engine.trt.largest) for s, d in zip(shape, declared, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            found = self._engine.session.run(
                None, {n: np.zeros(self._shapes[n], self._dtype(n)) for n in self._engine.inputs}
            )
            self._shapes |= {
                value.name: array.shape for value, array in zip(self._engine.session.get_outputs(), found, strict=True)
            }
        return self._shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return sum(self._size(name) for name in self._engine.inputs)

    def set_device_memory(self, address: int, size: int) -> None:
        self._scratch = address, size

    def is_stream_capturable(self, stream: int) -> bool:
        return self._engine.trt.capturable

    def execute_async_v3(self, stream: int) -> bool:
        driver = self._engine.trt.driver

        def run() -> None:
            assert self._scratch is not None, "a context without memory was run"
            assert self._scratch[1] >= self.update_device_memory_size_for_shapes()
            assert driver.holds(*self._scratch), "scratch memory was freed"
            feeds = {}
            for name in self._engine.inputs:
                assert driver.holds(self._addresses[name], self._size(name)), f"{name} lies in freed memory"
                data = ctypes.string_at(self._addresses[name], self._size(name))
                feeds[name] = np.frombuffer(data, self._dtype(name)).reshape(self._shapes[name])
            results = self._engine.session.run(None, feeds)
            for value, array in zip(self._engine.session.get_outputs(), results, strict=True):
                assert driver.holds(self._addresses[value.name], array.nbytes), f"{value.name} lies in freed memory"
                ctypes.memmove(self._addresses[value.name], np.ascontiguousarray(array).ctypes.data, array.nbytes)

        driver.give(stream, run)
        return True

    def _dtype(self, name: str) -> str:
        return self._engine.get_tensor_dtype(name)

    def _size(self, name: str) -> int:
        return int(np.prod(self.get_tensor_shape(name))) * np.dtype(self._dtype(name)).itemsize
