"""The CUDA driver through NVIDIA's cuda-bindings: memory, streams, graphs, events. The only module that imports it.

Everything happens in the device's primary context, which torch, CuPy, JAX and PyCUDA (`pycuda.autoprimaryctx`) share,
so that their arrays can be read and written where they lie (docs/decisions/0006).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glc.errors import EngineFailed, EngineUnavailable, OutOfDeviceMemory

LEGACY_STREAM = 1
"""The default stream of programs that name none."""

INSTALL = "pip install 'glc-deploy[gpu]'"


@functools.cache
def driver() -> Any:
    """The bindings, with the driver initialised.

    Raises:
        EngineUnavailable: no bindings, no driver, or no GPU; the message says which, and what mends it.
    """
    try:
        from cuda.bindings import driver as bindings
    except ImportError as error:
        raise EngineUnavailable(f"engines on a GPU need cuda-bindings; run: {INSTALL}") from error
    try:
        (status,) = bindings.cuInit(0)
    except RuntimeError as error:  # libcuda is not there
        raise EngineUnavailable(
            "this machine has no NVIDIA driver, which engines on a GPU need; install the driver, or choose engine "
            "onnxruntime or openvino"
        ) from error
    if status != bindings.CUresult.CUDA_SUCCESS:
        raise EngineUnavailable(
            f"the NVIDIA driver cannot be used: {status.name}; see what nvidia-smi says, or choose engine onnxruntime "
            "or openvino"
        )
    return bindings


def device_capability() -> str:
    """Compute capability of the GPU at hand, such as `sm80`.

    Raises:
        EngineUnavailable: there is none.
    """
    return Device().capability


def _call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Call the driver; give its result, or several as a tuple.

    Raises:
        OutOfDeviceMemory: the device has no room.
        EngineFailed: any other error.
    """
    status, *results = function(*arguments)
    if status.value:
        kind = OutOfDeviceMemory if status.name == "CUDA_ERROR_OUT_OF_MEMORY" else EngineFailed
        raise kind(f"{function.__name__}: {status.name}")
    return results[0] if len(results) == 1 else tuple(results)


