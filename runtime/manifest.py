"""`manifest.json`: what a bundle holds (docs/bundle.md), read without trust."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from glc.engines import TargetKey, TensorSpec
from glc.errors import BundleInvalid, BundleTooNew
from glc.runtime.messages import named, one_line, shown

SCHEMA = 1
"""Newest manifest schema that this software reads, and the one that it writes."""

FORMAT = "glc-bundle"

ArithmeticName = Literal["exact", "float"]

DTYPES = ("float32", "float16", "uint8", "int32")

_KEY = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Relative, no "..", nothing hidden: a hostile manifest must not reach outside its bundle. Short: systems have limits.
_FILE_NAME = re.compile(r"(?=.{1,200}\Z)[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the bundle."""

    name: str
    """Path inside the bundle, with forward slashes."""
    sha256: str
    """Lower-case hexadecimal digest of the content."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GraphEntry:
    """One ONNX graph."""

    file: FileEntry
    parameters: int
    """Weights in this graph."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class CodecConfig:
    """What the runtime must know of the model."""

    latent_channels: int
    """N; a multiple of 4."""
    downsampling: int
    """f: pixels per latent position along each axis."""
    codebook_entries: int
    """M: z indices are 0..M - 1."""
    qualities: int
    """Q: rows of q_enc and q_dec."""
    attention_patch: int
    """Side of an attention patch in latent positions."""


