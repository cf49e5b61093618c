"""Images within a limit on memory: the same streams and images, kept limits, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import load_image

import glc
from glc.engines import CPU_ENGINES, engine_loader
from glc.engines.ort import OrtDeviceLoader
from glc.errors import EngineUnavailable, MemoryLimitTooSmall, TilesMissing
from glc.export.synthetic import MINI
from glc.runtime import bounded_networks
from glc.runtime.memory_limit import deepest_graph_bytes

PHOTO = np.tile(load_image("coffee_200x300.png"), (2, 2, 1))
MIB = 1 << 20


@pytest.fixture(autouse=True)
def empty_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests hold much else: as if this process held nothing, so that a limit means the same in each."""
    monkeypatch.setattr(bounded_networks, "resident_bytes", lambda: 0)


@pytest.fixture
def bounded(mini_bundle: Path) -> Iterator[Callable[..., glc.Codec]]:
    opened: list[glc.Codec] = []

    def open_with(limit_mib: float, engine: str = "onnxruntime", **more: object) -> glc.Codec:
        limit = int(limit_mib * MIB)
        codec = glc.Codec.open(mini_bundle, engine=engine, threads=2, memory_limit_bytes=limit, **more)  # type: ignore[arg-type]
        opened.append(codec)
        return codec

    yield open_with
    for codec in opened:
        codec.close()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_tiles_give_the_stream_and_the_image_of_one_piece(
    codec: glc.Codec, bounded: Callable[..., glc.Codec], engine: str
) -> None:
    data = codec.encode(PHOTO, 2)
    image = codec.decode(data)
    tiled = bounded(200, engine)
    assert tiled.tile_plan is None
    assert codec.decode(tiled.encode(PHOTO, 2)).shape == image.shape
    assert tiled.tile_plan is not None
    found = tiled.decode(data)
    assert np.abs(found.astype(int) - image).max() <= 1
    assert (found != image).mean() < 0.1
    assert np.array_equal(tiled.decode_latent(data), codec.decode_latent(data))
    assert np.abs(tiled.preview(data).astype(int) - codec.preview(data)).max() <= 1


def test_with_room_an_image_is_computed_in_one_piece(codec: glc.Codec, bounded: Callable[..., glc.Codec]) -> None:
    roomy = bounded(4096)
    data = roomy.encode(PHOTO, 1)
    assert data == codec.encode(PHOTO, 1)
    assert np.array_equal(roomy.decode(data), codec.decode(data))
    assert roomy.tile_plan is None


def test_less_memory_keeps_less(bounded: Callable[..., glc.Codec]) -> None:
    kept = []
    for limit_mib in (200, 80):
        codec = bounded(limit_mib)
        codec.encode(PHOTO, 1)
        assert codec.tile_plan is not None
        kept.append(codec.tile_plan.kept)
    assert kept[0][0] != kept[1][0]
    assert kept[0][0].features >= kept[1][0].features
    assert all(level.features == 1 for level in kept[1][1:])


def test_too_small_a_limit_says_how_much_would_do(bounded: Callable[..., glc.Codec]) -> None:
    with pytest.raises(MemoryLimitTooSmall, match=r"needs a memory limit of about 0\.\d+ GiB; it is 0\.02 GiB"):
        bounded(20).encode(PHOTO, 1)


def test_both_transforms_have_the_same_deepest_level(
    bounded: Callable[..., glc.Codec], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []

    def count(channels: int, patch: int, rows: int, columns: int) -> int:
        counted.append(channels)
        return deepest_graph_bytes(channels, patch, rows, columns)

    monkeypatch.setattr(bounded_networks, "deepest_graph_bytes", count)
    codec = bounded(200)
    codec.decode(codec.encode(PHOTO, 1))
    assert counted == 2 * [MINI.base_channels * MINI.channel_multipliers[-1]]


def test_what_the_allocator_holds_beyond_the_limit_goes_back(
    bounded: Callable[..., glc.Codec], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = bounded(200)
    held = [0]
    given: list[int] = []

    def trim() -> None:
        given.append(held[0])
        held[0] = 0

    monkeypatch.setattr(bounded_networks, "resident_bytes", lambda: held[0])
    monkeypatch.setattr(bounded_networks, "give_back", trim)

    def hold(_: float) -> None:
        held[0] = 201 * MIB

    monkeypatch.setattr(codec._networks, "on_progress", hold)
    codec.encode(PHOTO, 1)
    assert given.count(201 * MIB) > 10


def test_progress_goes_up_to_the_end(bounded: Callable[..., glc.Codec]) -> None:
    heard: list[float] = []
    codec = bounded(200, on_progress=heard.append)
    data = codec.encode(PHOTO, 1)
    for work in (lambda: codec.encode(PHOTO, 1), lambda: codec.decode(data)):
        heard.clear()
        work()
        assert heard == sorted(heard)
        assert heard[-1] == 1
        assert len(heard) > 10


def test_a_bundle_without_tiles_has_no_limit(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden" / "tiny.glcb"
    with pytest.raises(TilesMissing):
        glc.Codec.open(golden, engine="onnxruntime", memory_limit_bytes=1 << 30)


def test_float_priors_are_never_cut(mini_float_bundle: Path) -> None:
    codec = glc.Codec.open(mini_float_bundle, engine="onnxruntime", memory_limit_bytes=120 * MIB)
    with codec, pytest.raises(MemoryLimitTooSmall):
        codec.encode(np.tile(PHOTO, (3, 3, 1)), 1)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_positive(mini_bundle: Path, limit: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        glc.Codec.open(mini_bundle, engine="onnxruntime", memory_limit_bytes=limit)


def test_a_limit_is_for_the_cpu(mini_bundle: Path) -> None:
    loader = OrtDeviceLoader("onnxruntime-cuda", provider="CPUExecutionProvider", device="cpu")
    with pytest.raises(ValueError, match="on the CPU"):
        glc.Codec(glc.Bundle.open(mini_bundle), loader, memory_limit_bytes=MIB)


@pytest.mark.slow
@pytest.mark.parametrize("limit_mib", [600, 460])
@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_a_fresh_process_keeps_its_limit(mini_bundle: Path, engine: str, limit_mib: int) -> None:
    try:
        engine_loader(engine, 1)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    program = f"""
import json, numpy as np, glc
from glc.bench.memory import peak_memory_bytes
from glc.runtime.memory_limit import resident_bytes
image = np.tile(np.arange(200, dtype=np.uint8)[:, None, None], (6, 1800, 3))
limit = {limit_mib} << 20
with glc.Codec.open({str(mini_bundle)!r}, engine={engine!r}, threads=2, memory_limit_bytes=limit) as codec:
    data = codec.encode(image, 1)
    encoded = codec.tile_plan is not None
    codec.decode(data)
print(json.dumps([encoded, peak_memory_bytes() / limit]))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    in_tiles, share = json.loads(done.stdout)
    assert in_tiles
    assert share < 1.1
