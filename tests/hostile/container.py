"""What a stream says of itself, read as docs/bitstream.md says and without the runtime: the judge of its answers."""

from __future__ import annotations

from dataclasses import dataclass

from glc.runtime.bitstream import Form

SIGNATURE = b"\x9e\x47"
CELL = 32
"""Pixels along each axis for one z index: four times the demonstration model's downsampling."""


@dataclass(frozen=True, slots=True)
class Stated:
    """Header of a stream that can be read."""

    quality_units: int
    width: int
    height: int
    fields_at: int
    """Where quality, width and height start."""
    fields_end: int
    """Where they end, and in version 2 the refinements behind them."""
    payload_at: int
    intact: bool
    """Whether the checksum matches; true in the bare form."""

    @property
    def cells(self) -> int:
        """Z indices of the image."""
        return -(-self.width // CELL) * -(-self.height // CELL)


def stated(data: bytes, form: Form) -> Stated | None:
    """Read a header; None where the format allows none of this kind."""
    fields_at = 0
    if form == "file":
        if len(data) < 3 or data[:2] != SIGNATURE or data[2] >> 4 not in (1, 2) or data[2] & 15 > 3:
            return None
        fields_at = 3
    values: list[int] = []
    end = fields_at
    has_refinements = form == "file" and data[2] >> 4 == 2
    for limit in (1 << 14, 1 << 24, 1 << 24, *([1 << 28] if has_refinements else [])):
        groups = 1
        while groups <= 4 and data[end + groups - 1 : end + groups] >= b"\x80":
            groups += 1
        field = data[end : end + groups]
        if groups > 4 or len(field) < groups or (groups > 1 and field[-1] == 0):
            return None
        values.append(sum((byte & 0x7F) << 7 * place for place, byte in enumerate(field)))
        if values[-1] >= limit:
            return None
        end += groups
    if has_refinements:
        if values[3] == 0:
            return None
        end += 2
    payload_at = end + (6 if form == "file" else 0)
    if len(data) < payload_at:
        return None
    intact = form == "bare" or checksum(data, end) == data[end + 4 : end + 6]
    return Stated(values[0], values[1] + 1, values[2] + 1, fields_at, end, payload_at, intact)


def varint(value: int) -> bytes:
    """LEB128 in the shortest form, of any length."""
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*groups, value))


def checksum(data: bytes, fields_end: int) -> bytes:
    """The right checksum of a file, whatever it holds now."""
    remainder = 0
    for byte in data[: fields_end + 4] + data[fields_end + 6 :]:
        remainder = (remainder << 8 & 0xFFFF) ^ _CRC[remainder >> 8 ^ byte]
    return remainder.to_bytes(2, "big")


def _crc_of_byte(byte: int) -> int:
    remainder = byte << 8
    for _ in range(8):
        remainder = remainder << 1 ^ (0x1021 if remainder & 0x8000 else 0)
    return remainder & 0xFFFF


_CRC = [_crc_of_byte(byte) for byte in range(256)]
