"""manifest.json: what is written reads back, and whatever does not follow docs/bundle.md is refused by name."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from glc.errors import BundleInvalid, BundleTooNew
from glc.runtime.manifest import SCHEMA, CodecConfig, FileEntry, GraphEntry, Manifest
from glc.runtime.signatures import signatures

MANIFEST = Manifest(
    model_id="0f" * 32,
    checkpoint_id="1e" * 32,
    label="made for tests",
    arithmetic="exact",
    parameters=1234,
    config=CodecConfig(latent_channels=32, downsampling=16, codebook_entries=256, qualities=4, attention_patch=32),
    graphs={
        name: GraphEntry(FileEntry(f"graphs/{name}.onnx", "a1" * 32, 99), 7, signature.inputs, signature.outputs)
        for name, signature in signatures(32).items()
    },
    tables=FileEntry("tables.npz", "b2" * 32, 1000),
    conformance=FileEntry("conformance.npz", "c3" * 32, 2000),
    producers={"glc-deploy": "0.1.0"},
)
DOCUMENT: dict[str, Any] = json.loads(MANIFEST.to_json())

Where = tuple[str | int, ...]


def _members(value: Any, where: Where = ()) -> Iterator[Where]:
    """Every member and the first item of every list; one graph stands for all."""
    if isinstance(value, dict):
        for name, member in value.items():
            if where != ("graphs",) or name == "analysis":
                yield (*where, name)
                yield from _members(member, (*where, name))
    elif isinstance(value, list):
        yield (*where, 0)
        yield from _members(value[0], (*where, 0))


MEMBERS = list(_members(DOCUMENT))


def _changed(where: Where, value: Any) -> str:
    """The manifest with another value in one place."""
    document = copy.deepcopy(DOCUMENT)
    place: Any = document
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    return json.dumps(document)


def _value(where: Where) -> Any:
    value: Any = DOCUMENT
    for key in where:
        value = value[key]
    return value


def _refusal(text: str | bytes) -> str:
    """The message of BundleInvalid: one short line that names the file."""
    with pytest.raises(BundleInvalid) as caught:
        Manifest.from_json(text)
    message = str(caught.value)
    assert "manifest.json" in message
    assert message.isprintable()
    assert len(message) < 500
    return message


def _dotted(where: Where) -> str:
    return ".".join(map(str, where))


def test_a_manifest_reads_back_as_it_was_written() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert Manifest.from_json(MANIFEST.to_json().encode()) == MANIFEST


def test_equal_manifests_are_written_as_equal_bytes() -> None:
    assert Manifest.from_json(MANIFEST.to_json()).to_json() == MANIFEST.to_json()


def test_files_are_those_of_all_graphs_the_cases_and_the_tables() -> None:
    names = [entry.name for entry in MANIFEST.files()]
    assert sorted(names) == sorted(
        [*(f"graphs/{name}.onnx" for name in signatures(32)), "conformance.npz", "tables.npz"]
    )


@pytest.mark.parametrize("where", MEMBERS, ids=_dotted)
def test_a_member_of_another_type_is_refused(where: Where) -> None:
    was = _value(where)
    others: tuple[Any, ...] = (None, True, 1, 1.0, "text", [], {})
    for other in others:
        if type(other) is not type(was) and not ("shape" in where and type(other) is int):
            if other is None and where[-2:] == ("shape", 0):
                continue  # a free axis
            message = _refusal(_changed(where, other))
            assert isinstance(where[-1], int) or where[-1] in message


@pytest.mark.parametrize(
    "where",
    [where for where in MEMBERS if isinstance(where[-1], str) and where[-2:-1] not in (("graphs",), ("producers",))],
    ids=_dotted,
)
def test_a_missing_member_is_named(where: Where) -> None:
    document = copy.deepcopy(DOCUMENT)
    place: Any = document
    for key in where[:-1]:
        place = place[key]
    del place[where[-1]]
    assert str(where[-1]) in _refusal(json.dumps(document))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("format",), "other-bundle"),
        (("schema",), 0),
        (("schema",), -1),
        (("arithmetic",), "fuzzy"),
        (("model_id",), "0f" * 31),
        (("model_id",), "0F" * 32),
        (("model_id",), "0f" * 32 + "\n"),
        (("parameters",), 0),
        (("config", "latent_channels"), 0),
        (("config", "latent_channels"), 33),
        (("config", "latent_channels"), 1 << 40),
        (("config", "downsampling"), -16),
        (("config", "codebook_entries"), 0),
        (("config", "codebook_entries"), 1 << 24),
        (("config", "qualities"), 0),
        (("config", "attention_patch"), 0),
        (("tables", "size_bytes"), -1),
        (("tables", "size_bytes"), 1 << 60),
        (("tables", "sha256"), "g" * 64),
        (("graphs", "analysis", "inputs", 0, "dtype"), "object"),
        (("graphs", "analysis", "inputs", 0, "shape"), [1, 0, None]),
        (("graphs", "analysis", "inputs", 0, "shape"), [1, -1, None]),
    ],
    ids=lambda value: _dotted(value) if isinstance(value, tuple) else repr(value)[-24:],
)
def test_a_value_out_of_range_is_refused(where: Where, value: Any) -> None:
    _refusal(_changed(where, value))


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/../../b",
        "..",
        ".",
        "",
        "a/",
        "/",
        "a//b",
        "./a",
        ".hidden",
        "a/.hidden",
        "-rf",
        "a\\b",
        "C:x",
        "a b",
        "a\0b",
        "a\n",
        "~/x",
        "\N{FULLWIDTH FULL STOP}./x",
        "tables.npz\x1b[2J",
        "a/" * 100 + "a",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("where", [("tables", "name"), ("graphs", "analysis", "file", "name")], ids=_dotted)
def test_a_file_name_that_could_leave_the_bundle_is_refused(where: Where, name: str) -> None:
    _refusal(_changed(where, name))


@pytest.mark.parametrize("label", ["two\nlines", "return\r", "\x1b[31mred", "tab\t", "\0", "\ud800"], ids=ascii)
def test_a_label_is_one_line_that_any_terminal_can_print(label: str) -> None:
    assert "label" in _refusal(_changed(("label",), label))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("glc-bundle", id="text"),
        pytest.param("[]", id="a list"),
        pytest.param("null", id="null"),
        pytest.param(MANIFEST.to_json()[:-9], id="truncated"),
        pytest.param(b"\xff\xfe\xfd", id="not UTF-8"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0", id="an image"),
        pytest.param("[" * 100_000, id="deep nesting"),
        pytest.param('{"a":' * 100_000, id="deep nesting of objects"),
        pytest.param('{"schema": ' + "9" * 5000 + "}", id="a number of 5000 digits"),
    ],
)
def test_what_is_no_json_object_is_refused(text: str | bytes) -> None:
    _refusal(text)


def test_deep_nesting_in_an_unknown_member_is_refused_or_ignored() -> None:
    nested = json.dumps(DOCUMENT)[:-1] + ', "unknown": ' + "[" * 100_000 + "]" * 100_000 + "}"
    with contextlib.suppress(BundleInvalid):
        assert Manifest.from_json(nested) == MANIFEST


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("format",), "x" * 100_000),
        (("arithmetic",), "x" * 100_000),
        (("model_id",), "x" * 100_000),
        (("tables", "name"), "/" * 100_000),
        (("tables", "size_bytes"), 10**4000),
        (("graphs", "analysis", "inputs", 0, "dtype"), "x" * 100_000),
        (("graphs", "analysis", "inputs", 0, "shape"), [0] * 100_000),
    ],
    ids=lambda value: _dotted(value) if isinstance(value, tuple) else "",
)
def test_a_message_stays_short_however_long_the_value(where: Where, value: Any) -> None:
    _refusal(_changed(where, value))


@pytest.mark.parametrize(
    "name", ["\x1b[2J", "two\nlines", "\u202etxt", "\ud800", "x" * 100_000], ids=lambda name: ascii(name[:9])
)
@pytest.mark.parametrize("member", ["graphs", "producers"])
def test_a_message_shows_no_name_that_a_terminal_would_obey_or_that_is_long(member: str, name: str) -> None:
    _refusal(_changed((member, name), 5))


@pytest.mark.parametrize("schema", [SCHEMA + 1, 99, 10**4000], ids=["next", "99", "huge"])
def test_a_later_schema_says_to_upgrade_whatever_else_it_changes(schema: int) -> None:
    later = {"format": "glc-bundle", "schema": schema, "graphs": "in another form"}
    with pytest.raises(BundleTooNew, match="upgrade") as caught:
        Manifest.from_json(json.dumps(later))
    assert len(str(caught.value)) < 500


def test_members_and_graphs_that_are_not_known_are_ignored() -> None:
    document = {**DOCUMENT, "unknown": {"a": [1, None]}, "config": {**DOCUMENT["config"], "unknown": 1.5}}
    document["graphs"] = {**DOCUMENT["graphs"], "unknown": DOCUMENT["graphs"]["analysis"]}
    found = Manifest.from_json(json.dumps(document))
    assert found.config == MANIFEST.config
    assert {**MANIFEST.graphs, "unknown": MANIFEST.graphs["analysis"]} == found.graphs


def test_a_tensor_may_have_fixed_and_free_axes() -> None:
    found = Manifest.from_json(_changed(("graphs", "analysis", "inputs", 0, "shape"), [1, None, 7]))
    assert found.graphs["analysis"].inputs[0].shape == (1, None, 7)