@dataclass(frozen=True, slots=True)
class CompiledTarget:
    """Engines that were compiled for one device with one library."""

    key: TargetKey
    largest: tuple[int, int]
    """Height and width of the largest image that the engines take."""
    engines: Mapping[str, FileEntry]
    """Graph name -> engine."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything in manifest.json."""

    model_id: str
    """64 hexadecimal digits: SHA-256 of what decoding depends on."""
    checkpoint_id: str
    """64 hexadecimal digits: SHA-256 of all weights of the checkpoint."""
    label: str
    """One line for people: where the weights come from."""
    arithmetic: ArithmeticName
    parameters: int
    """Weights of the model, each counted once; graphs may share them."""
    config: CodecConfig
    graphs: Mapping[str, GraphEntry]
    """Graph name -> entry."""
    tables: FileEntry
    conformance: FileEntry | None
    """Cases that an engine must reproduce; in every bundle with exact arithmetic, and no other."""
    producers: Mapping[str, str]
    """Software -> version that wrote the bundle."""
    targets: Mapping[str, CompiledTarget] = field(default_factory=dict)
    """Name -> engines; a bundle works without any."""
    tiles: Mapping[str, GraphEntry] = field(default_factory=dict)
    """Tile graph name -> entry; without any, images are computed in one piece."""

    def files(self) -> Iterator[FileEntry]:
        """Every file but the manifest."""
        yield from (graph.file for graph in (*self.graphs.values(), *self.tiles.values()))
        yield self.tables
        if self.conformance is not None:
            yield self.conformance
        for target in self.targets.values():
            yield from target.engines.values()

    def to_json(self) -> str:
        """Serialise, with sorted keys."""
        document = {"format": FORMAT, "schema": SCHEMA, **dataclasses.asdict(self)}
        if self.conformance is None:
            del document["conformance"]
        for name in ("targets", "tiles"):
            if not document[name]:
                del document[name]
        return json.dumps(document, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parse and check.

        Raises:
            BundleInvalid: not a manifest; the message names the field.
            BundleTooNew: a later schema.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleInvalid(f"manifest.json is not JSON: {one_line(error)}") from error
        root = _Fields(document, "manifest.json")
        if root.take("format", str) != FORMAT:
            raise BundleInvalid(f"manifest.json: format is {shown(document['format'])}; expected {FORMAT!r}")
        schema = root.take("schema", int)
        if schema < 1:
            raise BundleInvalid(f"manifest.json: schema is {shown(schema)}; expected 1..{SCHEMA}")
        if schema > SCHEMA:
            raise BundleTooNew(f"bundle schema {shown(schema)}; this software reads up to {SCHEMA}: upgrade glc-deploy")
        arithmetic = root.take("arithmetic", str)
        if arithmetic not in ("exact", "float"):
            raise BundleInvalid(f"manifest.json: arithmetic is {shown(arithmetic)}; expected 'exact' or 'float'")
        return cls(
            model_id=root.matching("model_id", _SHA256),
            checkpoint_id=root.matching("checkpoint_id", _SHA256),
            label=root.printable("label"),
            arithmetic=arithmetic,
            parameters=root.positive("parameters", 1 << 40),
            config=_config(root.fields("config")),
            graphs=_graphs(root, "graphs"),
            tables=_file(root.fields("tables")),
            conformance=_file(root.fields("conformance")) if arithmetic == "exact" else None,
            targets=_targets(root),
            tiles=_graphs(root, "tiles") if "tiles" in root.names() else {},
            producers={name: root.fields("producers").take(name, str) for name in root.fields("producers").names()},
        )


class _Fields:
    """A JSON object whose members are taken with a type, and named in errors."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise BundleInvalid(f"{where} must be a JSON object")
        self._value: dict[str, Any] = value
        self._where = where

    def names(self) -> list[str]:
        return list(self._value)

    def take(self, name: str, kind: type) -> Any:
        value = self._value.get(name)
        if type(value) is not kind:
            found = "missing" if name not in self._value else shown(value)
            raise BundleInvalid(f"{self._where}: {named(name)} is {found}; expected {kind.__name__}")
        return value

    def printable(self, name: str) -> str:
        value: str = self.take(name, str)
        if not value.isprintable():
            raise BundleInvalid(f"{self._where}: {name} is {shown(value)}; expected one line of printable text")
        return value

    def positive(self, name: str, most: int) -> int:
        value: int = self.take(name, int)
        if not 1 <= value <= most:
            raise BundleInvalid(f"{self._where}: {name} is {shown(value)}; expected 1..{most}")
        return value

    def matching(self, name: str, pattern: re.Pattern[str]) -> str:
        value: str = self.take(name, str)
        if not pattern.fullmatch(value):
            raise BundleInvalid(f"{self._where}: {name} is {shown(value)}; expected the form {pattern.pattern}")
        return value

    def fields(self, name: str) -> _Fields:
        return _Fields(self._value.get(name), f"{self._where}: {named(name)}")

    def each(self, name: str) -> list[_Fields]:
        items = self.take(name, list)
        return [_Fields(item, f"{self._where}: {name}[{i}]") for i, item in enumerate(items)]


def _config(fields: _Fields) -> CodecConfig:
    config = CodecConfig(
        latent_channels=fields.positive("latent_channels", 4096),
        downsampling=fields.positive("downsampling", 1024),
        codebook_entries=fields.positive("codebook_entries", (1 << 24) - 1),
        qualities=fields.positive("qualities", 256),
        attention_patch=fields.positive("attention_patch", 1 << 20),
    )
    if config.latent_channels % 4:
        raise BundleInvalid(f"manifest.json: latent_channels is {config.latent_channels}; expected a multiple of 4")
    return config


def _file(fields: _Fields) -> FileEntry:
    return FileEntry(
        fields.matching("name", _FILE_NAME),
        fields.matching("sha256", _SHA256),
        fields.positive("size_bytes", 1 << 40),
    )


def _graphs(root: _Fields, member: str) -> dict[str, GraphEntry]:
    graphs = root.fields(member)
    return {name: _graph(graphs.fields(name)) for name in graphs.names()}


def _graph(fields: _Fields) -> GraphEntry:
    return GraphEntry(
        file=_file(fields.fields("file")),
        parameters=fields.take("parameters", int),
        inputs=tuple(map(_tensor, fields.each("inputs"))),
        outputs=tuple(map(_tensor, fields.each("outputs"))),
    )


def _targets(root: _Fields) -> dict[str, CompiledTarget]:
    """Member `targets`, which bundles without compiled engines lack."""
    if "targets" not in root.names():
        return {}
    targets = root.fields("targets")
    return {name: _target(targets.fields(name)) for name in targets.names()}


def _target(fields: _Fields) -> CompiledTarget:
    key, engines, largest = fields.fields("key"), fields.fields("engines"), fields.take("largest", list)
    if len(largest) != 2 or not all(type(side) is int and side > 0 for side in largest):
        raise BundleInvalid(f"manifest.json: largest is {shown(largest)}; expected height and width")
    return CompiledTarget(
        key=TargetKey(*(key.matching(name, _KEY) for name in ("library", "version", "device", "precision"))),
        largest=(largest[0], largest[1]),
        engines={name: _file(engines.fields(name)) for name in engines.names()},
    )


def _tensor(fields: _Fields) -> TensorSpec:
    dtype = fields.take("dtype", str)
    shape = fields.take("shape", list)
    if dtype not in DTYPES or not all(size is None or (type(size) is int and size > 0) for size in shape):
        raise BundleInvalid(
            f"manifest.json: a tensor is {shown(dtype)} {shown(shape)}; expected one of {DTYPES} and sizes or null"
        )
    return TensorSpec(fields.take("name", str), dtype, tuple(shape))
