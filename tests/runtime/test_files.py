"""Outputs are whole or not there, whatever goes wrong on the way.

Tests may run as root, whom permission bits do not bind. Places that cannot be written are therefore such that root
cannot write them either: a parent that is a file, a folder of procfs, a limit on the size of files in place of a full
disk; and a rename that fails is made to fail by hand.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from glc.errors import OutputNotWritable
from glc.runtime.files import staged, write_file
from glc.runtime.images import STANDARD_STREAM, write_bytes


def _tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files too: path -> content, None for folders."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def _largest_file(size_bytes: int) -> Iterator[None]:
    """Writing beyond this size fails as a full disk does, half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("data", [b"", b"x", bytes(1 << 20)], ids=["empty", "one byte", "1 MiB"])
def test_a_file_holds_what_was_written_and_nothing_lies_beside_it(data: bytes, tmp_path: Path) -> None:
    write_file(tmp_path / "a.glc", data)
    assert _tree(tmp_path) == {"a.glc": data}


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old and longer")
    write_file(tmp_path / "a", b"new")
    assert _tree(tmp_path) == {"a": b"new"}


@pytest.mark.parametrize(
    "name", ["-", ".hidden", "a b", "\N{SNOWMAN}.png", "a.part", "a.old", "n" * 255], ids=lambda n: n[:9]
)
def test_any_name_that_the_file_system_takes_can_be_written(name: str, tmp_path: Path) -> None:
    write_file(tmp_path / name, b"x")
    assert _tree(tmp_path) == {name: b"x"}


def test_names_relative_to_the_working_directory_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_file(Path("a"), b"x")
    assert _tree(tmp_path) == {"a": b"x"}


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with _largest_file(1000), pytest.raises(OutputNotWritable) as caught:
        write_file(tmp_path / "a", bytes(5000))
    assert str(tmp_path / "a") in str(caught.value)
    assert _tree(tmp_path) == {}


def test_a_full_disk_leaves_the_existing_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with _largest_file(1000), pytest.raises(OutputNotWritable):
        write_file(tmp_path / "a", bytes(5000))
    assert _tree(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("missing/a", id="in a missing folder"),
        pytest.param("file/a", id="below a file"),
        pytest.param("/proc/self/a", id="in a folder that takes no files"),
        pytest.param("n" * 256, id="name too long"),
    ],
)
def test_places_where_nothing_can_be_written_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / name
    with pytest.raises(OutputNotWritable) as caught:
        write_file(target, b"x")
    assert str(target) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert _tree(tmp_path) == {"file": b""}


def _make_folder(path: Path, content: str) -> None:
    (path / "graphs").mkdir(parents=True)
    (path / "graphs" / "a.onnx").write_text(content)


def test_a_staged_folder_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    with staged(tmp_path / "a.glcb") as temporary:
        _make_folder(temporary, "new")
        assert not (tmp_path / "a.glcb").exists()
        assert temporary.parent == tmp_path  # on the same file system, where a rename is atomic
    assert _tree(tmp_path) == {"a.glcb": None, "a.glcb/graphs": None, "a.glcb/graphs/a.onnx": b"new"}


def test_a_staged_folder_replaces_a_folder_whole(tmp_path: Path) -> None:
    _make_folder(tmp_path / "a.glcb", "old")
    (tmp_path / "a.glcb" / "left over").touch()
    with staged(tmp_path / "a.glcb") as temporary:
        _make_folder(temporary, "new")
        assert (tmp_path / "a.glcb" / "graphs" / "a.onnx").read_text() == "old"
    assert _tree(tmp_path) == {"a.glcb": None, "a.glcb/graphs": None, "a.glcb/graphs/a.onnx": b"new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("before", ["nothing", "file", "folder"])
@pytest.mark.parametrize("made", ["nothing", "file", "folder"])
def test_an_error_or_interrupt_leaves_the_target_as_it_was(
    error: type[BaseException], before: str, made: str, tmp_path: Path
) -> None:
    target = tmp_path / "a"
    if before == "folder":
        _make_folder(target, "old")
    elif before == "file":
        target.write_text("old")
    expected = _tree(tmp_path)

    def work() -> None:
        with staged(target) as temporary:
            if made == "folder":
                _make_folder(temporary, "new")
            elif made == "file":
                temporary.write_text("new")
            raise error

    with pytest.raises(error):
        work()
    assert _tree(tmp_path) == expected


def test_an_os_error_in_the_block_names_the_target(tmp_path: Path) -> None:
    def work() -> None:
        with staged(tmp_path / "a") as temporary:
            temporary.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputNotWritable, match="No space left on device") as caught:
        work()
    assert str(tmp_path / "a") in str(caught.value)
    assert _tree(tmp_path) == {}


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("failing", [0, 1], ids=["setting the old one aside", "moving the new one in"])
def test_a_rename_that_fails_puts_the_old_folder_back(
    error: BaseException, failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make_folder(tmp_path / "a.glcb", "old")
    expected = _tree(tmp_path)
    rename, calls = Path.rename, iter(range(9))

    def sometimes(path: Path, target: Path) -> Path:
        if next(calls) == failing:
            raise error
        return rename(path, target)

    def work() -> None:
        with staged(tmp_path / "a.glcb") as temporary:
            _make_folder(temporary, "new")
            monkeypatch.setattr(Path, "rename", sometimes)

    with pytest.raises(OutputNotWritable if isinstance(error, OSError) else KeyboardInterrupt):
        work()
    monkeypatch.undo()
    assert _tree(tmp_path) == expected


def test_writing_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    """`glc encode photo.png photos/` must not cost anyone their photos."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "precious.jpg").write_bytes(b"precious")
    with pytest.raises(OutputNotWritable):
        write_file(tmp_path / "photos", b"x")
    assert _tree(tmp_path) == {"photos": None, "photos/precious.jpg": b"precious"}


def test_writing_a_file_never_replaces_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(OutputNotWritable):
        write_file(tmp_path / "photos", b"x")
    assert _tree(tmp_path) == {"photos": None}


def test_a_pipe_or_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    """As root, `glc encode photo.png /dev/null` must not take /dev/null from the machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        try:
            write_file(pipe, b"x")
        except OutputNotWritable:
            received = None  # refusing is as good as writing into it
        else:
            received = os.read(reader, 9)
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert received in (None, b"x")
    finally:
        os.close(reader)


@pytest.mark.parametrize("before", [b"old", None], ids=["file", "nothing yet"])
def test_a_symbolic_link_stays_and_what_it_points_to_is_written(before: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "a"
    if before is not None:
        target.write_bytes(before)
    (tmp_path / "link").symlink_to(target)
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert _tree(tmp_path / "elsewhere") == {"a": b"new"}


def test_a_dash_is_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_bytes(STANDARD_STREAM, b"\x9eG\0\xff\r\n")
    assert capfdbinary.readouterr().out == b"\x9eG\0\xff\r\n"
