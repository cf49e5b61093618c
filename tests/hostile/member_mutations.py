"""Seeded damage to what a bundle is made of: bytes, zip directories, arrays."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Draw = random.Random

_HEADERS = (
    *("", "(", "{'descr': '''", "{'a': [", "  x\n y\n  z", "(" * 9000, "-" * 9000 + "1", "{[]: 1}", "1" * 5000, "\\d"),
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 32L), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (4, 32), }",
)
_DTYPES = (
    "'|O'",
    "'V0'",
    "'f4,,'",
    "'(2,2'",
    "('f4',)",
    "('<f4', (2,))",
    "[('a', '|O')]",
    "'M8[x]'",
    "'a4'",
    "[]",
    "0",
)
_SHAPES = ("(9999999, 99999999)", "(-4, -32)", "(4, 10**9)", "()", "(True,)", "4", "(99999999999999999999,)", "(0, 32)")


def mutated_bytes(content: bytes, draw: Draw) -> bytes:
    """Damage, most of it near either end, where the structure of a file lies."""
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 30))):
        reach = min(len(damaged), draw.choice((300, 5000, len(damaged))))
        at = draw.choice((draw.randrange(reach), -1 - draw.randrange(reach)))
        damaged[at] = draw.choice((0, 255, draw.randrange(256), damaged[at] ^ 1 << draw.randrange(8)))
    action = draw.randrange(12)
    at = draw.randrange(len(damaged))
    if action == 0:
        del damaged[at : at + draw.choice((1, 2, 100))]
    elif action == 1:
        del damaged[at:]
    elif action == 2:
        damaged[at:at] = draw.randbytes(draw.choice((1, 2, 100)))
    return bytes(damaged)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in list(items):
        yield value, key
        if isinstance(member, (dict, list)):
            yield from places(member)


def damaged_directory(content: bytes, draw: Draw) -> bytes:
    """Change bytes of a zip's central directory and of what follows it."""
    damaged = bytearray(content)
    start = damaged.find(b"PK\1\2")
    for _ in range(draw.choice((1, 2, 8))):
        at = draw.randrange(start, len(damaged))
        damaged[at] = draw.choice((0, 255, draw.randrange(256), damaged[at] ^ 1 << draw.randrange(8)))
    return bytes(damaged)


def rewritten_directory(content: bytes, draw: Draw) -> bytes:
    """Put odd numbers into the fields of a zip: method, flags, sizes, offsets, lengths of names."""
    damaged = bytearray(content)
    start = damaged.find(b"PK\1\2")
    entries = [at for at in range(start, len(damaged)) if damaged[at : at + 4] == b"PK\1\2"]
    end = damaged.rfind(b"PK\5\6")
    for _ in range(draw.choice((1, 1, 2))):
        entry = draw.choice(entries)
        short: dict[int, tuple[int, ...]] = {
            entry + 6: (0, 45, 63, 255),
            entry + 8: (1, 8, 32, 64, 2048, 8192, 65535),
            entry + 10: (1, 8, 9, 12, 14, 93, 95, 99, 65535),
            entry + 28: (0, 1, 65535),
            entry + 30: (4, 20, 65535),
            entry + 32: (1, 65535),
            end + 8: (0, 1, 65535),
            end + 10: (0, 1, 65535),
            end + 20: (1, 65535),
        }
        long = (entry + 16, entry + 20, entry + 24, entry + 42, end + 12, end + 16)
        at = draw.choice((*short, *long))
        if at in short:
            struct.pack_into("<H", damaged, at, draw.choice(short[at]))
        else:
            was = struct.unpack_from("<I", damaged, at)[0]
            values = (0, 1, was ^ 1, was + 1, max(was - 1, 0), 1 << 20, (1 << 31) - 1, (1 << 32) - 1)
            struct.pack_into("<I", damaged, at, draw.choice(values) & 0xFFFFFFFF)
    return bytes(damaged)


def mutated_arrays(content: bytes, draw: Draw) -> tuple[str, bytes]:
    """Change an NPZ file: its bytes, the header of an array, or its values."""
    how: Callable[[bytes, Draw], bytes] = draw.choice((mutated_bytes, _changed_header, _changed_header, _changed_array))
    return how.__name__.lstrip("_"), how(content, draw)


def with_array(content: bytes, name: str, like: str) -> bytes:
    """An NPZ file with another array of the same values as one that it has."""
    arrays = _members(content)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in (*arrays.items(), (f"{name}.npy", arrays[f"{like}.npy"])):
            archive.writestr(zipfile.ZipInfo(member), data)
    return buffer.getvalue()


def _changed_header(content: bytes, draw: Draw) -> bytes:
    arrays = _members(content)
    name = draw.choice(list(arrays))
    length = int.from_bytes(arrays[name][8:10], "little")
    header, data = arrays[name][10 : 10 + length].decode(), arrays[name][10 + length :]
    was = eval(header)  # our own file
    shape, kind = repr(was["shape"]), repr(was["descr"])
    header = draw.choice(
        (
            draw.choice(_HEADERS),
            header.replace(shape, draw.choice(_SHAPES)),
            header.replace(kind, draw.choice(_DTYPES)),
            mutated_bytes(header.encode(), draw).decode("latin-1"),
        )
    )
    encoded = header.encode("latin-1")
    version = draw.choice((1, 1, 1, 2, 3, 9))
    arrays[name] = b"\x93NUMPY" + bytes((version, 0)) + len(encoded).to_bytes(2, "little") + encoded + data
    return _packed(arrays, draw)


def _changed_array(content: bytes, draw: Draw) -> bytes:
    with np.load(io.BytesIO(content)) as archive:
        arrays: dict[str, Any] = dict(archive)
    name = draw.choice(list(arrays))
    array = arrays[name]
    limits = (0, 1, -1, 2**31 - 1, -(2**31)) if array.dtype.kind == "i" else (0, 1, 255)
    values = limits if array.dtype.kind in "iu" else (0.0, -1.0, 1e38, -3e38, 1e-45, float("nan"), float("inf"))
    action = draw.randrange(7)
    if action < 2:
        flat = array.reshape(-1)
        for _ in range(draw.choice((1, 1, 2))):
            at = draw.randrange(array.size)
            flat[at : at + draw.choice((1, 1, 32, array.size))] = draw.choice(values)
    elif action == 2:
        axis = draw.randrange(array.ndim)
        arrays[name] = np.take(array, range(draw.choice((0, 1, array.shape[axis] // 2))), axis)
    elif action == 3:
        arrays[name] = np.concatenate([array] * draw.choice((2, 3)), draw.randrange(array.ndim))
    elif action == 4:
        arrays[name] = array.astype(draw.choice(("f8", ">f4", "i8", "u1", "S4", "f4")))
    elif action == 5:
        arrays[name] = array.reshape((*array.shape, 1)) if draw.random() < 0.5 else array.reshape(-1)
    else:
        del arrays[name]
    return _packed({f"{name}.npy": _npy(array) for name, array in arrays.items()}, draw)


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _packed(members: dict[str, bytes], draw: Draw) -> bytes:
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    method = draw.choices(methods, (6, 6, 1, 1))[0]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()
