"""Seeded damage to bundles: members, manifest, zip structure, tables and graphs, with and without the right hash."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hostile import member_mutations as members
from tests.hostile.graph_mutations import mutated_graph

from glc.runtime.signatures import step_signatures

MANIFEST = "manifest.json"

Draw = random.Random

_ODD_NAMES = (
    "../manifest.json",
    "graphs/../../outside",
    "/etc/passwd",
    "/dev/zero",
    "..",
    ".",
    "",
    "graphs",
    "graphs//synthesis.onnx",
    "graphs\\synthesis.onnx",
    "C:tables.npz",
    "a" * 300,
    "a/" * 5000 + "a",
    "a" * 1_000_000,
    "tables.npz\0",
    "tables.npz\n",
    "\x1b[2J",
    "\u202etxt",
    "\ud800",
    MANIFEST,
)
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2, 4, 21, 255, 256, 1024, 4096, (1 << 24) - 1, 1 << 31, 1 << 40, 1 << 64, 10**400),
    *(0.5, -0.0, 1e400, float("nan"), "", "exact", "float", "uint8", "f" * 64, [], {}, [[]], [None] * 4),
    *_ODD_NAMES,
)
_COMPRESSIONS = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@dataclass(frozen=True, slots=True)
class Source:
    """A whole bundle, unpacked."""

    folder: Path

    @classmethod
    def unpack(cls, bundle: Path, folder: Path) -> Source:
        """Take a bundle in a zip apart."""
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(folder)
        return cls(folder)

    def members(self) -> list[str]:
        """Every file but the manifest and what is not read here, where damage goes unseen: steps, and tiles."""
        files = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return [name for name in files if name != MANIFEST and not _is_unread(Path(name).stem)]


def _is_unread(graph: str) -> bool:
    return graph.startswith("tile_") or graph in step_signatures(4)


@dataclass(slots=True)
class Draft:
    """A bundle that is being changed."""

    source: Source
    document: Any
    """The manifest."""
    text: bytes | None = None
    """The manifest's file where it is not the document."""
    changed: dict[str, bytes | None] = field(default_factory=dict)
    """Member -> other content; None where it is left out."""
    doubled: list[tuple[str, bytes]] = field(default_factory=list)
    """Members that a zip has once more."""
    odd_files: dict[str, Callable[[Path], object]] = field(default_factory=dict)
    """Member of a directory -> what makes it something else than a file."""
    compression: int = zipfile.ZIP_STORED
    """Of what is not a graph."""
    damage: Callable[[bytes], bytes] | None = None
    """What becomes of the zip's bytes."""
    altered: bool = False
    """Whether a file is not what the manifest says, or the manifest not one, so that `verify` must say so."""
    unusable: bool = False
    """Whether loading the graphs must fail."""
    beyond: bool = False
    """Whether a forged graph has a matching hash."""

    def content(self, name: str) -> bytes:
        """What a member holds now."""
        changed = self.changed.get(name)
        return (self.source.folder / name).read_bytes() if changed is None else changed

    def put(self, name: str, content: bytes, *, rehash: bool) -> None:
        """Change a member, with or without its entry in the manifest."""
        if content != self.content(name):
            self.altered = self.altered or not rehash
        self.changed[name] = content
        if rehash:
            entry = _entry(self.document, name)
            entry.update(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))

    def write(self, target: Path, *, zipped: bool) -> None:
        """Write it as a zip or a directory."""
        text = json.dumps(self.document).encode() if self.text is None else self.text
        contents = {name: self.changed.get(name, b"") for name in self.source.members()}
        if not zipped:
            for name in (MANIFEST, *contents):
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if name in self.odd_files:
                    self.odd_files[name](path)
                elif name == MANIFEST or name in self.changed:
                    content = text if name == MANIFEST else self.changed[name]
                    if content is not None:
                        path.write_bytes(content)
                else:
                    os.link(self.source.folder / name, path)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names that are there twice
            with zipfile.ZipFile(target, "w") as archive:
                for name in contents:
                    if self.changed.get(name, b"") is not None:
                        archive.writestr(zipfile.ZipInfo(name), self.content(name), self._method(name))
                archive.writestr(zipfile.ZipInfo(MANIFEST), text, self.compression)
                for name, content in self.doubled:
                    archive.writestr(zipfile.ZipInfo(name), content)
        if self.damage is not None:
            target.write_bytes(self.damage(target.read_bytes()))

    def _method(self, name: str) -> int:
        # Graphs are large, and packing them would take longer than all else.
        return zipfile.ZIP_STORED if name.endswith(".onnx") else self.compression


