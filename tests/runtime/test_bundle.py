"""Bundles that are whole read back; missing, altered and foreign ones are refused by name and take no memory."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import load_image
from tests.runtime.bundle_files import LITTLE_MEMORY, edit, refusal, zipped_copy

import glc
from glc.errors import (
    BundleAltered,
    BundleError,
    BundleInvalid,
    BundleNotFound,
    BundleTooNew,
    EngineError,
)
from glc.runtime.bundle import Bundle
from glc.runtime.manifest import Manifest

GRAPH = "graphs/synthesis.onnx"


# Reading


def test_every_file_of_a_fresh_bundle_is_as_the_manifest_says(mini_bundle: Path) -> None:
    opened = Bundle.open(mini_bundle)
    on_disk = sum(path.stat().st_size for path in mini_bundle.rglob("*") if path.is_file())
    assert opened.verify() == on_disk - (mini_bundle / "manifest.json").stat().st_size
    assert opened.manifest == Manifest.from_json((mini_bundle / "manifest.json").read_text())
    assert opened.graph("synthesis")[1] == (mini_bundle / GRAPH).read_bytes()


def test_tables_are_those_of_the_model(mini_bundle: Path) -> None:
    tables = Bundle.open(mini_bundle).tables()
    assert list(tables.rows) == ["analysis", "synthesis"]
    assert all(rows.shape == (4, 32) and rows.dtype == np.float32 for rows in tables.rows.values())
    assert len(tables.scales.frequencies) == 128


@pytest.mark.parametrize("as_text", [False, True], ids=["Path", "str"])
def test_a_path_may_be_of_either_type(as_text: bool, mini_bundle: Path) -> None:
    assert Bundle.open(str(mini_bundle) if as_text else mini_bundle).path == mini_bundle


def test_a_zip_is_the_same_bundle_as_its_directory(mini_bundle: Path, codec: glc.Codec, tmp_path: Path) -> None:
    zipped = zipped_copy(mini_bundle, tmp_path / "mini.zip.glcb")
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
    refusal(path, kind, str(path))


@pytest.mark.parametrize("name", ["n" * 300, "file/below"], ids=["too long", "below a file"])
def test_a_path_that_cannot_exist_is_not_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refusal(tmp_path / name, BundleNotFound, name)


def test_without_a_path_the_embedded_demonstration_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLC_BUNDLE", raising=False)
    with glc.Codec.open() as codec:
        assert codec.bundle.manifest.label.startswith("demonstration")


# Manifests; tests/runtime/test_manifest.py has the many ways in which one can be malformed


def test_a_malformed_manifest_is_refused_with_the_bundles_path(slim: Path) -> None:
    (slim / "manifest.json").write_text("{}")
    refusal(slim, BundleInvalid, str(slim), "manifest.json")


def test_a_later_schema_is_refused_with_the_bundles_path(slim: Path) -> None:
    edit(slim, lambda document: document.update(schema=2))
    refusal(slim, BundleTooNew, str(slim), "schema 2", "upgrade")


def test_a_manifest_beyond_the_limit_is_refused(slim: Path) -> None:
    with (slim / "manifest.json").open("a") as file:
        file.write(" " * (17 << 20))
    refusal(slim, BundleInvalid, "manifest.json")


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
    edit(slim, change)
    refusal(slim, BundleInvalid, str(slim), "spatial_prior_2")


@pytest.mark.parametrize("name", ["../outside", "graphs/../../outside"])
def test_a_file_outside_the_bundle_is_not_even_read(name: str, slim: Path) -> None:
    (slim / "tables.npz").rename(slim.parent / "outside")
    edit(slim, lambda document: document["tables"].update(name=name))
    refusal(slim, BundleInvalid, "manifest.json", "name")


def test_an_absolute_path_is_not_even_read(slim: Path, tmp_path: Path) -> None:
    (slim / "tables.npz").rename(tmp_path / "outside")
    edit(slim, lambda document: document["tables"].update(name=str(tmp_path / "outside")))
    refusal(slim, BundleInvalid, "manifest.json", "name")


def test_a_downsampling_that_is_not_the_graphs_gives_no_image(bundle: Path) -> None:
    edit(bundle, lambda document: document["config"].update(downsampling=32))
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
    refusal(slim, BundleAltered, str(slim), "tables.npz", "export again")


def test_missing_tables_are_named(slim: Path) -> None:
    (slim / "tables.npz").unlink()
    refusal(slim, BundleAltered, str(slim), "tables.npz is missing")


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
    refusal(slim, kind, str(slim), name)


def test_a_member_may_be_a_link_to_a_file(slim: Path, tmp_path: Path) -> None:
    (slim / "tables.npz").rename(tmp_path / "blob")
    (slim / "tables.npz").symlink_to(tmp_path / "blob")
    glc.Codec.open(slim)


def test_tables_that_are_a_directory_are_named(slim: Path) -> None:
    (slim / "tables.npz").unlink()
    (slim / "tables.npz").mkdir()
    refusal(slim, BundleAltered, str(slim), "tables.npz")


@pytest.mark.parametrize("alter", ALTERATIONS)
def test_an_altered_file_in_a_zip_is_found(alter: Callable[[bytes], bytes], slim: Path, tmp_path: Path) -> None:
    path = slim / "tables.npz"
    path.write_bytes(alter(path.read_bytes()))
    refusal(zipped_copy(slim, tmp_path / "a.zip"), BundleAltered, "tables.npz")


def test_a_missing_file_in_a_zip_is_named(slim: Path, tmp_path: Path) -> None:
    (slim / "tables.npz").unlink()
    refusal(zipped_copy(slim, tmp_path / "a.zip"), BundleAltered, "tables.npz is missing")


@pytest.mark.parametrize("size_bytes", [1 << 30, 1 << 40], ids=["1 GiB", "1 TiB"])
@pytest.mark.parametrize("zipped", [False, True], ids=["directory", "zip"])
def test_a_size_that_is_not_the_files_takes_no_memory(
    size_bytes: int, zipped: bool, slim: Path, tmp_path: Path
) -> None:
    edit(slim, lambda document: document["tables"].update(size_bytes=size_bytes))
    path = zipped_copy(slim, tmp_path / "a.zip") if zipped else slim
    tracemalloc.start()
    try:
        refusal(path, BundleAltered, "tables.npz")
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
        refusal(path, BundleInvalid, str(path), member, "compressed", "store it")
        assert tracemalloc.get_traced_memory()[1] < LITTLE_MEMORY
    finally:
        tracemalloc.stop()
