"""The codec: what comes back, and mistakes in a call."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import DATA, load_image
from tests.runtime.conftest import HEADER_BYTES, PHOTO, SMALL, Pixels, edited, names_by_content

import glc
from glc.engines import Array, Engine, HostLoader, engine_loader
from glc.errors import (
    BundleNotFound,
    EngineFailed,
    EngineRejectedGraph,
    EngineUnavailable,
)
from glc.runtime.signatures import signatures

# Round trips


@pytest.mark.parametrize(
    "height_width",
    [(1, 1), (1, 700), (700, 1), (63, 64), (64, 64), (64, 65), (37, 129), (200, 300)],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
def test_an_image_of_any_size_comes_back_in_that_size(height_width: tuple[int, int], codec: glc.Codec) -> None:
    image = np.resize(PHOTO, (*height_width, 3))
    data = codec.encode(image, 1)
    info = glc.inspect(data)
    assert (info.header.height, info.header.width) == height_width
    for decoded in (codec.decode(data), codec.preview(data)):
        assert decoded.shape == image.shape
        assert decoded.dtype == np.uint8
        assert decoded.flags.c_contiguous
        assert decoded.flags.writeable


@pytest.mark.parametrize("name", sorted(path.stem for path in (DATA / "vectors").glob("mini_*.npz")))
def test_what_is_decoded_is_what_the_published_model_computes(name: str, float_codec: glc.Codec) -> None:
    codec = float_codec
    with np.load(DATA / "vectors" / f"{name}.npz") as vector:
        data = codec.encode(load_image(str(vector["image"])), int(vector["q_index"]))
        found = {"x_hat": codec.decode(data), "x_hat_z_only": codec.preview(data)}
        for field, image in found.items():
            if field in vector:
                expected = (vector[field].astype(np.float64).transpose(1, 2, 0) + 1) * 127.5
                assert np.mean(np.abs(image - expected) > 1) < 1e-3, field
        # A file costs what the published estimate says, but for its header and a table that codes every symbol.
        estimate = float(vector["bit_y"] + vector["bit_z"])
        assert 0.98 * estimate < 8 * len(data) < 1.05 * estimate + 8 * 14


class _Recorder(HostLoader):
    """An engine loader that keeps what another one's graphs are fed."""

    def __init__(self, bundle: glc.Bundle, threads: int) -> None:
        self._inner = engine_loader("onnxruntime", threads)
        self._names = names_by_content(bundle)
        self.name, self.fingerprint = self._inner.name, self._inner.fingerprint
        self.fed: dict[str, list[dict[str, Array]]] = defaultdict(list)

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        return _RecordedEngine(
            self._inner.load(graph, exact=exact), self.fed[self._names[hashlib.sha256(graph).hexdigest()]]
        )


class _RecordedEngine:
    def __init__(self, inner: Engine, fed: list[dict[str, Array]]) -> None:
        self._inner, self._fed = inner, fed
        self.inputs, self.outputs, self.close = inner.inputs, inner.outputs, inner.close

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._fed.append({name: array.copy() for name, array in feeds.items()})
        return self._inner.run(feeds)


@pytest.mark.parametrize("quality", [0, 1.7, 3])
def test_the_decoder_sees_the_very_bits_that_the_encoder_saw(quality: float, mini_bundle: Path) -> None:
    bundle = glc.Bundle.open(mini_bundle)
    recorder = _Recorder(bundle, threads=2)
    with glc.Codec(bundle, recorder) as codec:
        codec.decode(codec.encode(PHOTO, quality))
    for name in ("hyper_prior", "spatial_prior_1", "spatial_prior_2", "spatial_prior_3"):
        by_encoder, by_decoder = recorder.fed[name][-2:]  # behind the conformance case
        for feed, array in by_encoder.items():
            np.testing.assert_array_equal(by_decoder[feed], array, err_msg=f"{name}: {feed}")


def test_the_latent_that_synthesis_gets_is_the_published_models(mini_float_bundle: Path) -> None:
    bundle = glc.Bundle.open(mini_float_bundle)
    recorder = _Recorder(bundle, threads=2)
    with np.load(DATA / "vectors" / "mini_seed0_astronaut_256_q3.npz") as vector, glc.Codec(bundle, recorder) as codec:
        codec.decode(codec.encode(load_image(str(vector["image"])), 3))
        found = recorder.fed["synthesis"][0]["y_hat"][0]
        # A value on the border between two symbols may fall to either side.
        assert np.mean(np.abs(found - vector["y_hat"]) > 1e-3) < 1e-3