@dataclass(frozen=True, slots=True)
class BundleCase:
    """A bundle on disk, and what must become of it."""

    kind: str
    path: Path
    altered: bool = False
    unusable: bool = False
    beyond: bool = False


def mutated_bundle(source: Source, seed: int, number: int, target: Path) -> BundleCase:
    """Write one case; it does not depend on the others."""
    draw = random.Random(f"bundle {seed} {number}")
    draft = Draft(source, json.loads((source.folder / MANIFEST).read_text()))
    mutation = draw.choice(MUTATIONS)
    detail = mutation(draft, draw)
    zipped = not draft.odd_files and (bool(draft.doubled) or draft.damage is not None or draw.random() < 0.5)
    if zipped and draft.damage is None and draw.random() < 0.1:
        draft.compression = draw.choice(_COMPRESSIONS)
    draft.write(target, zipped=zipped)
    kind = f"{mutation.__name__}{detail and ':'}{detail}+{'zip' if zipped else 'directory'}"
    return BundleCase(kind, target, draft.altered, draft.altered or draft.unusable, draft.beyond)


def alter_member(draft: Draft, draw: Draw) -> str:
    """Change bytes of any member and not its hash."""
    name = draw.choice(draft.source.members())
    content = draft.content(name)
    while content == draft.content(name):
        content = members.mutated_bytes(content, draw)
    draft.put(name, content, rehash=False)
    return name


def swap_members(draft: Draft, draw: Draw) -> str:
    """Give two members each other's content."""
    one, other = draw.sample(draft.source.members(), 2)
    rehash = draw.random() < 0.5
    for name, content in ((other, draft.content(one)), (one, draft.content(other))):
        draft.put(name, content, rehash=rehash)
    draft.beyond = rehash
    return "rehash" if rehash else ""


def remove_member(draft: Draft, draw: Draw) -> str:
    """Leave a member out."""
    name = draw.choice(draft.source.members())
    draft.changed[name] = None
    draft.altered = True
    return name


def double_member(draft: Draft, draw: Draw) -> str:
    """Put a member into a zip a second time, with another content, or members beside it."""
    name = draw.choice((*draft.source.members(), *_ODD_NAMES[:6]))
    draft.doubled = [(name, draw.randbytes(99))]
    return name


def odd_file(draft: Draft, draw: Draw) -> str:
    """Make a member of a directory something that reads without end, or not at all."""
    name = draw.choice((MANIFEST, *draft.source.members()))
    kinds: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "endless": lambda path: path.symlink_to("/dev/zero"),
        "loop": lambda path: path.symlink_to(path.name),
        "dangling": lambda path: path.symlink_to("nowhere"),
        "folder": Path.mkdir,
        "unreadable": lambda path: path.symlink_to("/proc/self/mem"),
    }
    kind = draw.choice(list(kinds))
    draft.odd_files[name] = kinds[kind]
    draft.altered = True
    if kind == "endless" and name != MANIFEST and draw.random() < 0.5:
        _entry(draft.document, name).update(size_bytes=1 << draw.choice((26, 28)))
    return kind


def manifest_structure(draft: Draft, draw: Draw) -> str:
    """Put odd values and names into the manifest, swap or remove its members."""
    for _ in range(draw.choice((1, 1, 2, 5))):
        places = list(members.places(draft.document))
        if not places:
            break
        container, key = draw.choice(places)
        action = draw.randrange(5)
        if action == 0:
            container[key] = draw.choice(_ODD_VALUES)
        elif action == 1:
            other, other_key = draw.choice(places)
            container[key] = json.loads(json.dumps(other[other_key]))
        elif action == 2 and isinstance(container, dict):
            container[draw.choice(_ODD_NAMES)] = draw.choice((container[key], *_ODD_VALUES))
        elif action == 3 and isinstance(container, dict):
            container[draw.choice(_ODD_NAMES)] = container.pop(key)
        else:
            del container[key]
    return ""


def further_transform(draft: Draft, draw: Draw) -> str:
    """An encoder or decoder beside the model's own, with odd names, signatures and factors."""
    own, row = draw.choice((("analysis", "q_enc"), ("synthesis", "q_dec")))
    name = draw.choice(("x", "default", "a.b", "X" * 32, "X" * 33, *_ODD_NAMES))
    graphs = draft.document["graphs"]
    graphs[f"{own}.{name}"] = graphs[draw.choice((own, own, "analysis", "hyper_prior"))]
    if draw.random() < 0.7:
        content = members.with_array(
            draft.content("tables.npz"), f"{row}.x", row if draw.random() < 0.7 else "scale_reach"
        )
        draft.put("tables.npz", content, rehash=True)
    return own


