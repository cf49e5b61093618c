"""The TensorRT engine over a device that is faked below the driver and the SDK: all that is ours runs as on a GPU."""

from __future__ import annotations

import ctypes
import functools
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engines.fake_cuda import FakeDriver
from tests.engines.fake_tensorrt import VERSION, FakeTensorRT

import glc
from glc.engines import cuda, trt, trt_lane, trt_sdk
from glc.engines.trt_builder import BuiltEngine
from glc.errors import (
    BitstreamError,
    EngineFailed,
    EngineRejectedGraph,
    EngineUnavailable,
    OutOfDeviceMemory,
    TargetMissing,
)
from glc.export import targets
from glc.export.targets import compile_target

Image = NDArray[np.uint8]


def picture(height: int, width: int, seed: int = 0) -> Image:
    """A smooth picture, of which the coder has something to code."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (5 + c) + seed) + np.cos(columns / (7 + c)) for c in range(3)]
    return np.asarray(127 + 60 * np.stack(waves, -1), np.uint8)


IMAGE = picture(70, 100)


@pytest.fixture(scope="module")
def compiled(mini_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini bundle with its ONNX graphs in place of engines: what the fake SDK runs."""
    path = tmp_path_factory.mktemp("compiled") / "mini.glcb"
    shutil.copytree(mini_bundle, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "builder_for", lambda target, library: "tensorrt")
        patch.setattr(trt_sdk, "version", lambda name: VERSION)
        patch.setattr(
            targets, "build_engine", lambda name, target, graph, profiles, tf32: BuiltEngine(graph, 1, 1, 1, 0.0)
        )
        compile_target(glc.Bundle.open(path), "sm80", precision="f32")
    return path


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setattr(cuda, "driver", lambda: fake)
    return fake


