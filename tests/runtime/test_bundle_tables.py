"""Tables that match their hash and are still no tables, bombs among them, are refused and take no memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.bundle_files import LITTLE_MEMORY, Arrays, npz, put_tables, refusal, table_arrays

from glc.errors import (
    BundleInvalid,
)


def _without(name: str) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        del arrays[name]

    return change


def _with(name: str, make: Callable[[Any], Any]) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = make(arrays[name])

    return change


def _first(value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array.flat[0] = value
        return array

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(
            pytest.param(_without(name), id=f"no {name}")
            for name in ("q_enc", "q_dec", "scale_reach", "scale_frequencies")
        ),
        pytest.param(_with("q_enc", _first(np.nan)), id="q_enc holds NaN"),
        pytest.param(_with("q_dec", _first(np.inf)), id="q_dec holds infinity"),
        pytest.param(_with("q_enc", lambda a: a[:-1]), id="a quality is missing"),
        pytest.param(_with("q_enc", lambda a: a[:, :-1]), id="a channel is missing"),
        pytest.param(_with("q_enc", lambda a: a[None]), id="q_enc of three axes"),
        pytest.param(_with("q_dec", lambda a: a.astype(np.float64)), id="q_dec in float64"),
        pytest.param(_with("q_dec", lambda a: a.astype(">f4")), id="q_dec big-endian"),
        pytest.param(_with("q_dec", lambda a: a.astype("S4")), id="q_dec is text"),
        pytest.param(_with("q_enc", lambda a: a.astype(object)), id="q_enc pickled"),
        pytest.param(_with("scale_reach", lambda a: a.astype(object)), id="scale_reach pickled"),
        pytest.param(_with("scale_reach", lambda a: a.astype(np.int64)), id="scale_reach in int64"),
        pytest.param(_with("scale_reach", lambda a: a[:0]), id="no scales"),
        pytest.param(_with("scale_reach", lambda a: a[:-1]), id="a scale is missing"),
        pytest.param(_with("scale_reach", lambda a: np.concatenate([a] * 3)), id="more than 256 scales"),
        pytest.param(_with("scale_reach", _first(-1)), id="negative reach"),
        pytest.param(_with("scale_reach", _first(0)), id="reach of zero"),
        pytest.param(_with("scale_reach", _first(2**31 - 1)), id="reach beyond the table"),
        pytest.param(_with("scale_reach", lambda a: np.full_like(a, 2**31 - 1)), id="every reach beyond the table"),
        pytest.param(_with("scale_frequencies", _first(0)), id="a frequency of zero"),
        pytest.param(_with("scale_frequencies", _first(-5)), id="a negative frequency"),
        pytest.param(_with("scale_frequencies", _first(12345)), id="frequencies that do not add up"),
        pytest.param(_with("scale_frequencies", lambda a: a[:-1]), id="a frequency is missing"),
        pytest.param(_with("scale_frequencies", lambda a: a.astype(np.float32)), id="frequencies in float32"),
    ],
)
def test_tables_that_are_none_are_refused(change: Callable[[Arrays], None], slim: Path) -> None:
    arrays = table_arrays(slim)
    change(arrays)
    put_tables(slim, npz(arrays))
    refusal(slim, BundleInvalid, str(slim), "tables.npz")


def _bomb(arrays: Arrays) -> bytes:
    """Small, but more than 64 MiB once unpacked."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, filler=np.zeros(65 << 20, np.uint8))
    return buffer.getvalue()


def _hidden_bomb(arrays: Arrays) -> bytes:
    """The directory at the end of the zip states another size than that of the packed data."""
    data = bytearray(_bomb(arrays))
    end = data.rindex(b"PK\5\6")
    at = struct.unpack_from("<I", data, end + 16)[0]
    while data[at : at + 4] == b"PK\1\2":
        struct.pack_into("<I", data, at + 24, 64)
        at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    return bytes(data)


