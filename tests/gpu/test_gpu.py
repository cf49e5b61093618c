"""Proof on a GPU: parity with the CPU, portable streams, no leak, threads, frames that stay on the device."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.conftest import DATA, load_image

import glc
from glc.bench.exact import available_loaders, measure_pairs
from glc.engines.cuda import Device, driver

pytestmark = pytest.mark.gpu

PHOTOS = sorted((DATA / "images").glob("*.png"))
PHOTO = load_image("coffee_200x300.png")


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = float(np.mean(np.square(a.astype(np.float64) - b)))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize(("precision", "least_db"), [("f32", 60), ("f16", 50)])
def test_images_and_rates_are_those_of_the_cpu(library: str, compiled: Path, precision: str, least_db: float) -> None:
    with (
        glc.Codec.open(compiled, engine="onnxruntime") as cpu,
        glc.Codec.open(compiled, engine=library, precision=precision) as gpu,
    ):
        for quality in range(cpu.qualities):
            data = cpu.encode(PHOTO, quality)
            assert psnr(gpu.decode(data), cpu.decode(data)) >= least_db
            assert abs(len(gpu.encode(PHOTO, quality)) / len(data) - 1) <= 0.003 + 4 / len(data)


def test_streams_of_every_engine_decode_exactly_on_every_other(compiled: Path) -> None:
    bundle = glc.Bundle.open(compiled)
    loaders, _ = available_loaders(bundle)
    assert any(loader.on_device for loader in loaders)
    for row in measure_pairs(bundle, loaders, PHOTOS, crops=40):
        assert (row.differing, row.garbled, row.failed) == (0, 0, 0), row


def free_bytes() -> int:
    with Device().active():
        return int(driver().cuMemGetInfo()[1])


def test_device_memory_does_not_grow(library: str, compiled: Path) -> None:
    with glc.Codec.open(compiled, engine=library) as gpu:
        images = [PHOTO[: 100 + 4 * n, : 120 + 8 * n] for n in range(12)]

        def use() -> None:
            for image in images:
                gpu.decode(gpu.encode(image))

        use()
        use()
        before = free_bytes()
        for _ in range(10):
            use()
        assert before - free_bytes() < 8 << 20


def test_closing_gives_the_memory_back(library: str, compiled: Path) -> None:
    def use() -> None:
        with glc.Codec.open(compiled, engine=library) as gpu:
            gpu.decode(gpu.encode(PHOTO))

    use()  # the driver and the library keep something for good
    before = free_bytes()
    for _ in range(3):
        use()
    assert before - free_bytes() < 16 << 20


def test_threads_get_the_bytes_of_one_thread(library: str, compiled: Path) -> None:
    images = [PHOTO[: 90 + 10 * n, : 150 + 8 * n] for n in range(8)]
    with glc.Codec.open(compiled, engine=library) as gpu:
        expected = [gpu.encode(image) for image in images]
        decoded = [gpu.decode(data) for data in expected]
        wrong: list[int] = []

        def work(offset: int) -> None:
            for step in range(24):
                n = (offset + step) % len(images)
                if gpu.encode(images[n]) != expected[n] or (gpu.decode(expected[n]) != decoded[n]).any():
                    wrong.append(n)

        threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_torch_tensors_stay_on_the_device(library: str, compiled: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    with glc.Codec.open(compiled, engine=library) as gpu:
        frame = torch.from_numpy(PHOTO).cuda()
        data = gpu.encode(frame)
        assert data == gpu.encode(PHOTO)
        out = torch.empty_like(frame)
        assert gpu.decode(data, out=out) is out
        assert (out.cpu().numpy() == gpu.decode(data)).all()


def test_cupy_arrays_stay_on_the_device(library: str, compiled: Path) -> None:
    cupy = pytest.importorskip("cupy")
    with glc.Codec.open(compiled, engine=library) as gpu:
        data = gpu.encode(cupy.asarray(PHOTO))
        assert data == gpu.encode(PHOTO)
        out = cupy.empty(PHOTO.shape, cupy.uint8)
        gpu.decode(data, out=out)
        assert (cupy.asnumpy(out) == gpu.decode(data)).all()


def test_pycuda_works_beside_it(library: str, compiled: Path) -> None:
    pytest.importorskip("pycuda")
    from pycuda import gpuarray

    with glc.Codec.open(compiled, engine=library) as gpu:
        frame = gpuarray.to_gpu(PHOTO)
        data = gpu.encode(frame)
        assert data == gpu.encode(PHOTO)
        out = gpuarray.empty(PHOTO.shape, np.uint8)
        gpu.decode(data, out=out)
        assert (out.get() == gpu.decode(data)).all()
        assert ((frame + 1).get() == PHOTO + 1).all(), "PyCUDA's own kernels still run"
