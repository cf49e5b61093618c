"""The container: its bytes, what it survives, and what it calls each kind of damage."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glc.errors import BitstreamError, BitstreamTooNew, CorruptBitstream, NotABitstream, TruncatedBitstream
from glc.runtime.bitstream import (
    MAX_SIDE,
    QUALITY_STEPS,
    Arithmetic,
    Form,
    Header,
    Refinements,
    StreamInfo,
    inspect,
    quality_units,
    read_stream,
    write_stream,
)

IDENTITY = bytes.fromhex("01020304")
PAYLOAD = bytes(range(40))


def crc16(data: bytes) -> bytes:
    """CRC-16/XMODEM bit by bit, as docs/bitstream.md has it."""
    value = 0
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x1021 if value & 0x8000 else value << 1) & 0xFFFF
    return value.to_bytes(2, "big")


def stream(
    width: int = 300, height: int = 200, units: int = 21, payload: bytes = PAYLOAD, form: Form = "file"
) -> bytes:
    return write_stream(Header(units, width, height), payload, Arithmetic.FLOAT_ONNXRUNTIME, IDENTITY, form)


def with_refinements(step_bytes: int, mask: int) -> bytes:
    return write_stream(
        Header(21, 300, 200, Refinements(step_bytes, mask)), PAYLOAD, Arithmetic.EXACT, IDENTITY, "file"
    )


def file_stream(fields: bytes, version: int = 1, arithmetic: int = 0) -> bytes:
    """A file-form stream with these bytes for quality, width and height, and the right checksum."""
    start = bytes((0x9E, 0x47, version << 4 | arithmetic)) + fields + IDENTITY
    return start + crc16(start + PAYLOAD) + PAYLOAD


# Bytes


def test_the_checksum_is_the_published_one() -> None:
    assert crc16(b"123456789").hex() == "31c3"  # the check value of CRC-16/XMODEM


@pytest.mark.parametrize(
    ("units", "width", "height", "arithmetic", "fields"),
    [
        (0, 1, 1, Arithmetic.EXACT, "9e4710 00 00 00"),
        (21, 128, 128, Arithmetic.EXACT, "9e4710 15 7f 7f"),
        (63, 129, 256, Arithmetic.FLOAT_ONNXRUNTIME, "9e4711 3f 8001 ff01"),
        (127, 1920, 1080, Arithmetic.FLOAT_OPENVINO, "9e4712 7f ff0e b708"),
        (128, 16384, 16385, Arithmetic.FLOAT_TENSORRT, "9e4713 8001 ff7f 808001"),
        (16383, 2**21, 2**24, Arithmetic.EXACT, "9e4710 ff7f ffff7f ffffff07"),
    ],
)
def test_a_header_has_these_bytes(units: int, width: int, height: int, arithmetic: Arithmetic, fields: str) -> None:
    header = Header(units, width, height)
    start = bytes.fromhex(fields) + IDENTITY
    assert write_stream(header, b"abc", arithmetic, IDENTITY, "file") == start + crc16(start + b"abc") + b"abc"
    assert write_stream(header, b"abc", arithmetic, IDENTITY, "bare") == start[3:-4] + b"abc"


def test_a_whole_stream_has_these_bytes() -> None:
    header = Header(21, 300, 200)
    data = write_stream(header, b"\x01\x02", Arithmetic.EXACT, IDENTITY, "file")
    assert data.hex(" ", 1) == "9e 47 10 15 ab 02 c7 01 01 02 03 04 cb 80 01 02"


@pytest.mark.parametrize(
    ("step_bytes", "mask", "fields"),
    [(1, 0, "01 0000"), (3, 0b101, "03 0005"), (127, 0xFFFF, "7f ffff"), (128, 0x8000, "8001 8000")],
)
def test_refinements_stand_behind_the_height_in_version_2(step_bytes: int, mask: int, fields: str) -> None:
    start = bytes.fromhex(f"9e4720 15 ab02 c701 {fields}") + IDENTITY
    assert with_refinements(step_bytes, mask) == start + crc16(start + PAYLOAD) + PAYLOAD


@pytest.mark.parametrize(("side", "file_bytes", "bare_bytes"), [(1, 12, 3), (128, 12, 3), (129, 14, 5), (16384, 14, 5)])
@pytest.mark.parametrize("units", [0, 63, 127])
def test_a_header_takes_12_or_14_bytes_and_3_or_5_bare(side: int, file_bytes: int, bare_bytes: int, units: int) -> None:
    assert len(stream(side, side, units, b"")) == file_bytes
    assert len(stream(side, side, units, b"", "bare")) == bare_bytes


def test_a_side_beyond_16384_pixels_takes_one_byte_more() -> None:
    assert len(stream(16385, 16384, payload=b"")) == 15
    assert len(stream(16384, 16385, payload=b"")) == 15


# Round trips


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    header=st.builds(
        Header,
        st.integers(0, 2**14 - 1),
        st.integers(1, MAX_SIDE),
        st.integers(1, MAX_SIDE),
        st.none() | st.builds(Refinements, st.integers(1, 2**28 - 1), st.integers(0, 2**16 - 1)),
    ),
    payload=st.binary(max_size=50),
    arithmetic=st.sampled_from(list(Arithmetic)),
    identity=st.binary(min_size=4, max_size=4),
    form=st.sampled_from(["file", "bare"]),
)
def test_a_stream_reads_back_as_it_was_written(
    header: Header, payload: bytes, arithmetic: Arithmetic, identity: bytes, form: Literal["file", "bare"]
) -> None:
    if form == "bare":
        header = dataclasses.replace(header, refinements=None)
    data = write_stream(header, payload, arithmetic, identity, form)
    info, found = read_stream(data, form)
    assert found == payload
    if form == "bare":
        arithmetic, identity = Arithmetic.EXACT, b""
    version = 1 if header.refinements is None else 2
    start_bytes = len(data) - len(payload)
    assert info == StreamInfo(form, version, arithmetic, header, identity, start_bytes, len(payload), True)


@pytest.mark.parametrize(
    ("refinements", "form", "message"),
    [
        (Refinements(0, 1), "file", "refinements must lie"),
        (Refinements(1 << 28, 1), "file", "refinements must lie"),
        (Refinements(1, -1), "file", "refinements must lie"),
        (Refinements(1, 1 << 16), "file", "refinements must lie"),
        (Refinements(1, 1), "bare", "bare form has no refinements"),
    ],
)
def test_refinements_that_the_format_cannot_state_are_not_written(
    refinements: Refinements, form: Form, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_stream(Header(21, 300, 200, refinements), PAYLOAD, Arithmetic.EXACT, IDENTITY, form)


@pytest.mark.parametrize(
    ("payload_bytes", "reached"),
    [(0, 0), (9, 0), (10, 10), (19, 10), (20, 10), (29, 10), (30, 30), (39, 30), (159, 30), (160, 160), (10**9, 160)],
)
def test_a_refinement_is_reached_when_all_its_bytes_are_there(payload_bytes: int, reached: int) -> None:
    assert Refinements(10, 0b1000_0000_0000_0101).reached(payload_bytes) == reached


def test_without_a_place_no_bytes_reach_a_refinement() -> None:
    assert Refinements(1, 0).reached(100) == 0


def test_the_form_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="form must be"):
        read_stream(stream(), "auto")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form must be"):
        stream(form="auto")  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (-1, 5), (MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)])
@pytest.mark.parametrize("form", ["file", "bare"])
def test_a_side_that_the_format_cannot_state_is_not_written(width: int, height: int, form: Form) -> None:
    with pytest.raises(ValueError, match="width and height"):
        stream(width, height, form=form)


def test_inspect_needs_nothing_but_the_data() -> None:
    data = stream(300, 200, 31)
    info = inspect(data)
    assert info == read_stream(data)[0]
    assert (info.header.width, info.header.height) == (300, 200)
    assert info.header.quality == pytest.approx(31 / 21)
    assert (info.arithmetic.engine, info.identity, info.version) == ("onnxruntime", IDENTITY, 1)
    assert (info.header_bytes, info.payload_bytes, info.intact) == (14, 40, True)
    assert info.bpp == pytest.approx(8 * 54 / 60_000)


def test_inspect_reads_the_bare_form() -> None:
    info = inspect(stream(form="bare"), form="bare")
    assert (info.form, info.header, info.header_bytes, info.payload_bytes) == ("bare", Header(21, 300, 200), 5, 40)
    assert info.arithmetic.engine is None


# Damage


def noticed(data: bytes) -> bool:
    """Whether a decoder would not take this stream for an intact one."""
    try:
        return not read_stream(data)[0].intact
    except BitstreamError:
        return True


@pytest.mark.parametrize("data", [stream(), with_refinements(3, 5)])
def test_every_flipped_bit_is_noticed(data: bytes) -> None:
    assert not noticed(data)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 0x80 >> bit % 8
        assert noticed(bytes(damaged)), f"bit {bit}"


def test_every_damaged_byte_of_the_payload_is_noticed() -> None:
    data = stream()
    for place in range(len(data) - len(PAYLOAD), len(data)):
        for change in range(1, 256):
            assert noticed(data[:place] + bytes((data[place] ^ change,)) + data[place + 1 :])


@pytest.mark.parametrize("data", [stream(), with_refinements(3, 5)])
def test_every_truncation_is_noticed(data: bytes) -> None:
    for length in range(len(data)):
        assert noticed(data[:length]), f"{length} bytes"


@pytest.mark.parametrize("more", [b"\0", b"\n", bytes(100), b"trailing"])
def test_bytes_that_were_appended_are_noticed(more: bytes) -> None:
    assert noticed(stream() + more)


def test_a_cut_payload_leaves_the_header_readable() -> None:
    info, payload = read_stream(stream()[:-10])
    assert (info.header, payload, info.intact) == (Header(21, 300, 200), PAYLOAD[:-10], False)


@pytest.mark.parametrize("data", [stream(payload=b""), with_refinements(3, 5)[: -len(PAYLOAD)]])
def test_a_header_cut_anywhere_is_truncated(data: bytes) -> None:
    for length in range(1, len(data)):
        with pytest.raises(TruncatedBitstream, match=f"after {length} bytes"):
            read_stream(data[:length])


def test_a_bare_header_cut_anywhere_is_truncated() -> None:
    data = stream(payload=b"", form="bare")
    for length in range(len(data)):
        with pytest.raises(TruncatedBitstream, match=f"after {length} bytes"):
            read_stream(data[:length], "bare")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello, this is text\n", id="text"),
        pytest.param(b"\n", id="a newline"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", id="PNG"),
        pytest.param(b"\xff\xd8\xff\xe0\0\x10JFIF\0", id="JPEG"),
        pytest.param(zlib.compress(b"text"), id="zlib"),
        pytest.param(b"\x9e\x46" + stream()[2:], id="second byte of the signature"),
        pytest.param(stream()[1:], id="first byte missing"),
        pytest.param(stream(form="bare"), id="bare form"),
    ],
)
def test_data_without_the_signature_is_not_a_bitstream(data: bytes) -> None:
    with pytest.raises(NotABitstream):
        read_stream(data)


@pytest.mark.parametrize("version", [3, 15])
@pytest.mark.parametrize("data", [file_stream(b"\x15\x00\x00"), file_stream(b"\xff" * 12), b"\x9eG\x10"])
def test_a_later_version_is_too_new_whatever_follows(version: int, data: bytes) -> None:
    with pytest.raises(BitstreamTooNew, match=f"version {version}"):
        read_stream(data[:2] + bytes((version << 4,)) + data[3:])


@pytest.mark.parametrize("arithmetic", range(4, 16))
def test_a_reserved_arithmetic_is_corrupt(arithmetic: int) -> None:
    with pytest.raises(CorruptBitstream, match=f"arithmetic {arithmetic}"):
        read_stream(file_stream(b"\x15\x00\x00", arithmetic=arithmetic))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("15 00 00 00 0001", "refinements 0 bytes apart"),
        ("15 00 00 8000 0001", "shortest form"),
        ("15 00 00 8080808001", "longer than 4 bytes"),
    ],
)
def test_impossible_refinements_are_corrupt(fields: str, message: str) -> None:
    with pytest.raises(CorruptBitstream, match=message):
        read_stream(file_stream(bytes.fromhex(fields), version=2))


def test_version_0_is_corrupt() -> None:
    with pytest.raises(CorruptBitstream, match="version 0"):
        read_stream(file_stream(b"\x15\x00\x00", version=0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param("8080808001 00 00", "longer than 4 bytes", id="quality of 5 bytes"),
        pytest.param("00 8080808001 00", "longer than 4 bytes", id="width of 5 bytes"),
        pytest.param("00 00 8080808001", "longer than 4 bytes", id="height of 5 bytes"),
        pytest.param("00 00 ffffffff", "longer than 4 bytes", id="height without an end"),
        pytest.param("9500 00 00", "shortest form", id="quality not shortest"),
        pytest.param("00 ffff00 00", "shortest form", id="width not shortest"),
        pytest.param("00 00 80808000", "shortest form", id="height not shortest"),
        pytest.param("00 8000 00", "shortest form", id="zero not shortest"),
        pytest.param("808001 00 00", "impossible header: quality 16384/21", id="quality of 2^14 units"),
        pytest.param("00 80808008 00", "impossible header.* 16777217x1 pixels", id="width of 2^24 + 1"),
        pytest.param("00 00 80808008", "impossible header.* 1x16777217 pixels", id="height of 2^24 + 1"),
        pytest.param("00 ffffff7f 00", "impossible header.* 268435456x1 pixels", id="largest varint"),
    ],
)
def test_an_impossible_field_is_corrupt_in_both_forms(fields: str, message: str) -> None:
    with pytest.raises(CorruptBitstream, match=message):
        read_stream(file_stream(bytes.fromhex(fields)))
    with pytest.raises(CorruptBitstream, match=message):
        read_stream(bytes.fromhex(fields) + PAYLOAD, "bare")


@settings(deadline=None, derandomize=True, max_examples=500)
@given(
    st.binary(max_size=30),
    st.sampled_from([b"", b"\x9eG", b"\x9eG\x10", b"\x9eG\x11", b"\x9eG\x20"]),
    st.sampled_from(["file", "bare"]),
)
def test_any_bytes_are_an_error_or_the_only_way_to_write_their_header(data: bytes, start: bytes, form: Form) -> None:
    data = start + data
    try:
        info, payload = read_stream(data, form)
    except BitstreamError:
        return
    fields = info.header_bytes - (2 if form == "file" else 0)
    assert write_stream(info.header, payload, info.arithmetic, info.identity, form)[:fields] == data[:fields]
    assert payload == data[info.header_bytes :]


# Quality


@pytest.mark.parametrize(
    ("quality", "units"), [(0, 0), (3, 63), (1, 21), (1.0, 21), (0.5 / 21 - 1e-9, 0), (0.5 / 21 + 1e-9, 1), (2.99, 63)]
)
def test_a_quality_is_rounded_to_the_nearest_step(quality: float, units: int) -> None:
    assert quality_units(quality, 4) == units


def test_every_published_quality_is_a_step() -> None:
    steps = [quality_units(3 * k / 63, 4) for k in range(64)]
    assert steps == list(range(64))
    assert [Header(step, 1, 1).quality for step in steps] == pytest.approx([3 * k / 63 for k in range(64)])


def test_a_single_quality_row_has_only_quality_0() -> None:
    assert quality_units(0, 1) == 0
    with pytest.raises(ValueError, match=r"0\.\.0"):
        quality_units(1 / QUALITY_STEPS, 1)


@pytest.mark.parametrize("quality", [float("nan"), float("inf"), -float("inf"), -1, -1e-9, 3.0001, 4, 1e300])
def test_a_quality_out_of_range_is_a_mistake_of_the_caller(quality: float) -> None:
    with pytest.raises(ValueError, match=r"quality must lie in 0\.\.3"):
        quality_units(quality, 4)
