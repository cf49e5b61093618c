"""Bundles that are whole read back; missing, altered and hostile ones are refused by name and take no memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import load_image

import glc
from glc.errors import (
    BundleAltered,
    BundleError,
    BundleInvalid,
    BundleNotFound,
    BundleTooNew,
    EngineError,
    GlcError,
)
from glc.runtime.bundle import Bundle
from glc.runtime.manifest import Manifest

GRAPH = "graphs/synthesis.onnx"
LITTLE_MEMORY = 40 << 20
"""Bytes; room for reading a manifest of the largest size, none for unpacking a bomb."""

Arrays = dict[str, Any]


@pytest.fixture
def bundle(mini_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the mini bundle, to be changed."""
    return shutil.copytree(mini_bundle, tmp_path / "copy.glcb")


@pytest.fixture
def slim(mini_bundle: Path, tmp_path: Path) -> Path:
    """The mini bundle without its graphs: enough to open a codec."""
    path = tmp_path / "slim.glcb"
    path.mkdir()
    for name in ("manifest.json", "tables.npz"):
        shutil.copy(mini_bundle / name, path / name)
    return path


def _zipped(bundle: Path, path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(bundle.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(bundle).as_posix())
    return path


def _edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    change(document)
    (bundle / "manifest.json").write_text(json.dumps(document))


def _put_tables(bundle: Path, content: bytes) -> None:
    """Replace tables.npz as someone would who also writes the manifest."""
    (bundle / "tables.npz").write_bytes(content)
    entry = {"name": "tables.npz", "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    _edit(bundle, lambda document: document.update(tables=entry))


def _arrays(bundle: Path) -> Arrays:
    with np.load(bundle / "tables.npz") as arrays:
        return dict(arrays)


def _npz(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _refusal(path: Path, kind: type[GlcError], *mentioned: str) -> None:
    """Opening a codec raises this and nothing else, in one short line that names what is wrong."""
    with pytest.raises(GlcError) as caught:
        glc.Codec.open(path)
    assert caught.type is kind
    message = str(caught.value)
    for text in mentioned:
        assert text in message
    assert message.isprintable()
    assert len(message) < 1000


# Reading


def test_every_file_of_a_fresh_bundle_is_as_the_manifest_says(mini_bundle: Path) -> None:
    opened = Bundle.open(mini_bundle)
    on_disk = sum(path.stat().st_size for path in mini_bundle.rglob("*") if path.is_file())
    assert opened.verify() == on_disk - (mini_bundle / "manifest.json").stat().st_size
    assert opened.manifest == Manifest.from_json((mini_bundle / "manifest.json").read_text())
    assert opened.graph("synthesis")[1] == (mini_bundle / GRAPH).read_bytes()


def test_tables_are_those_of_the_model(mini_bundle: Path) -> None:
    tables = Bundle.open(mini_bundle).tables()
    assert tables.q_enc.shape == tables.q_dec.shape == (4, 32)
    assert tables.q_enc.dtype == tables.q_dec.dtype == np.float32
    assert len(tables.scales.frequencies) == 128


@pytest.mark.parametrize("as_text", [False, True], ids=["Path", "str"])
def test_a_path_may_be_of_either_type(as_text: bool, mini_bundle: Path) -> None:
    assert Bundle.open(str(mini_bundle) if as_text else mini_bundle).path == mini_bundle


def test_a_zip_is_the_same_bundle_as_its_directory(mini_bundle: Path, codec: glc.Codec, tmp_path: Path) -> None:
    zipped = _zipped(mini_bundle, tmp_path / "mini.zip.glcb")
    assert Bundle.open(zipped).verify() == Bundle.open(mini_bundle).verify()
    image = load_image("coffee_200x300.png")
    data = codec.encode(image, 1)
    with glc.Codec.open(zipped, threads=2) as other:
        assert other.encode(image, 1) == data
        np.testing.assert_array_equal(other.decode(data), codec.decode(data))


def test_files_that_the_manifest_does_not_name_are_ignored(slim: Path) -> None:
    (slim / "README.txt").write_text("notes")
    (slim / ".hidden").mkdir()
    glc.Codec.open(slim)


def test_opening_reads_no_graph(slim: Path) -> None:
    glc.Codec.open(slim)
    with pytest.raises(BundleAltered, match=r"graphs/analysis\.onnx is missing"):
        Bundle.open(slim).verify()


# What is no bundle


def _nothing(path: Path) -> None:
    pass


def _folder(path: Path) -> None:
    path.mkdir()


def _other_folder(path: Path) -> None:
    path.mkdir()
    (path / "model.pth").write_bytes(b"weights")


def _folder_with_folder(path: Path) -> None:
    (path / "manifest.json").mkdir(parents=True)


def _noise(path: Path) -> None:
    path.write_bytes(np.random.RandomState(0).bytes(10_000))


def _empty_zip(path: Path) -> None:
    zipfile.ZipFile(path, "w").close()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(_nothing, BundleNotFound, id="nothing"),
        pytest.param(_folder, BundleInvalid, id="empty directory"),
        pytest.param(_other_folder, BundleInvalid, id="directory without manifest"),
        pytest.param(_folder_with_folder, BundleInvalid, id="manifest.json is a directory"),
        pytest.param(Path.touch, BundleInvalid, id="empty file"),
        pytest.param(_noise, BundleInvalid, id="random bytes"),
        pytest.param(_empty_zip, BundleInvalid, id="zip without manifest"),
    ],
)
def test_what_is_no_bundle_is_refused_by_name(
    make: Callable[[Path], None], kind: type[BundleError], tmp_path: Path
) -> None:
    path = tmp_path / "model.glcb"
    make(path)
    _refusal(path, kind, str(path))


@pytest.mark.parametrize("name", ["n" * 300, "file/below"], ids=["too long", "below a file"])
def test_a_path_that_cannot_exist_is_not_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _refusal(tmp_path / name, BundleNotFound, name)


def test_without_a_path_the_embedded_demonstration_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLC_BUNDLE", raising=False)
    with glc.Codec.open() as codec:
        assert codec.bundle.manifest.label.startswith("demonstration")


# Manifests; tests/runtime/test_manifest.py has the many ways in which one can be malformed


def test_a_malformed_manifest_is_refused_with_the_bundles_path(slim: Path) -> None:
    (slim / "manifest.json").write_text("{}")
    _refusal(slim, BundleInvalid, str(slim), "manifest.json")


def test_a_later_schema_is_refused_with_the_bundles_path(slim: Path) -> None:
    _edit(slim, lambda document: document.update(schema=2))
    _refusal(slim, BundleTooNew, str(slim), "schema 2", "upgrade")


def test_a_manifest_beyond_the_limit_is_refused(slim: Path) -> None:
    with (slim / "manifest.json").open("a") as file:
        file.write(" " * (17 << 20))
    _refusal(slim, BundleInvalid, "manifest.json")


def _drop_graph(document: dict[str, Any]) -> None:
    del document["graphs"]["spatial_prior_2"]


def _rename_input(document: dict[str, Any]) -> None:
    document["graphs"]["spatial_prior_2"]["inputs"][0]["name"] = "y"


def _other_dtype(document: dict[str, Any]) -> None:
    document["graphs"]["spatial_prior_2"]["outputs"][0]["dtype"] = "int32"


def _fixed_size(document: dict[str, Any]) -> None:
    document["graphs"]["spatial_prior_2"]["outputs"][0]["shape"] = [1, 32, 8, None]


def _other_width(document: dict[str, Any]) -> None:
    for spec in document["graphs"]["spatial_prior_2"]["inputs"]:
        spec["shape"][1] = 64


def _no_outputs(document: dict[str, Any]) -> None:
    document["graphs"]["spatial_prior_2"]["outputs"] = []


@pytest.mark.parametrize("change", [_drop_graph, _rename_input, _other_dtype, _fixed_size, _other_width, _no_outputs])
def test_a_graph_without_the_signature_of_its_name_is_refused(
    change: Callable[[dict[str, Any]], None], slim: Path
) -> None:
    _edit(slim, change)
    _refusal(slim, BundleInvalid, str(slim), "spatial_prior_2")


@pytest.mark.parametrize("name", ["../outside", "graphs/../../outside"])
def test_a_file_outside_the_bundle_is_not_even_read(name: str, slim: Path) -> None:
    (slim / "tables.npz").rename(slim.parent / "outside")
    _edit(slim, lambda document: document["tables"].update(name=name))
    _refusal(slim, BundleInvalid, "manifest.json", "name")


def test_an_absolute_path_is_not_even_read(slim: Path, tmp_path: Path) -> None:
    (slim / "tables.npz").rename(tmp_path / "outside")
    _edit(slim, lambda document: document["tables"].update(name=str(tmp_path / "outside")))
    _refusal(slim, BundleInvalid, "manifest.json", "name")


def test_a_downsampling_that_is_not_the_graphs_gives_no_image(bundle: Path) -> None:
    _edit(bundle, lambda document: document["config"].update(downsampling=32))
    image = load_image("coffee_200x300.png")
    with glc.Codec.open(bundle, threads=2) as codec, pytest.raises((BundleError, EngineError)):
        codec.decode(codec.encode(image))


# Altered files


def _one_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes((content[middle] ^ 1,)) + content[middle + 1 :]


def _shorter(content: bytes) -> bytes:
    return content[:-1]


def _longer(content: bytes) -> bytes:
    return content + b"\0"


def _empty(content: bytes) -> bytes:
    return b""


ALTERATIONS = [_one_bit, _shorter, _longer, _empty]


@pytest.mark.parametrize("alter", ALTERATIONS)
def test_an_altered_graph_is_found_before_it_runs(alter: Callable[[bytes], bytes], bundle: Path) -> None:
    path = bundle / GRAPH
    path.write_bytes(alter(path.read_bytes()))
    with pytest.raises(BundleAltered, match=GRAPH) as caught:
        Bundle.open(bundle).verify()
    assert str(caught.value).isprintable()
    with glc.Codec.open(bundle, threads=2) as codec:
        data = codec.encode(load_image("coffee_200x300.png"))  # needs no synthesis
        with pytest.raises(BundleAltered, match=GRAPH):
            codec.decode(data)


@pytest.mark.parametrize("alter", ALTERATIONS)
def test_altered_tables_are_found_on_opening(alter: Callable[[bytes], bytes], slim: Path) -> None:
    path = slim / "tables.npz"
    path.write_bytes(alter(path.read_bytes()))
    _refusal(slim, BundleAltered, str(slim), "tables.npz", "export again")


def test_missing_tables_are_named(slim: Path) -> None:
    (slim / "tables.npz").unlink()
    _refusal(slim, BundleAltered, str(slim), "tables.npz is missing")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [_pipe, _endless, _loop])