def test_the_same_image_gives_the_same_bytes(codec: glc.Codec, mini_bundle: Path) -> None:
    data = codec.encode(PHOTO, 2)
    assert codec.encode(PHOTO, 2) == data
    with glc.Codec.open(mini_bundle, threads=2) as other:
        assert other.encode(PHOTO, 2) == data
        np.testing.assert_array_equal(other.decode(data), codec.decode(data))


def test_a_higher_quality_spends_more_bytes(codec: glc.Codec) -> None:
    sizes = [len(codec.encode(PHOTO, quality)) for quality in (0, 0.5, 1, 1.5, 2, 2.5, 3)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("quality", [0, 1 / 21, 10 * 3 / 63, 32 / 21, 3, np.float32(2), True], ids=repr)
def test_the_stream_tells_its_quality(quality: float, codec: glc.Codec) -> None:
    data = codec.encode(SMALL, quality)
    assert glc.inspect(data).header.quality == pytest.approx(float(quality), abs=1e-6)
    assert codec.decode(data).shape == SMALL.shape


def test_a_quality_is_rounded_to_a_step(codec: glc.Codec) -> None:
    assert codec.encode(SMALL, 1.0 + 0.4 / 21) == codec.encode(SMALL, 1)
    assert codec.encode(SMALL, 1.0 + 0.6 / 21) == codec.encode(SMALL, 22 / 21) != codec.encode(SMALL, 1)


def test_the_bare_form_is_the_same_payload_with_less_around_it(codec: glc.Codec, small_stream: bytes) -> None:
    bare = codec.encode(SMALL, 1, form="bare")
    assert bare[3:] == small_stream[HEADER_BYTES:]
    np.testing.assert_array_equal(codec.decode(bare, form="bare"), codec.decode(small_stream))
    np.testing.assert_array_equal(codec.preview(bare, form="bare"), codec.preview(small_stream))


def test_batches_may_mix_sizes_and_come_from_generators(codec: glc.Codec) -> None:
    images = [SMALL, PHOTO[:65, :64], SMALL[::-1]]
    streams = codec.encode_batch((image for image in images), 2)
    assert streams == [codec.encode(image, 2) for image in images]
    for decoded, data in zip(codec.decode_batch(iter(streams)), streams, strict=True):
        np.testing.assert_array_equal(decoded, codec.decode(data))


def test_several_threads_get_what_one_gets(codec: glc.Codec, mini_bundle: Path) -> None:
    images = [np.ascontiguousarray(PHOTO[k : k + 50, k : k + 90]) for k in range(0, 80, 10)]
    streams = [codec.encode(image, 1) for image in images]
    pixels = [codec.decode(data) for data in streams]
    with glc.Codec.open(mini_bundle, threads=2) as fresh, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fresh.encode, images)) == streams
        for found, expected in zip(pool.map(fresh.decode, streams), pixels, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(PHOTO[10:50, 20:90], id="a window"),
        pytest.param(PHOTO[::-1, :64][:64], id="negative stride"),
        pytest.param(PHOTO[:80:2, :140:2], id="every second pixel"),
        pytest.param(PHOTO[:40, :70, ::-1], id="channels reversed"),
        pytest.param(np.asfortranarray(SMALL), id="column by column"),
        pytest.param(np.broadcast_to(np.array((9, 99, 199), np.uint8), (40, 70, 3)), id="one pixel broadcast"),
    ],
)
def test_the_layout_in_memory_does_not_matter(view: Pixels, codec: glc.Codec) -> None:
    before = view.copy()
    assert codec.encode(view, 1) == codec.encode(before, 1)
    np.testing.assert_array_equal(view, before)


def test_a_read_only_image_is_encoded(codec: glc.Codec, small_stream: bytes) -> None:
    image = SMALL.copy()
    image.flags.writeable = False
    assert codec.encode(image, 1) == small_stream


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_streams_may_lie_in_any_buffer(kind: Callable[[bytes], Any], codec: glc.Codec, small_stream: bytes) -> None:
    np.testing.assert_array_equal(codec.decode(kind(small_stream)), codec.decode(small_stream))


# Mistakes in a call


