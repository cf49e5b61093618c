"""Compiled graphs of OpenVINO on disk, so that a second process neither parses the ONNX file nor compiles.

One file a graph and setting, named by a digest of all that it depends on:

    what is in it and a checksum, in JSON, one line | padding to a page | what OpenVINO exported, or arrays

OpenVINO's own cache (CACHE_DIR, 2026.4.1) does not tell precisions apart: asked for one, it gives a graph that was
compiled for another, in silence. And to find its file it needs the graph parsed, and rewritten by us.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import sys
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from glc.engines.ov_errors import last_line
from glc.engines.processor import processor_name
from glc.engines.protocol import TensorSpec

_logger = logging.getLogger(__name__)

_PAGE = 4096
_LINE = 64
"""Bytes of a cache line, with which each array begins."""


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A graph that is ready to run."""

    model: openvino.CompiledModel
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    memory: MappedFile | None = None
    """What the model's weights lie in, which must live as long; None where it was compiled here."""

    def leave_pages(self) -> None:
        """Let go of the file's pages, which come back from the system's cache when they are needed again."""
        if self.memory is not None:
            self.memory.leave()


class MappedFile:
    """A file as memory that may be written, though nobody does: pages that are let go are read from the file again.

    OpenVINO orders most weights anew, once, in memory of its own, and then never looks at the file's again; others it
    uses as they lie.
    """

    def __init__(self, file: Path, start: int) -> None:
        """Map it.

        Args:
            file: its name.
            start: bytes before what `content` has.
        """
        with file.open("rb") as stream:
            self._mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        self.content: NDArray[np.uint8] = np.frombuffer(self._mapped, np.uint8, offset=start)

    def leave(self) -> None:
        """Let go of all pages."""
        if sys.platform == "linux":
            self._mapped.madvise(mmap.MADV_DONTNEED)


def cache_folder() -> Path | None:
    """Where compiled graphs are kept: GLC_CACHE, else the user's cache directory; None where GLC_CACHE is empty."""
    named = os.environ.get("GLC_CACHE")
    if named is not None:
        return Path(named) if named else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glc" / "openvino"


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """Compiled graphs of one device, on disk."""

    core: openvino.Core
    device: str

    def recalled(self, sha256: str, settings: Mapping[str, Any], way: str) -> Compiled | None:
        """Take a compiled graph; None where it is not there, or damaged.

        Args:
            sha256: of the graph's file.
            settings: with which it was compiled.
            way: what else the result depends on.
        """
        file = _file(sha256, settings, way)
        if file is None or not file.exists():
            return None
        try:
            return _load(self.core, self.device, file, settings)
        except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:  # damaged: made anew
            _logger.warning("%s cannot be used and is compiled anew: %s", file, last_line(error))
            return None

    def keep(self, compiled: Compiled, sha256: str, settings: Mapping[str, Any], way: str) -> bool:
        """Write a compiled graph for `recalled`, where there is a folder for it; whether it is there now."""
        file = _file(sha256, settings, way)
        if file is None:
            return False
        try:
            _save(compiled, file)
        except OSError as error:  # a full disk or a read-only home: slower, not wrong
            _logger.warning("%s cannot be kept, so that the next process compiles again: %s", file, error)
            return False
        return True

    def recalled_arrays(self, sha256: str, settings: Mapping[str, Any], way: str) -> dict[str, NDArray[Any]] | None:
        """Take what `keep_arrays` kept; None where it is not there, or damaged. Arguments as for `recalled`.

        The arrays lie in the file, which is mapped: processes share them. Each begins with a cache line.
        """
        file = _file(sha256, settings, way)
        if file is None or not file.exists():
            return None
        try:
            return _load_arrays(file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            _logger.warning("%s cannot be used and is made anew: %s", file, last_line(error))
            return None

    def keep_arrays(
        self, arrays: Mapping[str, NDArray[Any]], sha256: str, settings: Mapping[str, Any], way: str
    ) -> None:
        """Write arrays that belong to a compiled graph, where there is a folder for it."""
        file = _file(sha256, settings, way)
        if file is not None:
            try:
                _save_arrays(arrays, file)
            except OSError as error:
                _logger.warning("%s cannot be kept, so that the next process makes it again: %s", file, error)


def _file(sha256: str, settings: Mapping[str, Any], way: str) -> Path | None:
    """Named by what is compiled, by what, for what; our own version stands for how the graph is rewritten before."""
    folder = cache_folder()
    if folder is None:
        return None
    about = [openvino.__version__, version("glc-deploy"), processor_name(), sorted(settings.items()), way, sha256]
    return folder / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()}.blob"


