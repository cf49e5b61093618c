"""The container of a payload: header, checksum, and what can be told from them (docs/bitstream.md).

    file form   signature 2 | version, arithmetic 1 | quality | width - 1 | height - 1 | identity 4 | CRC-16 2 | payload
    bare form                                         quality | width - 1 | height - 1 |                       | payload

Quality, width and height are LEB128 varints. Version 2 has refinements behind them: a varint and a mask of 2 bytes.
"""

from __future__ import annotations

import binascii
import enum
from dataclasses import dataclass, replace
from typing import Literal

from glc.errors import BitstreamTooNew, CorruptBitstream, NotABitstream, TruncatedBitstream

SIGNATURE = b"\x9eG"
"""First two bytes of a file; no text starts with the first."""

VERSION = 2
"""Latest version of the format, 1 to 15. Streams without refinements are still of version 1."""

QUALITY_STEPS = 21
"""Steps of quality between two rows of q_enc; the authors' 64 qualities over four rows are all among them."""

IDENTITY_BYTES = 4

MAX_SIDE = 1 << 24
"""Longest width or height that the format can state, in pixels."""

MAX_REFINEMENTS = 16
"""Refinements that a header can state."""

_MAX_QUALITY_UNITS = 1 << 14
_MAX_STEP_BYTES = 1 << 28
_MASK_BYTES = MAX_REFINEMENTS // 8

Form = Literal["file", "bare"]
"""`file`: with signature, identity and checksum. `bare`: without, for use inside another container."""


class Arithmetic(enum.IntEnum):
    """How the prior networks computed, and for float arithmetic which engine did."""

    EXACT = 0
    FLOAT_ONNXRUNTIME = 1
    FLOAT_OPENVINO = 2
    FLOAT_TENSORRT = 3

    @property
    def engine(self) -> str | None:
        """Name of the engine that a float stream is bound to; None for exact arithmetic."""
        return None if self is Arithmetic.EXACT else self.name.removeprefix("FLOAT_").lower()


