"""The driver through cuda-bindings: calls that the real bindings take, and what is said where there is no GPU."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda.bindings import driver as real

import glc
from glc.engines import cuda
from glc.errors import EngineFailed, EngineUnavailable, OutOfDeviceMemory


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """The driver is looked for anew in each test, and by those that come after."""
    cuda.driver.cache_clear()
    yield
    cuda.driver.cache_clear()


def no_driver() -> bool:
    try:
        return bool(real.cuInit(0)[0].value)
    except Exception:
        return True


needs_no_driver = pytest.mark.skipif(not no_driver(), reason="this machine has an NVIDIA driver")


@needs_no_driver
@pytest.mark.parametrize("engine", ["tensorrt_rtx"])
def test_a_machine_without_a_driver_is_told_what_is_missing_and_what_else_there_is(engine: str) -> None:
    with pytest.raises(EngineUnavailable, match=r"no NVIDIA driver.*openvino"):
        glc.Codec.open(engine=engine)


def test_missing_bindings_name_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("cuda"):
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EngineUnavailable, match=r"need cuda-bindings; run: pip install 'glc-deploy\[gpu\]'"):
        cuda.driver()


@pytest.mark.parametrize("status", ["CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"])
def test_a_driver_that_cannot_be_used_is_quoted(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "cuInit", lambda flags: (getattr(real.CUresult, status),))
    with pytest.raises(EngineUnavailable, match=f"{status}; see what nvidia-smi says"):
        cuda.driver()


def failing(status: real.CUresult) -> Callable[..., tuple[Any, ...]]:
    def function(*arguments: Any) -> tuple[Any, ...]:
        return (status,)

    return function


def test_errors_of_the_driver_are_ours() -> None:
    stream = cuda.Stream(SimpleNamespace(cuStreamSynchronize=failing(real.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)), 7)
    with pytest.raises(EngineFailed, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        stream.synchronise()
    stream = cuda.Stream(SimpleNamespace(cuGraphLaunch=failing(real.CUresult.CUDA_ERROR_OUT_OF_MEMORY)), 7)
    with pytest.raises(OutOfDeviceMemory):
        stream.launch(cuda.Graph(SimpleNamespace(), 5))


@needs_no_driver
def test_the_real_bindings_take_the_arguments_that_they_are_given() -> None:
    """They convert arguments before they look for the driver, so that its absence is all that may be found wrong."""
    staging = cuda.Staging.__new__(cuda.Staging)
    staging.address, staging.array = 64, np.zeros(4, np.float32)
    event, stream = real.CUevent(5), cuda.Stream(real, real.CUstream(7))
    calls: list[Callable[[], object]] = [
        lambda: stream.upload(64, staging),
        lambda: stream.download(staging, 64),
        lambda: stream.copy(64, 128, 4),
        lambda: stream.copy_rows(64, 8, 128, 16, 8, 2),
        lambda: stream.launch(cuda.Graph(real, real.CUgraphExec(9))),
        lambda: stream.capture(lambda: None),
        lambda: stream.elapsed_ms(event, event),
        lambda: stream.forget(event),
        lambda: stream.wait_for(cuda.LEGACY_STREAM),
        stream.mark,
        stream.synchronise,
        stream.close,
        cuda.Graph(real, real.CUgraphExec(9)).close,
        lambda: real.cuEventRecord(event, cuda.LEGACY_STREAM),
        lambda: real.cuStreamWaitEvent(real.CUstream(7), event, 0),
        lambda: real.cuPointerGetAttribute(real.CUpointer_attribute.CU_POINTER_ATTRIBUTE_CONTEXT, 64),
        lambda: real.cuMemAlloc(64),
        lambda: real.cuMemFree(real.CUdeviceptr(64)),
        lambda: real.cuMemAllocHost(64),
        lambda: real.cuMemFreeHost(64),
        lambda: real.cuGraphInstantiate(real.CUgraph(9), 0),
        lambda: real.cuStreamCreate(int(real.CUstream_flags.CU_STREAM_NON_BLOCKING)),
        lambda: real.cuDevicePrimaryCtxRetain(real.CUdevice(0)),
        lambda: real.cuCtxPushCurrent(real.CUcontext(3)),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(RuntimeError, match="NVIDIA driver library") as caught:
            call()
        assert not isinstance(caught.value, TypeError), number
