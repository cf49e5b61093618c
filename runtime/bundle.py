"""Reading a bundle: a directory, or the same files in one uncompressed zip (docs/bundle.md)."""

from __future__ import annotations

import hashlib
import io
import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from glc.engines import TargetKey
from glc.errors import BundleAltered, BundleInvalid, BundleNotFound, BundleTooNew, TargetMissing, TilesMissing
from glc.runtime.files import read_at_most
from glc.runtime.manifest import FileEntry, GraphEntry, Manifest
from glc.runtime.messages import one_line
from glc.runtime.scale_table import ScaleTable
from glc.runtime.signatures import EXACT_GRAPHS, signatures, step_signatures
from glc.runtime.tile_layout import TileLayout, read_layout
from glc.runtime.transforms import ROWS, beside, further_graphs, own_name

MANIFEST = "manifest.json"

_MAX_MANIFEST_BYTES = 16 << 20
_MAX_TABLE_BYTES = 64 << 20

# What zipfile raises for archives that are damaged, or use features that we never write.
_ZIP_ERRORS = (KeyError, ValueError, OSError, EOFError, RuntimeError, OverflowError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """What tables.npz holds."""

    rows: Mapping[str, NDArray[np.float32]]
    """Graph of an analysis or synthesis transform -> its factors (Q, N) for each quality."""
    scales: ScaleTable


class Bundle:
    """What `glc-export` wrote. Every file is checked against its SHA-256 when it is read."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read the manifest of a bundle.

        Raises:
            BundleNotFound: nothing has this path.
            BundleInvalid: not a bundle, or its manifest is malformed.
            BundleTooNew: a later schema.
        """
        where = Path(path)
        if not os.path.exists(where):  # noqa: PTH110 - Path.exists raises for names that are too long
            raise BundleNotFound(f"no bundle at {where}; make one with: glc-export --ckpt model.pth -o {where}")
        try:
            text = _read_member(where, MANIFEST, _MAX_MANIFEST_BYTES)
        except BundleAltered as error:
            raise BundleInvalid(f"{where} is not a bundle: it holds no {MANIFEST}") from error
        if len(text) > _MAX_MANIFEST_BYTES:
            raise BundleInvalid(f"{where}: {MANIFEST} is larger than {_MAX_MANIFEST_BYTES} bytes")
        try:
            manifest = Manifest.from_json(text)
        except (BundleInvalid, BundleTooNew) as error:
            raise type(error)(f"{where}: {error}") from error
        steps = step_signatures(manifest.config.latent_channels)
        known = signatures(manifest.config.latent_channels)
        further = {graph: known[own_name(graph)] for graph in further_graphs(manifest.graphs)}
        for name, signature in (known | steps | further).items():
            entry = manifest.graphs.get(name)
            if entry is None and name in steps:
                continue
            if entry is None or (entry.inputs, entry.outputs) != (signature.inputs, signature.outputs):
                raise BundleInvalid(
                    f"{where}: {MANIFEST} lists no graph {name} with the inputs and outputs of a bundle"
                )
        return cls(where, manifest)

    def entry(self, name: str) -> GraphEntry:
        """What the manifest says of a graph.

        Raises:
            TargetMissing: the bundle has no such graph.
        """
        entry = self.manifest.graphs.get(name) or self.manifest.tiles.get(name)
        if entry is None:
            raise TargetMissing(
                f"{self.path} has no graph {name}, which engines on a device need: it is of an older version; "
                "export it again"
            )
        return entry

    def graph(self, name: str, target: TargetKey | None = None) -> tuple[GraphEntry, bytes]:
        """Entry of a graph, and its content: ONNX, or the engine that was compiled for a target.

        Raises:
            BundleAltered: the file is missing or changed.
            TargetMissing: nothing in the bundle was compiled for the target, or the graph was not.
        """
        entry = self.entry(name)
        if target is None:
            return entry, self.read(entry.file)
        engines = self._engines(target)
        if name not in engines:
            raise TargetMissing(f"{self.path} holds no {name} for {target}; compile it again: {_compile(self, target)}")
        return entry, self.read(engines[name])

    def _engines(self, target: TargetKey) -> Mapping[str, FileEntry]:
        for compiled in self.manifest.targets.values():
            if compiled.key == target:
                return compiled.engines
        held = ", ".join(str(compiled.key) for compiled in self.manifest.targets.values()) or "nothing"
        raise TargetMissing(
            f"{self.path} has nothing compiled for {target}, which is what this machine has; it holds {held}. Compile "
            f"it here: {_compile(self, target)}"
        )

    def require_target(self, target: TargetKey | None) -> None:
        """Make sure that engines for a target are there; any bundle has ONNX graphs, which None asks for.

        Raises:
            TargetMissing: nothing in the bundle was compiled for it.
        """
        if target is not None:
            self._engines(target)

    def tile_layout(self) -> TileLayout:
        """What the tile graphs compute, which images are put together from where memory is limited.

        Raises:
            TilesMissing: there are none.
            BundleInvalid: they do not fit together.
        """
        if not self.manifest.tiles:
            raise TilesMissing(
                f"{self.path} has no tile graphs, which a limit on memory needs: export it again, without --no-tiles"
            )
        try:
            return read_layout(self.manifest.tiles, self.manifest.config, further_graphs(self.manifest.graphs))
        except BundleInvalid as error:
            raise BundleInvalid(f"{self.path}: {error}") from error

    def tables(self) -> Tables:
        """Read tables.npz.

        Raises:
            BundleAltered: the file is missing or changed.
            BundleInvalid: it does not hold the tables that docs/bundle.md names.
        """
        names = {
            graph: beside(ROWS[own_name(graph)], graph) for graph in (*ROWS, *further_graphs(self.manifest.graphs))
        }
        arrays = self._read_arrays(self.manifest.tables, (*names.values(), "scale_reach", "scale_frequencies"))
        *rows, reach, frequencies = arrays.values()
        try:
            scales = ScaleTable.from_arrays(reach, frequencies)
        except BundleInvalid as error:
            raise BundleInvalid(f"{self.path}: tables.npz: {error}") from error
        config = self.manifest.config
        expected = (config.qualities, config.latent_channels)
        for name, array in zip(names.values(), rows, strict=True):
            if array.shape != expected or array.dtype != np.float32 or not np.isfinite(array).all():
                raise BundleInvalid(
                    f"{self.path}: tables.npz: {name} is {array.dtype} {list(array.shape)}; "
                    f"expected finite float32 {list(expected)}"
                )
        return Tables(dict(zip(names, rows, strict=True)), scales)

    def conformance(self, graph: str) -> dict[str, NDArray[Any]] | None:
        """Read the cases of one graph from conformance.npz: input or output -> array; None where there are none.

        Raises:
            BundleAltered: the file is missing or changed.
            BundleInvalid: it does not hold the graph's inputs and outputs.
        """
        if self.manifest.conformance is None or graph not in EXACT_GRAPHS:
            return None
        entry = self.manifest.graphs[graph]
        specs = {f"{graph}.{spec.name}": spec for spec in (*entry.inputs, *entry.outputs)}
        arrays = self._read_arrays(self.manifest.conformance, tuple(specs))
        for name, spec in specs.items():
            if not spec.accepts(arrays[name]):
                found = f"{arrays[name].dtype} {list(arrays[name].shape)}"
                raise BundleInvalid(f"{self.path}: conformance.npz: {name} is {found}; expected {spec}")
        return {spec.name: arrays[name] for name, spec in specs.items()}

    def verify(self) -> int:
        """Read every file and check it; returns the bytes read.

        Raises:
            BundleAltered: a file is missing or changed.
        """
        return sum(len(self.read(entry)) for entry in self.manifest.files())

    def _read_arrays(self, entry: FileEntry, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """Read arrays of an npz file that unpacks to no more than is allowed."""
        content = self.read(entry, _MAX_TABLE_BYTES)
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if sum(member.file_size for member in archive.infolist()) > _MAX_TABLE_BYTES:
                    raise BundleInvalid(f"{self.path}: {entry.name}: it unpacks to more than {_MAX_TABLE_BYTES} bytes")
                return {name: _read_array(archive, f"{name}.npy") for name in names}
        except _ZIP_ERRORS as error:
            raise BundleInvalid(f"{self.path}: {entry.name} cannot be read: {one_line(error)}") from error

    def read(self, entry: FileEntry, most_bytes: int | None = None) -> bytes:
        """Read a file and check it.

        Raises:
            BundleAltered: it is missing or changed.
            BundleInvalid: it is larger than is allowed of its kind.
        """
        limit = entry.size_bytes if most_bytes is None else min(entry.size_bytes, most_bytes)
        content = _read_member(self.path, entry.name, limit)
        if most_bytes is not None and len(content) > most_bytes:
            raise BundleInvalid(f"{self.path}: {entry.name} is larger than {most_bytes} bytes")
        if len(content) != entry.size_bytes:
            raise BundleAltered(
                f"{self.path}: {entry.name} has {len(content)} bytes; the manifest says {entry.size_bytes}: "
                "it was altered after export; export again"
            )
        digest = hashlib.sha256(content).hexdigest()
        if digest != entry.sha256:
            raise BundleAltered(
                f"{self.path}: {entry.name} has SHA-256 {digest[:12]}...; the manifest says {entry.sha256[:12]}...: "
                "it was altered after export; export again"
            )
        return content


def _compile(bundle: Bundle, target: TargetKey) -> str:
    return f"glc-export --bundle {bundle.path} --target {target.device} --precision {target.precision}"


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read one array; its size is that of its data, whatever its header says, so that none is taken on trust."""
    with _opened(archive, name) as member:
        data = io.BytesIO(member.read())
    version = np.lib.format.read_magic(data)
    if version != (1, 0):
        raise ValueError(f"{name} has NPY version {version}")
    try:
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(data)
    except Exception as error:  # numpy hands the header to Python's parsers, whose errors have no common base
        raise ValueError(f"{name} has a malformed header: {one_line(error)}") from error
    if dtype.hasobject or fortran_order or math.prod(shape) * dtype.itemsize != len(data.getvalue()) - data.tell():
        raise ValueError(f"{name} is {dtype} {list(shape)}, which is not what it holds")
    return np.frombuffer(data.getvalue(), dtype, offset=data.tell()).reshape(shape)


def _opened(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Open a member, unless bzip2 or LZMA packed it: zipfile unpacks those without a limit, whatever is asked for.

    Raises:
        KeyError: there is no such member.
        ValueError: it is neither stored nor deflated.
    """
    member = archive.getinfo(name)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"it is compressed by method {member.compress_type}; store it uncompressed")
    return archive.open(member)


def _read_member(bundle: Path, name: str, most_bytes: int) -> bytes:
    """Read at most one byte more than allowed, so that a wrong size shows and a huge file takes no memory."""
    try:
        if bundle.is_dir():
            if not (bundle / name).is_file():  # a pipe would wait for a writer, a device might never end
                raise BundleAltered(f"{bundle}: {name} is missing or not a file; export again")
            with (bundle / name).open("rb") as file:
                return read_at_most(file, most_bytes)
        with zipfile.ZipFile(bundle) as archive, _opened(archive, name) as member:
            return read_at_most(member, most_bytes)
    except zipfile.BadZipFile as error:
        raise BundleInvalid(f"{bundle} is neither a bundle directory nor a zip of one: {one_line(error)}") from error
    except (KeyError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BundleAltered(f"{bundle}: {name} is missing; export again") from error
    except _ZIP_ERRORS as error:
        raise BundleInvalid(f"{bundle}: {name} cannot be read: {one_line(error)}") from error