@pytest.mark.parametrize(
    ("image", "error"),
    [
        pytest.param(SMALL.astype(np.float32), TypeError, id="float32"),
        pytest.param(SMALL.astype(np.uint16), TypeError, id="uint16"),
        pytest.param(SMALL.astype(np.int8), TypeError, id="int8"),
        pytest.param(SMALL > 9, TypeError, id="bool"),
        pytest.param(SMALL.tolist(), TypeError, id="list"),
        pytest.param(None, TypeError, id="None"),
        pytest.param("photo.png", TypeError, id="a path"),
        pytest.param(SMALL[..., 0], ValueError, id="gray"),
        pytest.param(SMALL[..., :1], ValueError, id="one channel"),
        pytest.param(np.dstack([SMALL, SMALL[..., :1]]), ValueError, id="four channels"),
        pytest.param(SMALL.transpose(2, 0, 1), ValueError, id="channels first"),
        pytest.param(SMALL[None], ValueError, id="batch"),
        pytest.param(SMALL[:0], ValueError, id="no rows"),
        pytest.param(SMALL[:, :0], ValueError, id="no columns"),
    ],
)
def test_what_is_no_image_is_a_mistake_in_the_call(image: Any, error: type[Exception], codec: glc.Codec) -> None:
    with pytest.raises(error, match="image must"):
        codec.encode(image)


@pytest.mark.parametrize("quality", [-0.01, 3.01, 4, float("nan"), float("inf"), -float("inf")], ids=repr)
def test_a_quality_out_of_range_names_the_range(quality: float, codec: glc.Codec) -> None:
    with pytest.raises(ValueError, match=r"0\.\.3"):
        codec.encode(SMALL, quality)


@pytest.mark.parametrize("quality", [None, "1", [1]], ids=repr)
def test_a_quality_that_is_no_number_is_a_type_error(quality: Any, codec: glc.Codec) -> None:
    with pytest.raises(TypeError):
        codec.encode(SMALL, quality)


@pytest.mark.parametrize("data", [5, "text", None, 1.5], ids=repr)
def test_a_stream_that_is_not_bytes_is_a_type_error(data: Any, codec: glc.Codec) -> None:
    for call in (codec.decode, codec.preview, glc.inspect):
        with pytest.raises(TypeError):
            call(data)


def test_an_unknown_form_is_a_value_error(codec: glc.Codec, small_stream: bytes) -> None:
    form: Any = "raw"
    for call in (lambda: codec.encode(SMALL, form=form), lambda: codec.decode(small_stream, form=form)):
        with pytest.raises(ValueError, match="form"):
            call()


# Opening and closing


def test_the_environment_names_the_bundle_unless_the_caller_does(
    mini_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLC_BUNDLE", str(mini_bundle))
    assert glc.Codec.open().bundle.path == mini_bundle
    monkeypatch.setenv("GLC_BUNDLE", str(tmp_path / "missing"))
    assert glc.Codec.open(mini_bundle).bundle.path == mini_bundle
    with pytest.raises(BundleNotFound, match="missing"):
        glc.Codec.open()


def test_a_codec_tells_its_qualities_and_its_engine(codec: glc.Codec) -> None:
    assert codec.qualities == 4
    assert codec.engine.startswith("onnxruntime ")


def test_an_unknown_engine_is_refused(mini_bundle: Path) -> None:
    with pytest.raises(EngineUnavailable, match="abacus"):
        glc.Codec.open(mini_bundle, engine="abacus")


def test_a_closed_codec_says_so(mini_bundle: Path, small_stream: bytes) -> None:
    with glc.Codec.open(mini_bundle, threads=2) as codec:
        codec.encode(SMALL)
    codec.close()
    calls: list[Callable[[], object]] = [
        lambda: codec.encode(SMALL),
        lambda: codec.decode(small_stream),
        lambda: codec.preview(small_stream),
        codec.warm_up,
    ]
    for call in calls:
        with pytest.raises(EngineFailed, match="closed"):
            call()


def test_stages_are_told_with_their_time(mini_bundle: Path) -> None:
    times: dict[str, list[float]] = defaultdict(list)
    with glc.Codec.open(mini_bundle, threads=2, on_stage=lambda name, ms: times[name].append(ms)) as codec:
        codec.warm_up()
        assert set(times) == {f"load_{name}" for name in signatures(32)}
        codec.decode(codec.encode(SMALL))
    priors = {f"spatial_prior_{k}" for k in (1, 2, 3)}
    assert priors | {"analysis", "hyper_prior", "entropy_coding", "synthesis"} == {n for n in times if "load" not in n}
    assert all(ms >= 0 for durations in times.values() for ms in durations)


def test_graphs_under_each_others_names_are_refused(mini_bundle: Path, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        one, other = document["graphs"]["analysis"], document["graphs"]["synthesis"]
        one["file"], other["file"] = other["file"], one["file"]

    with (
        glc.Codec.open(edited(mini_bundle, tmp_path / "swapped.glcb", change), threads=2) as codec,
        pytest.raises(EngineRejectedGraph, match="analysis"),
    ):
        codec.encode(SMALL)