def _claim(shape: str) -> Callable[[Arrays], bytes]:
    """q_enc says that it has another shape."""

    def make(arrays: Arrays) -> bytes:
        was, now = b"'shape': (4, 32), }", f"'shape': {shape}, }}".encode()
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(npz(arrays))) as source, zipfile.ZipFile(buffer, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if name == "q_enc.npy":
                    assert was in content
                    content = content.replace(was + b" " * (len(now) - len(was)), now)
                target.writestr(name, content)
        return buffer.getvalue()

    return make


def _header(text: str) -> Callable[[Arrays], bytes]:
    """q_enc has another header."""

    def make(arrays: Arrays) -> bytes:
        buffer, encoded = io.BytesIO(), text.encode("latin-1")
        with zipfile.ZipFile(io.BytesIO(npz(arrays))) as source, zipfile.ZipFile(buffer, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if name == "q_enc.npy":
                    content = content[:8] + len(encoded).to_bytes(2, "little") + encoded + content[128:]
                target.writestr(name, content)
        return buffer.getvalue()

    return make


def _packed_by(compression: int) -> Callable[[Arrays], bytes]:
    """Valid arrays in a zip of another compression."""

    def make(arrays: Arrays) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(npz(arrays))) as source, zipfile.ZipFile(buffer, "w", compression) as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))
        return buffer.getvalue()

    return make


def _damaged_deflate(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    data = bytearray(buffer.getvalue())
    start = 30 + sum(struct.unpack_from("<HH", data, 26))
    data[start : start + 20] = b"\xff" * 20
    return bytes(data)


def _encrypted(arrays: Arrays) -> bytes:
    data = bytearray(npz(arrays))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    return bytes(data)


def _other_method(arrays: Arrays) -> bytes:
    data = bytearray(npz(arrays))
    data[8] = 99
    data[data.index(b"PK\1\2") + 10] = 99
    return bytes(data)


def _bare_array(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, arrays["q_enc"])
    return buffer.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda arrays: b"no zip", id="text"),
        pytest.param(lambda arrays: npz(arrays)[:-100], id="truncated zip"),
        pytest.param(_bare_array, id="one array without a zip"),
        pytest.param(_bomb, id="zip bomb"),
        pytest.param(_hidden_bomb, id="zip bomb that understates its size"),
        pytest.param(_claim("(9999999, 99999999)"), id="an array that claims petabytes"),
        pytest.param(_claim("(4, 250000000)"), id="an array that claims gigabytes"),
        pytest.param(_claim("(4, 99999999999999999999)"), id="an array that claims more than 64 bits"),
        pytest.param(_claim("(-4, -32)"), id="an array of negative shape"),
        pytest.param(_claim("open('x', 'w')"), id="an array whose shape is code"),
        *(
            pytest.param(_header(text), id=f"header {text[:12]!r}")
            for text in (
                "",
                "{'descr': '''",
                "{'a': [",
                "  x\n y\n  z",
                "-" * 9000 + "1",
                "{[]: 1}",
                "1" * 5000,
                "{'descr': ('f4',), 'fortran_order': False, 'shape': (4, 32), }",
                "{'descr': 'f4,,', 'fortran_order': False, 'shape': (4, 32), }",
            )
        ),
        pytest.param(_packed_by(zipfile.ZIP_BZIP2), id="bzip2"),
        pytest.param(_packed_by(zipfile.ZIP_LZMA), id="lzma"),
        pytest.param(_damaged_deflate, id="damaged compressed data"),
        pytest.param(_encrypted, id="encrypted"),
        pytest.param(_other_method, id="unknown compression"),
    ],
)
def test_a_hostile_npz_is_refused_and_takes_no_memory(make: Callable[[Arrays], bytes], slim: Path) -> None:
    content = make(table_arrays(slim))
    assert len(content) < 1 << 20
    put_tables(slim, content)
    tracemalloc.start()
    try:
        refusal(slim, BundleInvalid, str(slim), "tables.npz")
        assert tracemalloc.get_traced_memory()[1] < LITTLE_MEMORY
    finally:
        tracemalloc.stop()


def test_tables_beyond_the_limit_are_refused_unread(slim: Path) -> None:
    put_tables(slim, bytes(65 << 20))
    refusal(slim, BundleInvalid, str(slim), "tables.npz", "larger")


def test_pickled_objects_are_never_run(slim: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    arrays = table_arrays(slim)
    arrays["q_enc"] = np.array([_Trap(trap)], object)
    put_tables(slim, npz(arrays))
    refusal(slim, BundleInvalid, "tables.npz")
    assert not trap.exists()


class _Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._path,)