class Device:
    """The first GPU that is visible (CUDA_VISIBLE_DEVICES chooses), by its primary context."""

    def __init__(self) -> None:
        self._cu = driver()
        try:
            self._handle = _call(self._cu.cuDeviceGet, 0)
        except EngineFailed as error:
            raise EngineUnavailable(f"no GPU is visible to this process: {error}; see CUDA_VISIBLE_DEVICES") from error
        attribute = self._cu.CUdevice_attribute
        major, minor = (
            _call(self._cu.cuDeviceGetAttribute, which, self._handle)
            for which in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.capability = f"sm{major}{minor}"
        """Such as `sm80`."""
        name: bytes = _call(self._cu.cuDeviceGetName, 128, self._handle)
        self.name = name.partition(b"\0")[0].decode(errors="replace")
        version: int = _call(self._cu.cuDriverGetVersion)
        self.cuda = f"{version // 1000}.{version % 1000 // 10}"
        """Newest CUDA that the driver supports."""
        self._context = _call(self._cu.cuDevicePrimaryCtxRetain, self._handle)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the primary context this thread's, and give back what it had."""
        _call(self._cu.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            _call(self._cu.cuCtxPopCurrent)

    def owns(self, address: int) -> bool:
        """Whether memory can be reached from here: not that of another GPU, or of another context on this one."""
        which = self._cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_CONTEXT
        try:
            return int(_call(self._cu.cuPointerGetAttribute, which, address)) == int(self._context)
        except EngineFailed:
            return False

    def memory(self, size_bytes: int) -> Memory:
        """Take device memory.

        Raises:
            OutOfDeviceMemory: says how much was asked for and how much there is.
        """
        try:
            return Memory(_call(self._cu.cuMemAlloc, max(size_bytes, 1)), size_bytes)
        except OutOfDeviceMemory as error:
            free, total = _call(self._cu.cuMemGetInfo)
            raise OutOfDeviceMemory(
                f"{self.name} has {free >> 20} of {total >> 20} MiB free, and {size_bytes >> 20} MiB more are needed: "
                "encode fewer images at once, or smaller ones, or free the device for this process"
            ) from error

    def staging(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Staging:
        """Take page-locked memory of the CPU, which copies need in order to overlap with work."""
        size_bytes = int(np.prod(shape)) * dtype.itemsize
        return Staging(_call(self._cu.cuMemAllocHost, max(size_bytes, 1)), shape, dtype)

    def stream(self) -> Stream:
        """Make a stream that waits for no other."""
        return Stream(self._cu, _call(self._cu.cuStreamCreate, int(self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING)))


class Memory:
    """A block of device memory."""

    def __init__(self, pointer: Any, size_bytes: int) -> None:
        self._pointer = pointer
        self.address = int(pointer)
        self.size_bytes = size_bytes

    def free(self) -> None:
        """Give it back."""
        _call(driver().cuMemFree, self._pointer)


class Staging:
    """A block of page-locked memory, as an array."""

    def __init__(self, address: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._address = address
        self.address = int(address)
        size_bytes = int(np.prod(shape)) * dtype.itemsize
        block = memoryview((ctypes.c_uint8 * size_bytes).from_address(self.address)).cast("B")
        self.array: NDArray[Any] = np.frombuffer(block, dtype).reshape(shape)

    def free(self) -> None:
        """Give it back; the array must not be used again."""
        _call(driver().cuMemFreeHost, self._address)


class Stream:
    """A queue of work on the device."""

    def __init__(self, cu: Any, handle: Any) -> None:
        self._cu = cu
        self._handle = handle
        self.handle = int(handle)

    def upload(self, address: int, source: Staging) -> None:
        """Copy staged data to the device."""
        _call(self._cu.cuMemcpyHtoDAsync, address, source.address, source.array.nbytes, self._handle)

    def download(self, target: Staging, address: int) -> None:
        """Copy from the device to where it is staged."""
        _call(self._cu.cuMemcpyDtoHAsync, target.address, address, target.array.nbytes, self._handle)

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """Copy within the device."""
        _call(self._cu.cuMemcpyDtoDAsync, target, source, size_bytes, self._handle)

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        """Copy the first `width` bytes of some rows within the device; a pitch is the bytes from row to row."""
        task = self._cu.CUDA_MEMCPY2D()
        task.srcMemoryType = task.dstMemoryType = self._cu.CUmemorytype.CU_MEMORYTYPE_DEVICE
        task.srcDevice, task.dstDevice = source, target
        task.srcPitch, task.dstPitch = source_pitch, target_pitch
        task.WidthInBytes, task.Height = width, rows
        _call(self._cu.cuMemcpy2DAsync, task, self._handle)

    def wait_for(self, other: int) -> None:
        """Let what comes wait for all that another stream was given so far, `LEGACY_STREAM` for one."""
        event = _call(self._cu.cuEventCreate, int(self._cu.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        _call(self._cu.cuEventRecord, event, other)
        _call(self._cu.cuStreamWaitEvent, self._handle, event, 0)
        _call(self._cu.cuEventDestroy, event)

    def mark(self) -> Any:
        """Note the time at which the device gets here; an event for `elapsed_ms`."""
        event = _call(self._cu.cuEventCreate, int(self._cu.CUevent_flags.CU_EVENT_DEFAULT))
        _call(self._cu.cuEventRecord, event, self._handle)
        return event

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two marks that the device has passed."""
        return float(_call(self._cu.cuEventElapsedTime, start, end))

    def forget(self, event: Any) -> None:
        """Free a mark."""
        _call(self._cu.cuEventDestroy, event)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what `work` gives this stream, instead of doing it."""
        mode = self._cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _call(self._cu.cuStreamBeginCapture, self._handle, mode)
        try:
            work()
        finally:
            recorded = _call(self._cu.cuStreamEndCapture, self._handle)
        ready = _call(self._cu.cuGraphInstantiate, recorded, 0)
        _call(self._cu.cuGraphDestroy, recorded)
        return Graph(self._cu, ready)

    def launch(self, graph: Graph) -> None:
        """Do what was recorded."""
        _call(self._cu.cuGraphLaunch, graph.handle, self._handle)

    def synchronise(self) -> None:
        """Wait until all is done."""
        _call(self._cu.cuStreamSynchronize, self._handle)

    def close(self) -> None:
        """Free it."""
        _call(self._cu.cuStreamDestroy, self._handle)


class Graph:
    """Work that was recorded once and can be launched often, at the cost of one launch."""

    def __init__(self, cu: Any, handle: Any) -> None:
        self._cu = cu
        self.handle = handle

    def close(self) -> None:
        """Free it."""
        _call(self._cu.cuGraphExecDestroy, self.handle)