@pytest.mark.parametrize(("name", "kind"), [("manifest.json", BundleInvalid), ("tables.npz", BundleAltered)])
def test_a_member_that_is_no_file_is_not_opened(
    name: str, kind: type[BundleError], make: Callable[[Path], None], slim: Path
) -> None:
    (slim / name).unlink()
    make(slim / name)
    _refusal(slim, kind, str(slim), name)


def test_a_member_may_be_a_link_to_a_file(slim: Path, tmp_path: Path) -> None:
    (slim / "tables.npz").rename(tmp_path / "blob")
    (slim / "tables.npz").symlink_to(tmp_path / "blob")
    glc.Codec.open(slim)


def test_tables_that_are_a_directory_are_named(slim: Path) -> None:
    (slim / "tables.npz").unlink()
    (slim / "tables.npz").mkdir()
    _refusal(slim, BundleAltered, str(slim), "tables.npz")


@pytest.mark.parametrize("alter", ALTERATIONS)
def test_an_altered_file_in_a_zip_is_found(alter: Callable[[bytes], bytes], slim: Path, tmp_path: Path) -> None:
    path = slim / "tables.npz"
    path.write_bytes(alter(path.read_bytes()))
    _refusal(_zipped(slim, tmp_path / "a.zip"), BundleAltered, "tables.npz")