def manifest_configuration(draft: Draft, draw: Draw) -> str:
    """Another configuration than the graphs'."""
    config = draft.document["config"]
    name = draw.choice(list(config))
    config[name] = draw.choice([value for value in _ODD_VALUES if type(value) is int])
    return str(name)


def manifest_paths(draft: Draft, draw: Draw) -> str:
    """Files outside, or nowhere."""
    entry = _entry(draft.document, draw.choice(draft.source.members()))
    entry["name"] = draw.choice(_ODD_NAMES)
    draft.altered = True
    return ""


def manifest_text(draft: Draft, draw: Draw) -> str:
    """A manifest that is not JSON, deep, long, or huge."""
    text = json.dumps(draft.document).encode()
    depth = draw.choice((100, 900, 980, 990, 1000, 5000, 200_000))
    opened, closed = draw.choice(((b"[", b"]"), (b'{"a":', b"1" + b"}")))
    nested = opened * depth + closed[:-1] + closed[-1:] * depth
    variants = (
        members.mutated_bytes(text, draw),
        text.replace(b'"schema": 1', b'"schema": ' + nested),
        text.replace(b'"label": ', b'"label": ' + nested + b', "x": '),
        text[:-1] + b', "x": ' + nested + b"}",
        text.replace(b'"schema": 1', b'"schema": ' + b"9" * draw.choice((20, 4300, 4301))),
        text.decode().encode(draw.choice(("utf-16", "utf-32", "utf-8-sig"))),
        text + b" " * draw.choice((1 << 20, (16 << 20) + 1)),
        text.replace(b'"producers": {', b'"producers": {' + b"".join(b'"%d": "", ' % i for i in range(100_000))),
    )
    draft.text = draw.choice(variants)
    return ""


def zip_damage(draft: Draft, draw: Draw) -> str:
    """Change the bytes of the zip, most of all those of its directory."""
    how = draw.choice((members.damaged_directory, members.mutated_bytes, members.rewritten_directory))
    if draw.random() < 0.3:
        draft.compression = draw.choice(_COMPRESSIONS)
    draft.damage = lambda content: how(content, draw)
    return how.__name__


def zip_bomb(draft: Draft, draw: Draw) -> str:
    """A small zip of a large file."""
    draft.compression = draw.choice(_COMPRESSIONS)
    large = bytes(draw.choice((1, 17, 80 if draft.compression == zipfile.ZIP_DEFLATED else 17)) << 20)
    name = draw.choice((MANIFEST, "tables.npz", "conformance.npz"))
    if name == MANIFEST:
        draft.text = large
    else:
        draft.put(name, large, rehash=draw.random() < 0.5)
    draft.unusable = True
    draft.damage = lambda content: content
    return name


def arrays(draft: Draft, draw: Draw) -> str:
    """Change tables.npz or conformance.npz as somebody would who also writes the hash."""
    name = draw.choice(("tables.npz", "tables.npz", "conformance.npz"))
    kind, content = members.mutated_arrays(draft.content(name), draw)
    draft.put(name, content, rehash=True)
    return f"{name}:{kind}"


def graph(draft: Draft, draw: Draw) -> str:
    """Change a graph as somebody would who also writes the hash, and in half of the cases call it one of floats."""
    name = draw.choice([name for name in draft.source.members() if name.endswith(".onnx")])
    kind, content = mutated_graph(draft.content(name), draw)
    draft.put(name, content, rehash=True)
    if draw.random() < 0.5:
        draft.document["arithmetic"] = "float"
        kind += ":float"
    draft.beyond = True
    return f"{Path(name).stem}:{kind}"


MUTATIONS: tuple[Callable[[Draft, Draw], str], ...] = (
    *(alter_member, swap_members, remove_member, double_member, odd_file),
    *(manifest_structure, manifest_structure, manifest_configuration, manifest_paths, manifest_text, further_transform),
    *(zip_damage, zip_damage, zip_bomb, arrays, arrays, arrays, graph, graph, graph, graph),
)


def remove(target: Path) -> None:
    """Take a case off the disk."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def _entry(document: Any, name: str) -> dict[str, Any]:
    """The manifest's entry of a member."""
    entries = [document["tables"], document["conformance"], *(graph["file"] for graph in document["graphs"].values())]
    return next(entry for entry in entries if entry["name"] == name)
