"""Seeded damage to streams: what a cut download, a bad disk, or somebody who knows the format hands to a decoder."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tests.hostile.container import CELL, SIGNATURE, checksum, stated, varint

import glc
from glc.runtime.bitstream import Form
from glc.runtime.default_model import packaged_photos
from glc.runtime.images import read_image

MOST_BYTES = 150
"""Length of a mutated stream; it bounds the image that a payload can carry, and so the time that an answer takes."""

SEED_IMAGES = ((1, 1, 1), (17, 33, 0), (31, 33, 3), (32, 32, 2.5), (8, 96, 1), (64, 64, 0))
"""Height, width and quality of the images whose streams are mutated."""

Draw = random.Random
Mutation = Callable[[bytes, Form, Draw, Sequence[bytes]], bytes]

_NUMBERS = (0, 1, 20, 21, 63, 64, 127, 128, 11584, 11585, 16383, 16384, (1 << 21) - 1, 1 << 21)
_HUGE_NUMBERS = ((1 << 24) - 1, 1 << 24, (1 << 28) - 1, 1 << 28, (1 << 32) - 1, 1 << 35, 1 << 63, 1 << 70)


@dataclass(frozen=True, slots=True)
class Seed:
    """A valid stream."""

    data: bytes
    form: Form


@dataclass(frozen=True, slots=True)
class StreamCase:
    """Bytes, and what to do with them."""

    kind: str
    """Mutations in the order in which they were made."""
    data: bytes
    form: Form
    calls: tuple[str, ...]


def make_seeds(codec: glc.Codec) -> tuple[Seed, ...]:
    """Valid streams of small pieces of a photograph, each in both forms and with refinements."""
    photo = read_image(packaged_photos()[0], 1 << 27).pixels
    seeds = []
    for height, width, quality in SEED_IMAGES:
        image = np.ascontiguousarray(photo[100 : 100 + height, 200 : 200 + width])
        seeds += [Seed(codec.encode(image, quality, form="file"), "file")]
        seeds += [Seed(codec.encode(image, quality, progressive=True), "file")]
        seeds += [Seed(codec.encode(image, quality, form="bare"), "bare")]
    return tuple(seeds)


@dataclass(frozen=True, slots=True)
class MutatedStreams:
    """Case number -> case; the same for the same seed and streams."""

    seed: int
    seeds: tuple[Seed, ...]

    def __call__(self, number: int) -> StreamCase:
        """Make one case; it does not depend on the others."""
        draw = random.Random(f"stream {self.seed} {number}")
        form: Form = draw.choice(("file", "file", "file", "bare"))
        source = draw.choice([seed for seed in self.seeds if seed.form == form])
        others = [seed.data for seed in self.seeds if seed.form == source.form]
        data, names = source.data, []
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            name = draw.choice(_MOST_USED)
            data = MUTATIONS[name](data, source.form, draw, others)[:MOST_BYTES]
            names.append(name)
        if source.form == "bare":
            names.append("bare")
        elif draw.random() < 0.4:
            data = with_checksum(data)
            names.append("checksum")
        calls = ["inspect", "decode"]
        calls += [
            name
            for name, share in (("decode_partial", 0.12), ("preview", 0.12), ("allow_partial", 0.03), ("latent", 0.03))
            if draw.random() < share
        ]
        return StreamCase("+".join(names), data, source.form, tuple(calls))


@dataclass(frozen=True, slots=True)
class GivenStreams:
    """Streams as they are, to be run as cases."""

    seeds: tuple[Seed, ...]

    def __call__(self, number: int) -> StreamCase:
        """Decode one of them."""
        seed = self.seeds[number]
        return StreamCase("unchanged", seed.data, seed.form, ("inspect", "decode", "decode_partial", "preview"))


def with_checksum(data: bytes) -> bytes:
    """Make the checksum right, as a forger would, if the header can be read."""
    told = stated(data, "file")
    if told is None:
        return data
    return data[: told.payload_at - 2] + checksum(data, told.fields_end) + data[told.payload_at :]


def flip_bits(data: bytes, form: Form, draw: Draw, others: Sequence[bytes]) -> bytes:
    """Turn 1 to 9 bits over."""
    damaged = bytearray(data)
    for _ in range(min(draw.choice((1, 1, 1, 2, 9)), 8 * len(data))):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def change_bytes(data: bytes, form: Form, draw: Draw, others: Sequence[bytes]) -> bytes:
    """Put other bytes in a row."""
    at = draw.randrange(len(data) + 1)
    new = _some_bytes(draw, draw.choice((1, 2, 4, 16)))
    return data[:at] + new[: len(data) - at] + data[at + len(new) :]


def insert(data: bytes, form: Form, draw: Draw, others: Sequence[bytes]) -> bytes:
    """Put bytes between others, or behind them."""
    at = draw.choice((len(data), draw.randrange(len(data) + 1)))
    return data[:at] + _some_bytes(draw, draw.choice((1, 2, 3, 4, 7, 40))) + data[at:]


def delete(data: bytes, form: Form, draw: Draw, others: Sequence[bytes]) -> bytes:
    """Take bytes out."""
    at = draw.randrange(len(data) + 1)
    return data[:at] + data[at + draw.choice((1, 2, 3, 4, 9)) :]


def truncate(data: bytes, form: Form, draw: Draw, others: Sequence[bytes]) -> bytes:
    """Keep the front."""
    return data[: draw.randrange(len(data) + 1)]


def splice(data: bytes, form: Form, draw: Draw, others: Sequence[bytes]) -> bytes:
    """The front of one stream, the end of another."""
    other = draw.choice(others)
    at = draw.randrange(len(data) + 1)
    return data[:at] + other[draw.choice((at, draw.randrange(len(other) + 1))) :]


def rewrite_header(data: bytes, form: Form, draw: Draw, others: Sequence[bytes]) -> bytes:
    """State another quality and size: huge, impossible, badly written, or as large as the payload can just carry."""
    told = stated(data, form)
    if told is None:
        return flip_bits(data, form, draw, others)
    values = [told.quality_units, told.width - 1, told.height - 1]
    if draw.random() < 0.4:
        cells = int((len(data) - told.payload_at + 10) ** draw.random())
        rows = int(cells ** draw.random())
        columns = cells // rows
        sides = [columns * CELL - draw.randrange(CELL), rows * CELL - draw.randrange(CELL)]
        draw.shuffle(sides)
        values[1:] = [side - 1 for side in sides]
    else:
        for place in draw.sample(range(3), draw.choice((1, 2, 3))):
            values[place] = draw.choice((draw.choice(_NUMBERS), draw.choice(_HUGE_NUMBERS), draw.randrange(800)))
    fields = [varint(value) for value in values]
    if draw.random() < 0.1:
        place = draw.randrange(3)
        fields[place] = draw.choice((_longer_than_needed(fields[place]), b"\xff" * 5, b"\x80\x80\x80\x80\x01", b"\x80"))
    if form == "file" and data[2] >> 4 == 2:
        fields.append(varint(draw.choice((0, 1, draw.randrange(60), 1 << 28))) + draw.randbytes(2))  # refinements
    return data[: told.fields_at] + b"".join(fields) + data[told.fields_end :]


def replace_payload(data: bytes, form: Form, draw: Draw, others: Sequence[bytes]) -> bytes:
    """Random bits behind a header that is right."""
    told = stated(data, form)
    return data[: told.payload_at if told else 0] + _some_bytes(draw, draw.choice((0, 1, 8, 30, MOST_BYTES)))


def noise(data: bytes, form: Form, draw: Draw, others: Sequence[bytes]) -> bytes:
    """Random bytes that start like a stream."""
    start = draw.choice((b"", SIGNATURE, SIGNATURE + b"\x10", data[:3], data[: draw.randrange(12)]))
    return (start if form == "file" else b"") + draw.randbytes(draw.choice((0, 1, 5, 20, 100)))


MUTATIONS: dict[str, Mutation] = {
    "flip_bits": flip_bits,
    "change_bytes": change_bytes,
    "insert": insert,
    "delete": delete,
    "truncate": truncate,
    "splice": splice,
    "rewrite_header": rewrite_header,
    "replace_payload": replace_payload,
    "noise": noise,
}
# Names to draw from; what leads deep into the decoder comes twice.
_MOST_USED = (*MUTATIONS, "flip_bits", "change_bytes", "splice", "rewrite_header")


def _some_bytes(draw: Draw, count: int) -> bytes:
    return draw.choice((draw.randbytes(count), draw.randbytes(count), bytes(count), b"\xff" * count))


def _longer_than_needed(field: bytes) -> bytes:
    return field[:-1] + bytes((field[-1] | 0x80,)) + b"\0"