def test_a_missing_file_in_a_zip_is_named(slim: Path, tmp_path: Path) -> None:
    (slim / "tables.npz").unlink()
    _refusal(_zipped(slim, tmp_path / "a.zip"), BundleAltered, "tables.npz is missing")


@pytest.mark.parametrize("size_bytes", [1 << 30, 1 << 40], ids=["1 GiB", "1 TiB"])
@pytest.mark.parametrize("zipped", [False, True], ids=["directory", "zip"])
def test_a_size_that_is_not_the_files_takes_no_memory(
    size_bytes: int, zipped: bool, slim: Path, tmp_path: Path
) -> None:
    _edit(slim, lambda document: document["tables"].update(size_bytes=size_bytes))
    path = _zipped(slim, tmp_path / "a.zip") if zipped else slim
    tracemalloc.start()
    try:
        _refusal(path, BundleAltered, "tables.npz")
        assert tracemalloc.get_traced_memory()[1] < LITTLE_MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
@pytest.mark.parametrize("member", ["manifest.json", "tables.npz"])
def test_a_compression_that_unpacks_without_a_limit_is_refused(
    member: str, compression: int, slim: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.zip"
    large = bytes(100 << 20) if compression == zipfile.ZIP_BZIP2 else bytes(1 << 20)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("manifest.json", "tables.npz"):
            content = large if name == member else (slim / name).read_bytes()
            archive.writestr(name, content, compression if name == member else zipfile.ZIP_STORED)
    tracemalloc.start()
    try:
        _refusal(path, BundleInvalid, str(path), member, "compressed", "store it")
        assert tracemalloc.get_traced_memory()[1] < LITTLE_MEMORY
    finally:
        tracemalloc.stop()


# Tables that match their hash and are still no tables


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
    arrays = _arrays(slim)
    change(arrays)
    _put_tables(slim, _npz(arrays))
    _refusal(slim, BundleInvalid, str(slim), "tables.npz")


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
        with zipfile.ZipFile(io.BytesIO(_npz(arrays))) as source, zipfile.ZipFile(buffer, "w") as target:
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
        with zipfile.ZipFile(io.BytesIO(_npz(arrays))) as source, zipfile.ZipFile(buffer, "w") as target:
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
        with zipfile.ZipFile(io.BytesIO(_npz(arrays))) as source, zipfile.ZipFile(buffer, "w", compression) as target:
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
    data = bytearray(_npz(arrays))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    return bytes(data)


def _other_method(arrays: Arrays) -> bytes:
    data = bytearray(_npz(arrays))
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
        pytest.param(lambda arrays: _npz(arrays)[:-100], id="truncated zip"),
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
    content = make(_arrays(slim))
    assert len(content) < 1 << 20
    _put_tables(slim, content)
    tracemalloc.start()
    try:
        _refusal(slim, BundleInvalid, str(slim), "tables.npz")
        assert tracemalloc.get_traced_memory()[1] < LITTLE_MEMORY
    finally:
        tracemalloc.stop()


def test_tables_beyond_the_limit_are_refused_unread(slim: Path) -> None:
    _put_tables(slim, bytes(65 << 20))
    _refusal(slim, BundleInvalid, str(slim), "tables.npz", "larger")


def test_pickled_objects_are_never_run(slim: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    arrays = _arrays(slim)
    arrays["q_enc"] = np.array([_Trap(trap)], object)
    _put_tables(slim, _npz(arrays))
    _refusal(slim, BundleInvalid, "tables.npz")
    assert not trap.exists()


class _Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._path,)


# Random damage


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in items:
        yield value, key
        if isinstance(member, (dict, list)):
            yield from _places(member)


def _mutated_document(document: Any, draw: random.Random) -> bytes:
    odd: list[Any] = [
        None,
        True,
        0,
        -1,
        1,
        2**31,
        2**64,
        10**400,
        1.5,
        float("nan"),
        "",
        "..",
        "x" * 999,
        "\ud800",
        [],
        {},
        [[]],
    ]
    for _ in range(draw.choice((1, 1, 2, 5))):
        container, key = draw.choice(list(_places(document)))
        action = draw.randrange(3)
        if action == 0:
            container[key] = draw.choice(odd)
        elif action == 1:
            other, other_key = draw.choice(list(_places(document)))
            container[key] = json.loads(json.dumps(other[other_key]))
        elif isinstance(container, dict):
            del container[key]
        if not document:
            break
    return json.dumps(document).encode()


def _mutated_bytes(content: bytes, draw: random.Random, reach: int) -> bytes:
    """Damage, most of it within `reach` bytes of either end, where the structure lies."""
    damaged = bytearray(content)
    reach = min(reach, len(damaged))
    for _ in range(draw.choice((1, 2, 4))):
        at = draw.choice((draw.randrange(reach), draw.randrange(-reach, 0), draw.randrange(len(damaged))))
        damaged[at] = draw.choice((0, 255, draw.randrange(256), damaged[at] ^ (1 << draw.randrange(8))))
    if draw.random() < 0.1:
        start = draw.randrange(len(damaged))
        del damaged[start : start + draw.choice((1, 2, 100))]
    return bytes(damaged)


def _opens(path: Path) -> bool:
    """Whether a codec opens; anything but a GlcError in one line fails the test."""
    try:
        glc.Codec.open(path)
    except GlcError as error:
        if not str(error).isprintable():
            pytest.fail(f"not one line: {error!r}")
        return False
    return True


@pytest.mark.parametrize("seed", range(5))
def test_random_changes_of_the_manifest_raise_nothing_but_glc_errors(seed: int, slim: Path) -> None:
    draw = random.Random(seed)
    original = (slim / "manifest.json").read_bytes()
    opened = 0
    for _ in range(60):
        text = _mutated_bytes(original, draw, 99) if draw.random() < 0.3 else None
        (slim / "manifest.json").write_bytes(text or _mutated_document(json.loads(original), draw))
        opened += _opens(slim)
    assert 0 < opened < 60


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "compressed"])
def test_random_changes_of_the_tables_raise_nothing_but_glc_errors(compressed: bool, slim: Path) -> None:
    draw = random.Random(0)
    arrays = _arrays(slim)
    buffer = io.BytesIO()
    if compressed:
        np.savez_compressed(buffer, **arrays)
    original = buffer.getvalue() or _npz(arrays)
    opened = 0
    for _ in range(300):
        _put_tables(slim, _mutated_bytes(original, draw, 600))
        opened += _opens(slim)
    assert opened < 300


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "compressed"])
def test_random_changes_of_a_zip_raise_nothing_but_glc_errors(compression: int, slim: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    path = _zipped(slim, tmp_path / "a.zip", compression)
    original = path.read_bytes()
    opened = 0
    for _ in range(300):
        path.write_bytes(_mutated_bytes(original, draw, 300))
        opened += _opens(path)
    assert 0 < opened < 300