@dataclass(frozen=True, slots=True)
class Refinements:
    """Where a cut stream may show more: an encoder that has the image knows after which bytes it is better."""

    step_bytes: int
    """Bytes of payload from one place to the next."""
    mask: int
    """Bit k - 1 is set where the first k * step_bytes bytes of payload show more than all places before."""

    def reached(self, payload_bytes: int) -> int:
        """The last place, in bytes of payload, that so many bytes reach; 0 where they reach none."""
        places = min(payload_bytes // self.step_bytes, MAX_REFINEMENTS)
        return (self.mask & ((1 << places) - 1)).bit_length() * self.step_bytes


@dataclass(frozen=True, slots=True)
class Header:
    """What a decoder must know before it reads the payload."""

    quality_units: int
    """Quality in units of 1/21 row."""
    width: int
    """Width of the image in pixels."""
    height: int
    """Height of the image in pixels."""
    refinements: Refinements | None = None
    """None where a cut stream shows every symbol as soon as it is certain."""

    @property
    def quality(self) -> float:
        """Quality as a position along the rows of q_enc."""
        return self.quality_units / QUALITY_STEPS


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a bitstream tells of itself without a bundle."""

    form: Form
    version: int
    """Version of the format."""
    arithmetic: Arithmetic
    """Arithmetic of the prior networks; `EXACT` in the bare form, which does not state it."""
    header: Header
    identity: bytes
    """4 bytes that name the model, and in float arithmetic the engine; empty in the bare form."""
    header_bytes: int
    payload_bytes: int
    intact: bool
    """Whether the checksum matches; true in the bare form, which has none."""

    @property
    def bpp(self) -> float:
        """Bits per pixel of the whole stream."""
        return 8 * (self.header_bytes + self.payload_bytes) / (self.header.width * self.header.height)


def quality_units(quality: float, qualities: int) -> int:
    """Round a quality to the nearest step that the format can state.

    Args:
        quality: 0..qualities - 1.
        qualities: Q, rows of q_enc.

    Raises:
        ValueError: out of range or not a number.
    """
    if not 0 <= quality <= qualities - 1:
        raise ValueError(f"quality must lie in 0..{qualities - 1}; got {quality}")
    return round(quality * QUALITY_STEPS)


def write_stream(header: Header, payload: bytes, arithmetic: Arithmetic, identity: bytes, form: Form) -> bytes:
    """Put a payload into its container.

    Raises:
        ValueError: a side is not in 1..2^24, or quality, refinements, identity or form is none, or the bare form is to
            have refinements.
    """
    if not (1 <= header.width <= MAX_SIDE and 1 <= header.height <= MAX_SIDE):
        raise ValueError(f"width and height must lie in 1..{MAX_SIDE}; got {header.width}x{header.height}")
    if not 0 <= header.quality_units < _MAX_QUALITY_UNITS:
        raise ValueError(f"quality units must lie in 0..{_MAX_QUALITY_UNITS - 1}; got {header.quality_units}")
    fields = b"".join(map(_varint, (header.quality_units, header.width - 1, header.height - 1)))
    version, more = _refinement_fields(header.refinements)
    if form == "bare":
        if more:
            raise ValueError("the bare form has no refinements: take form 'file'")
        return fields + payload
    if form != "file":
        raise ValueError(f"form must be 'file' or 'bare'; got {form!r}")
    if len(identity) != IDENTITY_BYTES:
        raise ValueError(f"identity must have {IDENTITY_BYTES} bytes; got {len(identity)}")
    start = SIGNATURE + bytes((version << 4 | arithmetic,)) + fields + more + identity
    return start + _checksum(start, payload) + payload


def read_stream(data: bytes, form: Form = "file") -> tuple[StreamInfo, bytes]:
    """Take a container apart; the caller decides what a wrong checksum means.

    Returns:
        What the stream tells of itself, and the payload.

    Raises:
        NotABitstream: the signature is missing.
        BitstreamTooNew: a later version of the format.
        TruncatedBitstream: the header is cut.
        CorruptBitstream: a field holds an impossible value.
        ValueError: the form is unknown.
    """
    if form == "bare":
        header, start = _read_fields(data, 0)
        return StreamInfo("bare", 1, Arithmetic.EXACT, header, b"", start, len(data) - start, True), data[start:]
    if form != "file":
        raise ValueError(f"form must be 'file' or 'bare'; got {form!r}")
    if not data:
        raise NotABitstream("the bitstream is empty")
    if data[:2] != SIGNATURE[: len(data[:2])]:
        raise NotABitstream(f"not a GLC bitstream: it starts with {data[:2].hex()}, expected {SIGNATURE.hex()}")
    if len(data) < 3:
        raise _cut(data)
    version, code = data[2] >> 4, data[2] & 15
    if version > VERSION:
        raise BitstreamTooNew(f"bitstream version {version}; this software reads up to {VERSION}: upgrade glc-deploy")
    if version < 1 or code not in list(Arithmetic):
        raise CorruptBitstream(f"no version {version} with arithmetic {code} is defined")
    header, end = _read_fields(data, 3)
    if version > 1:
        header, end = _read_refinements(data, end, header)
    start = end + IDENTITY_BYTES + 2
    if len(data) < start:
        raise _cut(data)
    payload = data[start:]
    checksum = _checksum(data[: end + IDENTITY_BYTES], payload)
    info = StreamInfo(
        form="file",
        version=version,
        arithmetic=Arithmetic(code),
        header=header,
        identity=data[end : end + IDENTITY_BYTES],
        header_bytes=start,
        payload_bytes=len(payload),
        intact=checksum == data[start - 2 : start],
    )
    return info, payload


def inspect(data: bytes, form: Form = "file") -> StreamInfo:
    """Tell what a bitstream is; needs no bundle. Raises what `read_stream` raises."""
    return read_stream(as_bytes(data), form)[0]


def as_bytes(data: bytes) -> bytes:
    """Copy any buffer; bytes(5) would be five zeros.

    Raises:
        TypeError: not a buffer.
    """
    return bytes(memoryview(data))


def _checksum(start: bytes, payload: bytes) -> bytes:
    """CRC-16/XMODEM (polynomial 0x1021, initial value 0) of all other bytes, big-endian."""
    return binascii.crc_hqx(payload, binascii.crc_hqx(start, 0)).to_bytes(2, "big")


def _varint(value: int) -> bytes:
    groups = []
    while True:
        value, low = value >> 7, value & 0x7F
        groups.append(low | (0x80 if value else 0))
        if not value:
            return bytes(groups)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 28, 7):
        if position >= len(data):
            raise _cut(data)
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise CorruptBitstream("a header field is not in its shortest form")
            return value, position
    raise CorruptBitstream("a header field is longer than 4 bytes")


def _read_fields(data: bytes, position: int) -> tuple[Header, int]:
    units, position = _read_varint(data, position)
    width, position = _read_varint(data, position)
    height, position = _read_varint(data, position)
    if units >= _MAX_QUALITY_UNITS or width >= MAX_SIDE or height >= MAX_SIDE:
        raise CorruptBitstream(f"impossible header: quality {units}/{QUALITY_STEPS}, {width + 1}x{height + 1} pixels")
    return Header(units, width + 1, height + 1), position


def _refinement_fields(refinements: Refinements | None) -> tuple[int, bytes]:
    """Version of the format, and what its header has beside that of version 1."""
    if refinements is None:
        return 1, b""
    if not (1 <= refinements.step_bytes < _MAX_STEP_BYTES and 0 <= refinements.mask < 1 << MAX_REFINEMENTS):
        raise ValueError(
            f"refinements must lie 1..{_MAX_STEP_BYTES - 1} bytes apart, at most {MAX_REFINEMENTS}; got {refinements}"
        )
    return 2, _varint(refinements.step_bytes) + refinements.mask.to_bytes(_MASK_BYTES, "big")


def _read_refinements(data: bytes, position: int, header: Header) -> tuple[Header, int]:
    step_bytes, position = _read_varint(data, position)
    if step_bytes < 1:
        raise CorruptBitstream("impossible header: refinements 0 bytes apart")
    end = position + _MASK_BYTES
    if len(data) < end:
        raise _cut(data)
    mask = int.from_bytes(data[position:end], "big")
    return replace(header, refinements=Refinements(step_bytes, mask)), end


def _cut(data: bytes) -> TruncatedBitstream:
    return TruncatedBitstream(f"the bitstream ends inside its header, after {len(data)} bytes")
