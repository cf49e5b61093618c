"""Refinements: which places an encoder chooses, and that no image gets worse as more of a stream arrives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.conftest import PHOTO

import glc
from glc.errors import TruncatedBitstream
from glc.runtime.bitstream import Arithmetic, Header, Refinements, inspect, write_stream
from glc.runtime.default_model import default_bundle
from glc.runtime.refinement import find_refinements

_BLACK = np.zeros((2, 4, 3), np.uint8)
_CROP = np.ascontiguousarray(PHOTO[70:120, 110:170])


def _grey(value: float) -> NDArray[np.uint8]:
    return np.full_like(_BLACK, value)


class _Scripted:
    """Shows grey images, by the bytes of payload that it is given; of a black one the error is the grey's square."""

    def __init__(self, preview: int, greys: dict[int, int], whole: int) -> None:
        self.preview_grey, self.greys, self.whole = preview, greys, whole

    def preview(self, data: bytes) -> NDArray[np.uint8]:
        return _grey(self.preview_grey)

    def decode(self, data: bytes, *, allow_partial: bool = False) -> NDArray[np.uint8]:
        if not allow_partial:
            return _grey(self.whole)
        length = inspect(data).payload_bytes
        if length not in self.greys:
            raise TruncatedBitstream("among the z indices")
        return _grey(self.greys[length])


def _stream(payload_bytes: int) -> bytes:
    return write_stream(Header(0, 4, 2), bytes(range(payload_bytes)), Arithmetic.EXACT, b"1234", "file")


@pytest.mark.parametrize(
    ("preview", "greys", "whole", "places"),
    [
        pytest.param(90, {20: 80, 30: 70, 40: 60}, 50, [20, 30, 40], id="all fall"),
        pytest.param(90, {20: 95, 30: 70, 40: 75}, 50, [30], id="some rise"),
        pytest.param(90, {20: 80, 30: 40, 40: 60}, 50, [20, 40], id="one is better than the whole"),
        pytest.param(90, {20: 80, 30: 80, 40: 79}, 50, [20, 40], id="one gains nothing"),
        pytest.param(200, {20: 199, 30: 198, 40: 100}, 50, [30, 40], id="the first gains too little: 0.998"),
        pytest.param(40, {20: 80, 30: 70, 40: 60}, 50, [], id="the preview is best"),
        pytest.param(0, {20: 0}, 0, [], id="all are right"),
        pytest.param(90, {}, 50, [], id="all among the z indices"),
    ],
)
def test_places_are_chosen_whose_errors_fall(
    preview: int, greys: dict[int, int], whole: int, places: list[int]
) -> None:
    found = find_refinements(_Scripted(preview, greys, whole), _stream(161), _BLACK)
    assert found.step_bytes == 10  # 161 bytes hold 16 places
    assert [10 * (bit + 1) for bit in range(16) if found.mask >> bit & 1] == places


@pytest.mark.parametrize(
    ("payload_bytes", "step_bytes"), [(0, 1), (1, 1), (17, 1), (18, 2), (34, 2), (35, 3), (17_000, 1000)]
)
def test_places_lie_evenly_within_the_payload(payload_bytes: int, step_bytes: int) -> None:
    asked: list[int] = []

    class Recording(_Scripted):
        def decode(self, data: bytes, *, allow_partial: bool = False) -> NDArray[np.uint8]:
            asked.extend([inspect(data).payload_bytes] if allow_partial else [])
            return super().decode(data, allow_partial=allow_partial)

    stream = _stream(0) + bytes(payload_bytes)
    assert find_refinements(Recording(9, {}, 5), stream, _BLACK).step_bytes == step_bytes
    assert asked == list(range(step_bytes, min(payload_bytes, 16 * step_bytes + 1), step_bytes))


@pytest.fixture(scope="module")
def demo() -> Iterator[glc.Codec]:
    """The demonstration model: what it shows is like the image, so that there is something to gain."""
    with glc.Codec.open(default_bundle(), engine="onnxruntime") as codec:
        yield codec


