"""The codec: what comes back, what is refused, and how little an engine must do."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.conftest import DATA, load_image

import glc
from glc.engines import Array, Engine, EngineLoader, TensorSpec, engine_loader
from glc.errors import (
    BitstreamError,
    BundleNotFound,
    CorruptBitstream,
    EngineFailed,
    EngineMismatch,
    EngineNotExact,
    EngineRejectedGraph,
    EngineUnavailable,
    GlcError,
    ImageTooLarge,
    ModelMismatch,
    NotABitstream,
    TruncatedBitstream,
)
from glc.runtime.bitstream import Header, write_stream

Pixels = NDArray[np.uint8]

PHOTO = load_image("coffee_200x300.png")
SMALL = np.ascontiguousarray(PHOTO[:40, :70])
HEADER_BYTES = 12  # of a file whose sides are at most 128 pixels


@pytest.fixture(scope="module")
def small_stream(codec: glc.Codec) -> bytes:
    """A stream of a few bytes, for tests that go through all of them."""
    return codec.encode(SMALL, 1)


def _edited(mini_bundle: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the bundle with another manifest."""
    shutil.copytree(mini_bundle, path)
    document = json.loads((path / "manifest.json").read_text())
    change(document)
    (path / "manifest.json").write_text(json.dumps(document))
    return path


def _stream(like: bytes, header: Header, payload: bytes) -> bytes:
    """A stream with a right checksum and the model and engine of another."""
    info = glc.inspect(like)
    return write_stream(header, payload, info.arithmetic, info.identity, "file")


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


class _Recorder:
    """An engine loader that keeps what another one's graphs are fed."""

    def __init__(self, bundle: glc.Bundle, threads: int) -> None:
        self._inner = engine_loader("onnxruntime", threads)
        self._names = _names_by_content(bundle)
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


def _names_by_content(bundle: glc.Bundle) -> dict[str, str]:
    return {entry.file.sha256: name for name, entry in bundle.manifest.graphs.items()}


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


# Streams that cannot be decoded


def test_every_flipped_bit_is_noticed(codec: glc.Codec, small_stream: bytes) -> None:
    for bit in range(8 * len(small_stream)):
        damaged = bytearray(small_stream)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            codec.decode(bytes(damaged))


def test_every_cut_is_noticed(codec: glc.Codec, small_stream: bytes) -> None:
    for length in range(len(small_stream)):
        with pytest.raises(BitstreamError):
            codec.decode(small_stream[:length])


@pytest.mark.parametrize("more", [b"\0", b"\0\0\0\0", b"x"], ids=repr)
def test_bytes_after_the_end_are_noticed(more: bytes, codec: glc.Codec, small_stream: bytes) -> None:
    with pytest.raises(CorruptBitstream):
        codec.decode(small_stream + more)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"only words", bytes(99)], ids=repr)
def test_what_is_no_stream_at_all_says_so(data: bytes, codec: glc.Codec) -> None:
    for call in (codec.decode, codec.preview):
        with pytest.raises(NotABitstream):
            call(data)


@pytest.mark.parametrize("side", [64, pytest.param(130, marks=pytest.mark.slow)])
def test_a_preview_of_a_cut_stream_is_that_of_the_whole_one_or_says_that_it_is_cut(side: int, codec: glc.Codec) -> None:
    data = codec.encode(PHOTO[:side, :side], 0)
    whole = codec.preview(data)
    lengths = [*range(1, 36), *range(36, len(data), 9)]
    shown = []
    for length in lengths:
        try:
            found = codec.preview(data[:length])
        except TruncatedBitstream:
            continue
        np.testing.assert_array_equal(found, whole)
        shown.append(length)
    assert shown == [length for length in lengths if length >= shown[0]]  # more bytes never take it away
    assert shown[0] < 30


