"""A CUDA driver without a GPU: device memory is the process's own, and streams do their work as late as they may.

Work is done when a stream is synchronised, or when another waits for an event in it: whoever forgets to wait reads old
bytes here too. Calls need the primary context to be current, and freed memory must not be touched.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from cuda.bindings import driver as real

OK = real.CUresult.CUDA_SUCCESS
CONTEXT = 4711

Op = Callable[[], None]


class FakeDriver:
    """What `glc.engines.cuda` calls of `cuda.bindings.driver`, by the same names and types."""

    CUresult = real.CUresult
    CUdevice_attribute = real.CUdevice_attribute
    CUpointer_attribute = real.CUpointer_attribute
    CUstream_flags = real.CUstream_flags
    CUevent_flags = real.CUevent_flags
    CUmemorytype = real.CUmemorytype
    CUstreamCaptureMode = real.CUstreamCaptureMode
    CUDA_MEMCPY2D = real.CUDA_MEMCPY2D

    def __init__(self, *, total_bytes: int = 1 << 32, capability: tuple[int, int] = (8, 0)) -> None:
        self.total_bytes = total_bytes
        self.capability = capability
        self.blocks: dict[int, Any] = {}
        """Address -> block, on the device."""
        self.host_blocks: dict[int, Any] = {}
        self.foreign: set[int] = set()
        """Addresses that belong to another context."""
        self.calls: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        """Direction -> bytes that were copied."""
        self.queues: dict[int, list[Op]] = {1: []}
        self.capturing: dict[int, list[Op]] = {}
        self.graphs: dict[int, list[Op]] = {}
        self.events: dict[int, float | None] = {}
        self._current = threading.local()
        self._lock = threading.RLock()
        self._next = 1 << 20

    # The device and its context

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:  # noqa: N802 - the driver's names, here and below
        return OK, ordinal

    def cuDeviceGetName(self, length: int, device: int) -> tuple[Any, ...]:  # noqa: N802
        return OK, b"Fake A100".ljust(length, b"\0")

    def cuDeviceGetAttribute(self, attribute: Any, device: int) -> tuple[Any, ...]:  # noqa: N802
        major = attribute == real.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        return OK, self.capability[0 if major else 1]

    def cuDriverGetVersion(self) -> tuple[Any, ...]:  # noqa: N802
        return OK, 13000

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any, ...]:  # noqa: N802
        return OK, CONTEXT

    def cuCtxPushCurrent(self, context: int) -> tuple[Any, ...]:  # noqa: N802
        self._current.stack = [*getattr(self._current, "stack", []), context]
        return (OK,)

    def cuCtxPopCurrent(self) -> tuple[Any, ...]:  # noqa: N802
        return OK, self._current.stack.pop()

    def cuPointerGetAttribute(self, attribute: Any, address: int) -> tuple[Any, ...]:  # noqa: N802
        return OK, CONTEXT + 1 if address in self.foreign else CONTEXT

    # Memory

    def cuMemAlloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        self._require_context()
        self.calls["cuMemAlloc"] += 1
        with self._lock:
            if self.device_bytes + size > self.total_bytes:
                return real.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None
            block = ctypes.create_string_buffer(size)
            self.blocks[ctypes.addressof(block)] = block
        return OK, real.CUdeviceptr(ctypes.addressof(block))

    def cuMemFree(self, pointer: Any) -> tuple[Any, ...]:  # noqa: N802
        del self.blocks[int(pointer)]
        return (OK,)

    def cuMemGetInfo(self) -> tuple[Any, ...]:  # noqa: N802
        return OK, self.total_bytes - self.device_bytes, self.total_bytes

    def cuMemAllocHost(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        self._require_context()
        self.calls["cuMemAllocHost"] += 1
        block = ctypes.create_string_buffer(size)
        self.host_blocks[ctypes.addressof(block)] = block
        return OK, ctypes.addressof(block)

    def cuMemFreeHost(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        del self.host_blocks[address]
        return (OK,)

    @property
    def device_bytes(self) -> int:
        """Device memory in use."""
        return sum(len(block) for block in self.blocks.values())

    # Streams, graphs, events

    def cuStreamCreate(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        self._require_context()
        assert flags == int(real.CUstream_flags.CU_STREAM_NON_BLOCKING)
        handle = self._handle()
        self.queues[handle] = []
        return OK, handle

    def cuStreamDestroy(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self._drain(stream)
        del self.queues[stream]
        return (OK,)

    def cuStreamSynchronize(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self._require_context()
        assert stream not in self.capturing, "a stream was synchronised while it was recorded"
        self.calls["cuStreamSynchronize"] += 1
        self._drain(stream)
        return (OK,)

    def cuMemcpyHtoDAsync(self, target: int, source: int, size: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._copy("to device", target, source, size, stream)

    def cuMemcpyDtoHAsync(self, target: int, source: int, size: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._copy("to host", target, source, size, stream)

    def cuMemcpyDtoDAsync(self, target: int, source: int, size: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._copy("on device", target, source, size, stream)

    def cuMemcpy2DAsync(self, task: Any, stream: int) -> tuple[Any, ...]:  # noqa: N802
        for row in range(task.Height):
            target, source = int(task.dstDevice) + row * task.dstPitch, int(task.srcDevice) + row * task.srcPitch
            self._copy("on device", target, source, task.WidthInBytes, stream)
        return (OK,)

    def cuStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any, ...]:  # noqa: N802
        assert mode == real.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.capturing[stream] = []
        return (OK,)

    def cuStreamEndCapture(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        handle = self._handle()
        self.graphs[handle] = self.capturing.pop(stream)
        return OK, handle

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        handle = self._handle()
        self.graphs[handle] = self.graphs[graph]
        return OK, handle

    def cuGraphDestroy(self, graph: int) -> tuple[Any, ...]:  # noqa: N802
        del self.graphs[graph]
        return (OK,)

    def cuGraphExecDestroy(self, graph: int) -> tuple[Any, ...]:  # noqa: N802
        del self.graphs[graph]
        return (OK,)

    def cuGraphLaunch(self, graph: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self.calls["cuGraphLaunch"] += 1
        self.give(stream, *self.graphs[graph])
        return (OK,)

    def cuEventCreate(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        handle = self._handle()
        self.events[handle] = None
        return OK, handle

    def cuEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        events = self.events
        self.give(stream, lambda: events.update({event: time.perf_counter()}))
        return (OK,)

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        def wait() -> None:
            for other in list(self.queues):
                if other != stream:
                    self._drain(other)

        self.give(stream, wait)
        return (OK,)

    def cuEventElapsedTime(self, start: int, end: int) -> tuple[Any, ...]:  # noqa: N802
        first, last = self.events[start], self.events[end]
        if first is None or last is None:
            return real.CUresult.CUDA_ERROR_NOT_READY, 0.0
        return OK, 1e3 * (last - first)

    def cuEventDestroy(self, event: int) -> tuple[Any, ...]:  # noqa: N802
        # The device frees an event once it has passed it.
        return (OK,)

    def give(self, stream: int, *operations: Op) -> None:
        """Queue or record work."""
        self._require_context()
        self.capturing.get(stream, self.queues[stream]).extend(operations)

    def holds(self, address: int, size: int) -> bool:
        """Whether bytes lie in a block that was not freed."""
        blocks: Iterable[tuple[int, Any]] = (*self.blocks.items(), *self.host_blocks.items())
        return any(start <= address and address + size <= start + len(block) for start, block in blocks)

    def _copy(self, direction: str, target: int, source: int, size: int, stream: int) -> tuple[Any, ...]:
        def copy() -> None:
            if direction != "on device":  # there, one of the two may be a caller's own
                assert self.holds(target, size), f"{direction}: copied into freed memory"
                assert self.holds(source, size), f"{direction}: copied from freed memory"
            self.moved[direction] += size
            ctypes.memmove(int(target), int(source), size)

        self.give(stream, copy)
        return (OK,)

    def _drain(self, stream: int) -> None:
        with self._lock:
            queue = self.queues[stream]
            while queue:
                queue.pop(0)()

    def _require_context(self) -> None:
        stack = getattr(self._current, "stack", [])
        assert stack, "no context is current"
        assert stack[-1] == CONTEXT, "another context is current"

    def _handle(self) -> int:
        with self._lock:
            self._next += 1
            return self._next