@pytest.fixture(scope="module")
def progressive(demo: glc.Codec) -> bytes:
    return demo.encode(_CROP, 2, progressive=True)


def test_a_progressive_stream_holds_the_same_payload(demo: glc.Codec, progressive: bytes) -> None:
    plain = demo.encode(_CROP, 2)
    info = inspect(progressive)
    assert (info.version, inspect(plain).version) == (2, 1)
    assert info.header_bytes == inspect(plain).header_bytes + 3
    assert progressive.endswith(plain[inspect(plain).header_bytes :])
    np.testing.assert_array_equal(demo.decode(progressive), demo.decode(plain))
    assert info.header.refinements is not None
    assert info.header.refinements.mask.bit_count() >= 3


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_no_byte_more_of_a_progressive_stream_shows_a_worse_image(engine: str, progressive: bytes) -> None:
    header_bytes = inspect(progressive).header_bytes
    refinements = inspect(progressive).header.refinements
    assert refinements is not None
    errors: list[float] = []
    shares: list[float] = []
    with glc.Codec.open(default_bundle(), engine=engine) as codec:
        preview = codec.preview(progressive)
        for length in range(header_bytes, len(progressive) + 1):
            try:
                partial = codec.decode_partial(progressive[:length])
            except TruncatedBitstream:
                assert not errors
                continue
            if length < len(progressive) and not refinements.reached(length - header_bytes):
                assert partial.symbols == 0
                np.testing.assert_array_equal(partial.image, preview)
            errors.append(float(np.square(partial.image.astype(np.float64) - _CROP).mean()))
            shares.append(partial.symbols)
    assert errors == sorted(errors, reverse=True)
    assert shares == sorted(shares)
    assert len(set(errors)) == refinements.mask.bit_count() + 2  # with the preview and the whole image
    assert shares[-1] == 1


def test_a_cut_progressive_stream_shows_just_what_its_last_refinement_shows(
    demo: glc.Codec, progressive: bytes
) -> None:
    info = inspect(progressive)
    payload = progressive[info.header_bytes :]
    plain = demo.encode(_CROP, 2)[: -len(payload)] + payload
    refinements = info.header.refinements
    assert refinements is not None
    for place in (refinements.reached(len(payload) - 1), refinements.reached(len(payload) * 2 // 3)):
        between = demo.decode_partial(progressive[: info.header_bytes + place + 1])
        at = demo.decode_partial(plain[: len(plain) - len(payload) + place])
        assert 0 < between.symbols == at.symbols < 1
        np.testing.assert_array_equal(between.image, at.image)


def test_a_cut_progressive_stream_is_truncated_where_none_is_allowed(demo: glc.Codec, progressive: bytes) -> None:
    with pytest.raises(TruncatedBitstream, match="allow_partial"):
        demo.decode(progressive[:-5])


def test_places_that_lie_about_the_z_indices_are_an_error_or_an_image(codec: glc.Codec) -> None:
    image = PHOTO[:70, :90]
    data = codec.encode(image, 1)
    info = inspect(data)
    payload = data[info.header_bytes :]
    header = Header(info.header.quality_units, 90, 70, Refinements(1, 0b1))
    lying = write_stream(header, payload, info.arithmetic, info.identity, "file")
    np.testing.assert_array_equal(codec.decode(lying), codec.decode(data))
    with pytest.raises(TruncatedBitstream):
        codec.decode_partial(lying[:-1])


def test_the_bare_form_is_never_progressive(codec: glc.Codec) -> None:
    with pytest.raises(ValueError, match="take form 'file'"):
        codec.encode(PHOTO, form="bare", progressive=True)


def test_a_batch_may_be_progressive(codec: glc.Codec) -> None:
    image = PHOTO[:20, :30]
    assert codec.encode_batch([image], progressive=True) == [codec.encode(image, progressive=True)]