def _save(compiled: Compiled, file: Path) -> None:
    specs = {"inputs": [*map(asdict, compiled.inputs)], "outputs": [*map(asdict, compiled.outputs)]}
    _write(file, specs, [compiled.model.export_model().getbuffer()])


def _load(core: openvino.Core, device: str, file: Path, settings: Mapping[str, Any]) -> Compiled:
    fields, memory = _read(file)
    tensor = openvino.Tensor(memory.content, shared_memory=True)
    model = core.import_model(tensor, device, dict(settings))
    inputs, outputs = (tuple(map(_spec, fields[name])) for name in ("inputs", "outputs"))
    compiled = Compiled(model, inputs, outputs, memory)
    compiled.leave_pages()
    return compiled


def _save_arrays(arrays: Mapping[str, NDArray[Any]], file: Path) -> None:
    table: dict[str, Any] = {}
    content: list[memoryview | bytes] = []
    end = 0
    for name, array in arrays.items():
        table[name] = {"dtype": np.lib.format.dtype_to_descr(array.dtype), "shape": array.shape, "start": end}
        padding = -array.nbytes % _LINE
        content += [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, bytes(padding)]
        end += array.nbytes + padding
    _write(file, {"arrays": table}, content)


def _load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    fields, memory = _read(file)
    arrays = {}
    for name, about in fields["arrays"].items():
        dtype, shape = np.lib.format.descr_to_dtype(_tuples(about["dtype"])), tuple(about["shape"])
        arrays[name] = np.ndarray(shape, dtype, memory.content, about["start"])
    return arrays


def _tuples(descr: Any) -> Any:
    """A dtype's description as it was before JSON made lists of its tuples."""
    return [tuple(field) for field in descr] if isinstance(descr, list) else descr


def _write(file: Path, fields: Mapping[str, Any], content: Iterable[memoryview | bytes]) -> None:
    """Write under a temporary name, then rename: other processes may read and write the same file."""
    content = list(content)
    checksum = 0
    for part in content:
        checksum = zlib.crc32(part, checksum)
    head = json.dumps({**fields, "crc32": checksum}).encode() + b"\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
        try:
            temporary.write(head.ljust(_whole_pages(head), b"\0"))
            for part in content:
                temporary.write(part)
            temporary.close()
            os.replace(temporary.name, file)  # noqa: PTH105 - both are names already
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary.name).unlink()
            raise


def _read(file: Path) -> tuple[dict[str, Any], MappedFile]:
    """Fields and content; ValueError where they are damaged."""
    with file.open("rb") as stream:
        head = stream.readline()
    fields: dict[str, Any] = json.loads(head)
    # Mapped, not read: processes then share weights that are used as they lie. OpenVINO asks for writable memory.
    memory = MappedFile(file, _whole_pages(head))
    if zlib.crc32(memory.content.data) != fields["crc32"]:
        raise ValueError("its checksum is wrong")
    return fields, memory


def _whole_pages(head: bytes) -> int:
    return -(-len(head) // _PAGE) * _PAGE


def _spec(fields: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(str(fields["name"]), str(fields["dtype"]), tuple(fields["shape"]))