@pytest.mark.slow
@pytest.mark.parametrize("quality", [0, 3])
def test_a_cut_stream_shows_more_with_every_byte_or_says_that_it_is_cut(quality: int, codec: glc.Codec) -> None:
    image = PHOTO[:70, :90]
    data = codec.encode(image, quality)
    whole, preview = codec.decode(data), codec.preview(data)
    shares: list[float] = []
    for length in [*range(1, len(data), 5), len(data) - 1]:
        with pytest.raises((TruncatedBitstream, NotABitstream)):
            codec.decode(data[:length])
        try:
            partial = codec.decode_partial(data[:length])
        except (TruncatedBitstream, NotABitstream):
            assert not shares
            continue
        if partial.symbols == 0:
            np.testing.assert_array_equal(partial.image, preview)
        shares.append(partial.symbols)
    assert shares == sorted(shares)
    assert len(set(shares)) > 3
    assert shares[0] < shares[-1] < 1
    complete = codec.decode_partial(data)
    assert complete.symbols == 1
    np.testing.assert_array_equal(complete.image, whole)
    np.testing.assert_array_equal(codec.decode(data[: len(data) // 2], allow_partial=True).shape, whole.shape)


def test_a_preview_works_without_any_symbol_and_is_another_image(codec: glc.Codec) -> None:
    data = codec.encode(PHOTO, 3)
    assert (codec.preview(data) != codec.decode(data)).mean() > 0.5


def test_a_preview_of_a_damaged_stream_is_an_image_or_a_bitstream_error(codec: glc.Codec, small_stream: bytes) -> None:
    draw = random.Random(0)
    for _ in range(40):
        damaged = bytearray(small_stream)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        try:
            assert codec.preview(bytes(damaged)).dtype == np.uint8
        except BitstreamError as error:
            assert str(error).isprintable()  # noqa: PT017 - both ways are right


def test_a_damaged_bare_stream_is_an_image_or_a_glc_error(codec: glc.Codec) -> None:
    draw = np.random.RandomState(0)
    header = codec.encode(SMALL, 1, form="bare")[:3]
    decoded = 0
    for payload in [draw.bytes(length) for length in range(0, 400, 13)] + [
        bytes(99),
        b"\xff" * 9,
        b"\0" + b"\xff" * 99,
    ]:
        try:
            image = codec.decode(header + payload, form="bare")
        except GlcError:
            continue
        assert image.shape == SMALL.shape
        decoded += 1
    assert decoded


def test_a_stream_of_another_model_names_both(mini_bundle: Path, tmp_path: Path, small_stream: bytes) -> None:
    def change(document: dict[str, Any]) -> None:
        document.update(model_id="ab" * 32, label="another model")

    with glc.Codec.open(_edited(mini_bundle, tmp_path / "other.glcb", change), threads=2) as other:
        for call in (other.decode, other.preview):
            with pytest.raises(ModelMismatch, match=r"abab.*another model") as caught:
                call(small_stream)
            assert glc.inspect(small_stream).identity[:2].hex() in str(caught.value)


def test_a_float_stream_of_another_engine_is_refused(mini_float_bundle: Path, float_codec: glc.Codec) -> None:
    data = float_codec.encode(PHOTO[:40, :50], 1)
    with glc.Codec.open(mini_float_bundle, threads=1) as other:
        for call in (other.decode, other.preview):
            with pytest.raises(EngineMismatch, match="1 threads"):
                call(data)


def test_an_exact_stream_decodes_with_other_threads(mini_bundle: Path, codec: glc.Codec) -> None:
    data = codec.encode(PHOTO, 1)
    with glc.Codec.open(mini_bundle, threads=1) as other:
        np.testing.assert_array_equal(other.decode_latent(data), codec.decode_latent(data))


def test_a_quality_that_the_bundle_has_not_is_refused(codec: glc.Codec, small_stream: bytes) -> None:
    for units, refused in ((3 * 21, False), (3 * 21 + 1, True)):
        data = _stream(small_stream, Header(units, 70, 40), small_stream[HEADER_BYTES:])
        if refused:
            with pytest.raises(CorruptBitstream, match="quality"):
                codec.decode(data)
        else:
            assert codec.decode(data).shape == SMALL.shape


@pytest.mark.parametrize(
    ("width", "height", "max_pixels", "error"),
    [
        pytest.param(20_000, 20_000, None, ImageTooLarge, id="beyond the limit"),
        pytest.param(1 << 24, 1 << 24, None, ImageTooLarge, id="the largest sides"),
        pytest.param(1 << 24, 8, None, TruncatedBitstream, id="the widest within the limit"),
        pytest.param(20_000, 20_000, 1 << 30, TruncatedBitstream, id="within a higher limit, but with no payload"),
    ],
)
@pytest.mark.parametrize("form", ["file", "bare"])
def test_a_tiny_stream_of_a_huge_image_takes_no_memory(
    width: int,
    height: int,
    max_pixels: int | None,
    error: type[Exception],
    form: Any,
    mini_bundle: Path,
    small_stream: bytes,
) -> None:
    header = Header(21, width, height)
    data = _stream(small_stream, header, bytes(100))
    if form == "bare":
        data = write_stream(header, bytes(100), glc.inspect(small_stream).arithmetic, b"", "bare")
    limit: dict[str, Any] = {} if max_pixels is None else {"max_pixels": max_pixels}
    with glc.Codec.open(mini_bundle, threads=2, **limit) as codec:
        for call in (codec.decode, codec.preview):
            tracemalloc.start()
            try:
                with pytest.raises(error, match=f"{width}x{height}"):
                    call(data, form=form)
                assert tracemalloc.get_traced_memory()[1] < 1 << 20
            finally:
                tracemalloc.stop()


def test_the_limit_on_pixels_holds_both_ways_and_counts_the_last_one(mini_bundle: Path, small_stream: bytes) -> None:
    pixels = SMALL.shape[0] * SMALL.shape[1]
    with glc.Codec.open(mini_bundle, threads=2, max_pixels=pixels) as codec:
        assert codec.encode(SMALL, 1) == small_stream
        assert codec.decode(small_stream).shape == SMALL.shape
    with glc.Codec.open(mini_bundle, threads=2, max_pixels=pixels - 1) as codec:
        with pytest.raises(ValueError, match="max_pixels"):
            codec.encode(SMALL)
        with pytest.raises(ImageTooLarge, match="max_pixels"):
            codec.decode(small_stream)


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
        assert set(times) == {f"load_{name}" for name in codec.bundle.manifest.graphs}
        codec.decode(codec.encode(SMALL))
    priors = {f"spatial_prior_{k}" for k in (1, 2, 3)}
    assert priors | {"analysis", "hyper_prior", "entropy_coding", "synthesis"} == {n for n in times if "load" not in n}
    assert all(ms >= 0 for durations in times.values() for ms in durations)


def test_graphs_under_each_others_names_are_refused(mini_bundle: Path, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        one, other = document["graphs"]["analysis"], document["graphs"]["synthesis"]
        one["file"], other["file"] = other["file"], one["file"]

    with (
        glc.Codec.open(_edited(mini_bundle, tmp_path / "swapped.glcb", change), threads=2) as codec,
        pytest.raises(EngineRejectedGraph, match="analysis"),
    ):
        codec.encode(SMALL)


# Other engines


class _BlockLoader:
    """An engine of a few lines: y holds the mean of each 16x16 block of pixels, synthesis paints blocks with it."""

    def __init__(self, bundle: glc.Bundle, name: str = "onnxruntime") -> None:
        self._bundle = bundle
        self._names = _names_by_content(bundle)
        self.name = name
        self.fingerprint = f"{name}, blocks of 16"
        self.spoiled: tuple[str, str, float] | None = None
        """Graph, output and the value that the first element is to have."""

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        name = self._names[hashlib.sha256(graph).hexdigest()]
        entry = self._bundle.manifest.graphs[name]
        return _BlockEngine(self, name, entry.inputs, entry.outputs)


class _BlockEngine:
    def __init__(
        self, loader: _BlockLoader, name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self._loader, self._name, self.inputs, self.outputs = loader, name, inputs, outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        results = self._compute(*(feeds[spec.name] for spec in self.inputs))
        if self._loader.spoiled is not None and self._loader.spoiled[0] == self._name:
            results[self._loader.spoiled[1]].flat[0] = self._loader.spoiled[2]
        return results

    def _compute(self, first: Array, second: Array | None = None) -> dict[str, Array]:
        if self._name == "analysis":
            _, height, width, _ = first.shape
            padded = np.pad(first[0], ((0, -height % 64), (0, -width % 64), (0, 0)), mode="edge").astype(np.float32)
            means = padded.reshape(padded.shape[0] // 16, 16, padded.shape[1] // 16, 16, 3).mean(axis=(1, 3))
            y = np.resize(means.transpose(2, 0, 1), (32, *means.shape[:2]))
            return {"y": y[None], "z_indices": y[None, 0, ::4, ::4].astype(np.int32)}
        if self._name == "synthesis":
            blocks = np.nan_to_num(np.rint(first[0, :3])).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
            return {"image": blocks.repeat(16, axis=0).repeat(16, axis=1)[None]}
        rows, columns = (first.shape[1] * 4, first.shape[2] * 4) if self._name == "hyper_prior" else first.shape[2:]
        half = (1, 32, rows // 2, columns // 2)
        part: dict[str, Array] = {
            "scale_indices": np.full(half, 40, np.uint8),
            "means": np.full(half, 0.25, np.float32),
        }
        whole = (1, 32, rows, columns)
        step_and_context = {"quant_step": np.ones(whole, np.float32), "context": np.zeros(whole, np.float32)}
        return part | step_and_context if self._name == "hyper_prior" else part

    def close(self) -> None:
        pass


@pytest.fixture
def blocks(mini_float_bundle: Path) -> _BlockLoader:
    return _BlockLoader(glc.Bundle.open(mini_float_bundle))


def _block_image() -> Pixels:
    colours = np.random.RandomState(0).randint(0, 256, (7, 9, 3)).astype(np.uint8)
    return colours.repeat(16, axis=0).repeat(16, axis=1)


def test_an_engine_of_a_few_lines_can_code_an_image_without_loss(blocks: _BlockLoader) -> None:
    loader: EngineLoader = blocks  # the protocol, checked by mypy
    image = _block_image()
    with glc.Codec(glc.Bundle.open(blocks._bundle.path), loader) as codec:
        data = codec.encode(image, 0)
        np.testing.assert_array_equal(codec.decode(data), image)
        assert codec.engine == "onnxruntime, blocks of 16"


def test_streams_of_another_fingerprint_are_refused(blocks: _BlockLoader, float_codec: glc.Codec) -> None:
    data = float_codec.encode(PHOTO[:40, :50], 1)
    with glc.Codec(blocks._bundle, blocks) as codec, pytest.raises(EngineMismatch, match="blocks of 16"):
        codec.decode(data)


def test_an_engine_that_is_not_exact_is_refused_with_the_first_element(mini_bundle: Path) -> None:
    bundle = glc.Bundle.open(mini_bundle)
    with (
        glc.Codec(bundle, _BlockLoader(bundle)) as codec,
        pytest.raises(EngineNotExact, match=r"hyper_prior.*blocks of 16.*scale_indices.*first at \[0, 0, 0, 0\]"),
    ):
        codec.warm_up()


def test_a_float_engine_that_streams_have_no_code_for_is_refused_by_name(mini_float_bundle: Path) -> None:
    bundle = glc.Bundle.open(mini_float_bundle)
    with pytest.raises((GlcError, ValueError), match="abacus"):
        glc.Codec(bundle, _BlockLoader(bundle, "abacus"))


BEYOND = [("scale_indices", 255.0), ("means", np.nan), ("means", np.inf), ("quant_step", np.nan)]


@pytest.mark.parametrize(
    "spoiled",
    [
        ("analysis", "y", np.nan),
        ("analysis", "y", np.inf),
        ("analysis", "y", 1e30),
        ("analysis", "z_indices", -1),
        ("analysis", "z_indices", 256),
        *(("hyper_prior", *what) for what in BEYOND),
        ("hyper_prior", "quant_step", 0),
        *(("spatial_prior_2", *what) for what in BEYOND[:3]),
    ],
    ids=lambda spoiled: "-".join(map(str, spoiled)),
)
def test_values_that_cannot_be_coded_are_the_engines_failure(
    spoiled: tuple[str, str, float], blocks: _BlockLoader
) -> None:
    blocks.spoiled = spoiled
    with glc.Codec(blocks._bundle, blocks) as codec, pytest.raises(EngineFailed):
        codec.encode(_block_image())


@pytest.mark.parametrize(
    "spoiled",
    [*(("hyper_prior", *what) for what in BEYOND), *(("spatial_prior_2", *what) for what in BEYOND[:3])],
    ids=lambda spoiled: "-".join(map(str, spoiled)),
)
def test_values_that_no_encoder_could_code_give_no_image(spoiled: tuple[str, str, float], blocks: _BlockLoader) -> None:
    with glc.Codec(blocks._bundle, blocks) as codec:
        data = codec.encode(_block_image())
        blocks.spoiled = spoiled
        with pytest.raises(EngineFailed):
            codec.decode(data)


def test_a_graph_that_no_engine_can_load_is_refused(mini_bundle: Path, tmp_path: Path) -> None:
    content = os.urandom(100)

    def change(document: dict[str, Any]) -> None:
        document["graphs"]["analysis"]["file"].update(
            sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
        )

    path = _edited(mini_bundle, tmp_path / "garbage.glcb", change)
    (path / "graphs" / "analysis.onnx").write_bytes(content)
    with glc.Codec.open(path) as codec, pytest.raises(EngineRejectedGraph):
        codec.encode(SMALL)
