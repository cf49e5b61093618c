"""Compiled graphs on disk: found again, made anew where damaged, and never in the way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

import glc
from glc.engines import Array, Engine, engine_loader, ov_cache
from glc.engines.ov_cache import Cache, Compiled, MappedFile, cache_folder
from glc.runtime.default_model import default_bundle

SIZE = (1, 32, 4, 4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "not" / "there yet"
    monkeypatch.setenv("GLC_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def graph() -> bytes:
    return glc.Bundle.open(default_bundle()).graph("spatial_prior_1")[1]


def _means(graph: bytes, threads: int = 1) -> Array:
    """What a newly loaded engine computes."""
    return _run(engine_loader("openvino", threads).load(graph, exact=True))


def _run(engine: Engine) -> Array:
    try:
        return engine.run({spec.name: np.full(SIZE, 3, np.float32) for spec in engine.inputs})["means"]
    finally:
        engine.close()


def _refuse(*_: object) -> None:
    raise AssertionError("it was read or compiled")


def test_the_second_time_nothing_is_read_or_compiled(
    graph: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _means(graph)
    assert [file.suffix for file in cache.iterdir()] == [".blob"]
    loader = engine_loader("openvino", 1)
    monkeypatch.setattr(loader, "_core", _Core())
    engine = loader.load(graph, exact=True)
    assert [spec.name for spec in engine.inputs] == ["y_hat", "context"]
    assert engine.outputs[0].dtype == "uint8"
    np.testing.assert_array_equal(_run(engine), first)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_of_a_graphs_file_are_let_go_after_the_first_run_and_nobody_writes_them(
    graph: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _means(graph)
    engine = engine_loader("openvino", 1).load(graph, exact=True)
    (file,) = cache.iterdir()
    found: list[tuple[int, int]] = []
    leave = MappedFile.leave

    def watched(memory: MappedFile) -> None:
        found.append(_mapped_kib(file))
        leave(memory)

    monkeypatch.setattr(MappedFile, "leave", watched)
    assert _mapped_kib(file) == (0, 0)
    feeds = {spec.name: np.full(SIZE, 3, np.float32) for spec in engine.inputs}
    np.testing.assert_array_equal(engine.run(feeds)["means"], first)
    assert _mapped_kib(file) == (0, 0)
    for _ in range(2):
        np.testing.assert_array_equal(engine.run(feeds)["means"], first)
    ((resident, written),) = found
    assert resident > 0
    assert written == _mapped_kib(file)[1] == 0
    engine.close()


def _mapped_kib(file: Path) -> tuple[int, int]:
    """KiB of a mapped file that are resident, and those that differ from the file."""
    resident = written = 0
    mapped, seen = False, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if "-" in key.split()[0]:
            mapped = line.endswith(str(file))
            seen |= mapped
        elif mapped and key == "Rss":
            resident += int(value.split()[0])
        elif mapped and key == "Anonymous":
            written += int(value.split()[0])
    assert seen
    return resident, written


def test_a_graph_that_was_just_compiled_lies_in_its_file_too(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[Compiled] = []
    loader = engine_loader("openvino", 1)
    recalled = Cache.recalled

    def watched(self: Cache, *arguments: Any) -> Compiled | None:
        compiled = recalled(self, *arguments)
        imported.extend([] if compiled is None else [compiled])
        return compiled

    monkeypatch.setattr(Cache, "recalled", watched)
    loader.load(graph, exact=True).close()
    assert len(imported) == 1
    monkeypatch.setenv("GLC_CACHE", "")
    assert _means(graph).shape == (1, 32, 2, 2)
    assert len(imported) == 1


class _Core:
    """Imports, and does nothing else."""

    read_model = compile_model = staticmethod(_refuse)

    def import_model(self, *arguments: object) -> openvino.CompiledModel:
        return openvino.Core().import_model(*arguments)


def test_files_are_told_apart_by_all_that_they_depend_on(
    graph: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = glc.Bundle.open(default_bundle()).graph("spatial_prior_2")[1]
    _means(graph)
    for _ in range(2):
        _means(graph, threads=2)
        _means(other)
        assert len([*cache.iterdir()]) == 3
    engine_loader("openvino", 1).load(graph, exact=False).close()
    assert len([*cache.iterdir()]) == 4
    monkeypatch.setattr(ov_cache, "processor_name", lambda: "another processor")
    _means(graph)
    assert len([*cache.iterdir()]) == 5


def test_precisions_are_told_apart_where_they_matter(graph: bytes, cache: Path) -> None:
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precisions = [name for name, need in (("f32", "FP32"), ("f16", "FP16"), ("bf16", "BF16")) if need in able]
    for _ in range(2):
        for precision in precisions:
            engine_loader("openvino", 1, precision).load(graph, exact=False).close()
        assert len([*cache.iterdir()]) == len(precisions)
    for precision in precisions:
        engine_loader("openvino", 1, precision).load(graph, exact=True).close()
    assert len([*cache.iterdir()]) == len(precisions) + 1


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(lambda data: data[:5000], id="cut early"),
        pytest.param(lambda data: b"x" + data[1:], id="no JSON"),
        pytest.param(lambda data: b"[]\n" + data[3:], id="other JSON"),
        pytest.param(lambda data: data[:4096] + bytes(len(data) - 4096), id="zeros"),
        pytest.param(lambda data: data[:8192] + data[8193:], id="a byte lost"),
        pytest.param(lambda data: data[:-1000] + bytes(1000), id="weights lost"),
    ],
)
def test_a_damaged_file_is_made_anew(
    damage: Callable[[bytes], bytes], graph: bytes, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = _means(graph)
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    np.testing.assert_array_equal(_means(graph), expected)
    assert "compiled anew" in caplog.text
    assert [file] == [*cache.iterdir()]
    caplog.clear()
    np.testing.assert_array_equal(_means(graph), expected)
    assert not caplog.text


def test_arrays_are_kept_and_lie_in_their_file_from_a_cache_line_on(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    structure = np.dtype([("kind", np.int32), ("epsilon", np.float64)])
    arrays = {
        "layers": np.array([(1, 0.5), (2, 1e-6)], structure),
        "odd": np.arange(5, dtype=np.uint8),
        "values": np.arange(24, dtype=np.int32).reshape(2, 3, 4)[:, ::-1],
        "none": np.zeros((0, 3), np.float32),
    }
    kept = Cache(openvino.Core(), "CPU")
    assert kept.recalled_arrays("digest", {}, "way") is None
    kept.keep_arrays(arrays, "digest", {}, "way")
    recalled = kept.recalled_arrays("digest", {}, "way")
    assert recalled is not None
    assert recalled.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (recalled[name].dtype, recalled[name].ctypes.data % 64) == (array.dtype, 0)
        np.testing.assert_array_equal(recalled[name], array)
    assert kept.recalled_arrays("digest", {}, "another way") is None
    (file,) = cache.iterdir()
    content = file.read_bytes()
    for damaged in (b"", content[:-1], content[:-9] + b"x" + content[-8:], b"{}" + content[2:]):
        caplog.clear()
        file.write_bytes(damaged)
        assert kept.recalled_arrays("digest", {}, "way") is None
        assert "made anew" in caplog.text


def test_a_place_that_cannot_be_written_is_told_of(
    graph: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GLC_CACHE", str(tmp_path / "file"))
    assert _means(graph).shape == (1, 32, 2, 2)
    assert "cannot be kept" in caplog.text
    assert (tmp_path / "file").read_text() == "not a folder"


def test_without_a_cache_nothing_is_written(graph: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLC_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _means(graph).shape == (1, 32, 2, 2)
    assert [*tmp_path.iterdir()] == []


def test_the_cache_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLC_CACHE", "")
    assert cache_folder() is None
    monkeypatch.delenv("GLC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/glc/openvino")
