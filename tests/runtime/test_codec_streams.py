"""Streams that are cut, damaged, foreign or too large: what the codec shows of them, and what it refuses."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.conftest import HEADER_BYTES, PHOTO, SMALL, edited

import glc
from glc.errors import (
    BitstreamError,
    CorruptBitstream,
    EngineMismatch,
    GlcError,
    ImageTooLarge,
    ModelMismatch,
    NotABitstream,
    TruncatedBitstream,
)
from glc.runtime.bitstream import Header, write_stream


def _stream(like: bytes, header: Header, payload: bytes) -> bytes:
    """A stream with a right checksum and the model and engine of another."""
    info = glc.inspect(like)
    return write_stream(header, payload, info.arithmetic, info.identity, "file")


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


def test_a_cut_is_noticed_where_the_checksum_matches_by_chance_and_where_there_is_none(
    codec: glc.Codec, small_stream: bytes
) -> None:
    header, payload = glc.inspect(small_stream).header, small_stream[HEADER_BYTES:]
    bare = codec.encode(SMALL, header.quality, form="bare")
    assert bare.endswith(payload)
    for left_out in range(9, len(payload)):
        cut = payload[:-left_out]
        with pytest.raises(BitstreamError):
            codec.decode(bare[:-left_out], form="bare")
        by_chance = _stream(small_stream, header, cut)
        with pytest.raises(BitstreamError):
            codec.decode(by_chance)
        with pytest.raises(BitstreamError):
            codec.decode_latent(by_chance)


def test_a_cut_stream_whose_checksum_matches_by_chance_shows_what_it_holds(
    codec: glc.Codec, small_stream: bytes
) -> None:
    header, payload = glc.inspect(small_stream).header, small_stream[HEADER_BYTES:]
    for left_out in (9, 20, len(payload) // 2):
        by_chance = codec.decode_partial(_stream(small_stream, header, payload[:-left_out]))
        plainly = codec.decode_partial(small_stream[:-left_out])
        assert by_chance.symbols == plainly.symbols < 1
        np.testing.assert_array_equal(by_chance.image, plainly.image)


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

    with glc.Codec.open(edited(mini_bundle, tmp_path / "other.glcb", change), threads=2) as other:
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