@pytest.fixture
def sdk(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    fake = FakeTensorRT(driver)
    monkeypatch.setattr(trt_sdk, "library", lambda name: fake)
    return fake


@pytest.fixture
def gpu(compiled: Path, sdk: FakeTensorRT) -> Iterator[glc.Codec]:
    with glc.Codec.open(compiled, engine="tensorrt", precision="f32") as opened:
        yield opened


def test_streams_are_those_of_the_cpu_and_decode_to_the_same_image(gpu: glc.Codec, codec: glc.Codec) -> None:
    for quality in (0, 1.5, 3):
        data = gpu.encode(IMAGE, quality)
        assert data == codec.encode(IMAGE, quality)
        assert (gpu.decode(data) == codec.decode(data)).all()
        assert (gpu.preview(data) == codec.preview(data)).all()
        assert (gpu.decode_latent(data) == codec.decode_latent(data)).all()
        assert (gpu.decode(data[:-20], allow_partial=True) == codec.decode(data[:-20], allow_partial=True)).all()


def moved(driver: FakeDriver, work: Callable[[], object]) -> Counter[str]:
    before = driver.moved.copy()
    work()
    return driver.moved - before


def test_only_symbols_scale_indices_and_the_image_cross_to_the_cpu(gpu: glc.Codec, driver: FakeDriver) -> None:
    data = gpu.encode(IMAGE)
    gpu.decode(data)
    cells = 2 * 2  # of 64x64 pixels, for 70x100
    elements, row = cells * 16 * 32, 4 * 32
    encoding = moved(driver, lambda: gpu.encode(IMAGE))
    assert encoding == {"to device": IMAGE.nbytes + row, "to host": 4 * cells + (4 + 1) * elements}
    decoding = moved(driver, lambda: gpu.decode(data))
    assert decoding == {"to device": 4 * cells + 4 * elements + row, "to host": elements + cells * 64 * 64 * 3}


def test_a_shape_that_comes_again_takes_no_memory_and_one_launch(gpu: glc.Codec, driver: FakeDriver) -> None:
    stream = gpu.encode(IMAGE)
    gpu.decode(stream)
    held = driver.device_bytes, len(driver.host_blocks)
    gpu.encode(IMAGE)  # recorded here
    gpu.decode(stream)
    for _ in range(3):
        before = driver.calls.copy()
        gpu.encode(IMAGE)
        assert driver.calls - before == {"cuGraphLaunch": 1, "cuStreamSynchronize": 1}
        before = driver.calls.copy()
        gpu.decode(stream)
        assert driver.calls - before == {"cuGraphLaunch": 5, "cuStreamSynchronize": 5}
    assert (driver.device_bytes, len(driver.host_blocks)) == held


def test_recordings_hold_the_new_image_not_the_recorded_one(gpu: glc.Codec, codec: glc.Codec) -> None:
    for seed in range(5):
        image = picture(70, 100, seed)
        assert gpu.encode(image) == codec.encode(image)


def test_an_engine_that_cannot_be_recorded_runs_step_by_step(
    gpu: glc.Codec, sdk: FakeTensorRT, driver: FakeDriver, codec: glc.Codec
) -> None:
    sdk.capturable = False
    assert [gpu.encode(IMAGE) for _ in range(3)] == [codec.encode(IMAGE)] * 3
    assert not driver.calls["cuGraphLaunch"]


def test_memory_of_shapes_long_gone_is_freed(
    gpu: glc.Codec, driver: FakeDriver, codec: glc.Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt_lane, "KEPT_SHAPES", 2)
    most = 0
    for side in range(40, 140, 10):
        image = picture(side, 64 + side)
        assert gpu.encode(image) == codec.encode(image)
        most = max(most, driver.device_bytes)
    for side in range(40, 140, 10):
        gpu.encode(picture(side, 64 + side))
    assert driver.device_bytes <= most


def test_scratch_memory_grows_under_recordings(gpu: glc.Codec, codec: glc.Codec) -> None:
    small, large = picture(64, 64), picture(200, 200)
    for image in (small, small, small, large, large, small, large):
        assert gpu.encode(image) == codec.encode(image)


def test_threads_share_a_codec_with_a_lane_each(gpu: glc.Codec, codec: glc.Codec, driver: FakeDriver) -> None:
    images = [picture(60 + 5 * n, 90, n) for n in range(4)]
    expected = [codec.encode(image) for image in images]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(4):
            data = gpu.encode(images[number])
            if data != expected[number] or (gpu.decode(data) != codec.decode(data)).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    streams = len(driver.queues) - 1
    assert streams <= 5  # one more may run conformance


def test_a_hostile_stream_costs_no_recording(gpu: glc.Codec, driver: FakeDriver) -> None:
    data = gpu.encode(IMAGE)
    for _ in range(3):
        gpu.decode(data)
    with pytest.raises(BitstreamError):
        gpu.decode(data[:-20])
    before = driver.calls.copy()
    gpu.decode(data)
    assert driver.calls - before == {"cuGraphLaunch": 5, "cuStreamSynchronize": 5}


def test_closing_frees_all_memory(compiled: Path, sdk: FakeTensorRT, driver: FakeDriver) -> None:
    with glc.Codec.open(compiled, engine="tensorrt", precision="f32") as opened:
        opened.decode(opened.encode(IMAGE))
        opened.decode(opened.encode(IMAGE))
        assert driver.device_bytes
    assert (driver.device_bytes, driver.host_blocks, list(driver.queues), driver.graphs) == (0, {}, [1], {})
    with pytest.raises(EngineFailed, match="closed"):
        opened.encode(IMAGE)


def test_too_little_memory_says_how_much_there_is_and_the_codec_lives_on(
    gpu: glc.Codec, driver: FakeDriver, codec: glc.Codec
) -> None:
    small = codec.encode(picture(64, 64))
    assert gpu.encode(picture(64, 64)) == small
    driver.total_bytes = driver.device_bytes + (1 << 20)
    with pytest.raises(OutOfDeviceMemory, match=r"Fake A100 has \d+ of \d+ MiB free"):
        gpu.encode(picture(640, 640))
    assert gpu.encode(picture(64, 64)) == small


def test_an_image_beyond_what_was_compiled_names_the_option(compiled: Path, sdk: FakeTensorRT) -> None:
    sdk.largest = 80
    with (
        glc.Codec.open(compiled, engine="tensorrt", precision="f32") as opened,
        pytest.raises(EngineFailed, match=r"graph analysis: image \[1, 70, 100, 3\] is outside .* --largest"),
    ):
        opened.encode(IMAGE)


def test_stages_are_timed_by_the_device(compiled: Path, sdk: FakeTensorRT) -> None:
    times: dict[str, float] = {}
    with glc.Codec.open(compiled, engine="tensorrt", precision="f32", on_stage=times.__setitem__) as opened:
        opened.decode(opened.encode(IMAGE))
    steps = {"split", "quantise", "dequantise", *(f"assemble_{part}" for part in range(4))}
    networks = {"analysis", "hyper_prior", "synthesis", *(f"spatial_prior_{part}" for part in (1, 2, 3))}
    assert times.keys() >= steps | networks | {"entropy_coding"}
    assert all(duration >= 0 for duration in times.values())


# Frames that a service holds on the device


class OnDevice:
    """An array on the fake device as CuPy or PyCUDA would hold it, with work on a stream still to come."""

    def __init__(self, driver: FakeDriver, array: Image) -> None:
        self.block = ctypes.create_string_buffer(array.nbytes)
        self.address = ctypes.addressof(self.block)
        driver.blocks[self.address] = self.block
        data = array.tobytes()

        def arrive() -> None:
            ctypes.memmove(self.address, data, len(data))

        driver.queues[1].append(arrive)
        self.shape = array.shape

    def array(self) -> Image:
        return np.frombuffer(self.block.raw, np.uint8).reshape(self.shape)


class WithInterface(OnDevice):
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": "|u1", "data": (self.address, False), "version": 3, "stream": 1}


class WithOldInterface(OnDevice):
    """As PyCUDA's arrays: no stream is named, work may still be under way on the default one."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": "|u1", "data": (self.address, False), "version": 2}


class WithDlpack(OnDevice):
    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int | None = None) -> object:
        assert stream == cuda.LEGACY_STREAM
        view = memoryview((ctypes.c_uint8 * len(self.block)).from_address(self.address)).cast("B")
        return np.frombuffer(view, np.uint8).reshape(self.shape).__dlpack__()


@pytest.mark.parametrize("kind", [WithInterface, WithOldInterface, WithDlpack])
def test_frames_on_the_device_are_read_and_written_there(
    kind: type[OnDevice], gpu: glc.Codec, codec: glc.Codec, driver: FakeDriver
) -> None:
    gpu.warm_up()
    for seed in range(3):
        image = picture(70, 100, seed)
        frame: Any = kind(driver, image)
        arrived = moved(driver, functools.partial(gpu.encode, frame))
        assert arrived["to device"] == 4 * 32, "the row of q_enc alone comes from the CPU"
        data = gpu.encode(frame)
        assert data == codec.encode(image)
        out: Any = kind(driver, np.zeros_like(image))
        left = moved(driver, functools.partial(gpu.decode, data, out=out))
        assert left["to host"] == 2 * 2 * 16 * 32, "the scale indices alone go to the CPU"
        assert (out.array() == codec.decode(data)).all()


def test_foreign_memory_is_refused_with_a_reason(gpu: glc.Codec, driver: FakeDriver) -> None:
    frame: Any = WithInterface(driver, IMAGE)
    driver.foreign.add(frame.address)
    with pytest.raises(TypeError, match=r"pycuda\.autoprimaryctx"):
        gpu.encode(frame)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (400, 3, 1)}, "not contiguous"),
        ({"typestr": "<f4"}, "must be of uint8"),
        ({"mask": object()}, "masked"),
        ({"shape": (70, 100)}, r"must have shape \(H, W, 3\)"),
    ],
)
def test_device_arrays_of_another_kind_are_refused(
    changes: dict[str, Any], message: str, gpu: glc.Codec, driver: FakeDriver
) -> None:
    class Odd(OnDevice):
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return {"shape": self.shape, "typestr": "|u1", "data": (self.address, False), "version": 3, **changes}

    odd: Any = Odd(driver, IMAGE)
    with pytest.raises((TypeError, ValueError), match=message):
        gpu.encode(odd)


def test_an_engine_on_the_cpu_refuses_device_arrays(codec: glc.Codec, driver: FakeDriver) -> None:
    frame: Any = WithDlpack(driver, IMAGE)
    with pytest.raises(TypeError, match="on a device, and this engine computes on the CPU"):
        codec.encode(frame)


# What is not there, or not right


def test_engines_of_another_version_or_card_are_never_loaded(
    compiled: Path, sdk: FakeTensorRT, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.capability = (9, 0)
    with (
        glc.Codec.open(compiled, engine="tensorrt", precision="f32") as opened,
        pytest.raises(TargetMissing, match=r"sm90 .* glc-export --bundle .* --target sm90 --precision f32"),
    ):
        opened.encode(IMAGE)
    driver.capability = (8, 0)
    monkeypatch.setattr(sdk, "__version__", "10.99.2", raising=False)
    with (
        glc.Codec.open(compiled, engine="tensorrt", precision="f32") as opened,
        pytest.raises(TargetMissing, match=r"10\.99\.2.* it holds sm80 with tensorrt 10\.99\.1 at f32"),
    ):
        opened.encode(IMAGE)


def test_another_precision_than_was_compiled_is_not_taken_in_its_place(compiled: Path, sdk: FakeTensorRT) -> None:
    with glc.Codec.open(compiled, engine="tensorrt") as opened, pytest.raises(TargetMissing, match="at f16"):
        opened.encode(IMAGE)


def test_garbage_in_place_of_an_engine_is_refused(sdk: FakeTensorRT) -> None:
    with pytest.raises(EngineRejectedGraph, match="deserialize failed: "):
        trt.TrtLoader("tensorrt").load(b"garbage")


def test_an_old_driver_is_named(sdk: FakeTensorRT) -> None:
    sdk.start_error = "CUDA initialization failure with error: 35, driver version is insufficient"
    with pytest.raises(EngineUnavailable, match=r"Fake A100, whose driver supports CUDA 13\.0: .*update it"):
        trt.TrtLoader("tensorrt")


def test_threads_and_bf16_are_refused() -> None:
    with pytest.raises(EngineUnavailable, match="takes no threads"):
        glc.Codec.open(engine="tensorrt", threads=2)
    with pytest.raises(EngineUnavailable, match="f16 or f32, not in bf16"):
        glc.Codec.open(engine="tensorrt_rtx", precision="bf16")
