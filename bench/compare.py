"""Two measurements beside each other: for regressions, and for two machines.

A.json, B.json -> rows matched by their keys -> ratio B/A of each measure -> interval where there are samples
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import numpy as np
import typer

from glc.bench.app import app
from glc.bench.output import CsvOption, LatexOption, MarkdownOption, Table, chosen_style, show

KEYS = frozenset({"threads", "batch", "width", "height", "quality", "payload_percent"})
"""Numbers that say what was measured, as every text does but a remark."""

_REMARKS = frozenset({"remark", "reason"})

_SAMPLES = "_samples_ms"

_UNITS = ("_ms", "_bytes", "_bits", "bpp")
"""Ends of the names of numbers that are compared though they stand alone."""

_PROGRAM = ("date", "commit", "packages", "python")
"""Fields of a device card that are not the machine's."""

_DRAWS = 10_000
"""Of the bootstrap."""

_CONFIDENCE = 0.95

LEAST_SAMPLES = 4
"""Fewer say nothing: of three and three, all lie apart by chance once in ten times."""

_LARGEST = 1e300
"""Numbers from here on are no measures; JSON's integers know no end."""

Key = tuple[tuple[str, str | float], ...]
"""Field and value of each text and of each of `KEYS`, and last which of several equal rows it is."""

Flat = Mapping[str, Any]
"""Of JSON values, in nested objects by names as `packages.numpy`."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a command of glc-bench printed last."""

    path: Path
    command: str
    device: Flat | None
    """The device card; None where nothing was timed."""
    rows: tuple[Flat, ...]


@dataclass(frozen=True, slots=True)
class DeviceDifference:
    """A field in which two device cards differ."""

    field: str
    a: str
    b: str
    machine: bool
    """Whether it is the machine's, not the program's."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One measure of one row in both documents."""

    row: str
    measure: str
    a: float
    """Median of the samples, or the one number that there is."""
    b: float
    ratio: float
    """B/A."""
    low: float | None
    """Bounds of the interval that holds the ratio; None where a number stands alone."""
    high: float | None
    verdict: str
    """`slower` or `faster` where the interval excludes 1; else why nothing can be said."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare_documents` found."""

    command: str
    differences: tuple[DeviceDifference, ...]
    ratios: tuple[Ratio, ...]
    only_a: tuple[str, ...]
    """Rows that the other document has not."""
    only_b: tuple[str, ...]


def read_document(path: Path) -> Document:
    """Read the last line of a file.

    Raises:
        ValueError: there is no such file, or the line is not what a command prints last.
    """
    try:
        lines = path.read_text(encoding="utf-8").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "not text"
        raise ValueError(f"cannot read {path}: {reason}") from error
    wanted = "expected the JSON document that glc-bench prints as its last line"
    try:
        found = json.loads(lines[-1] if lines else "")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the last line is no JSON; {wanted}") from error
    if not isinstance(found, dict) or not isinstance(found.get("command"), str):
        raise ValueError(f"{path}: no field `command`; {wanted}")
    device, rows = found.get("device"), found.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: no list `rows`; {wanted}")
    if device is not None and not isinstance(device, dict):
        raise ValueError(f"{path}: no device card; {wanted}")
    cards = None if device is None else dict(_flatten(device))
    return Document(path, found["command"], cards, tuple(dict(_flatten(row)) for row in rows))


def compare_documents(a: Document, b: Document, seed: int = 0) -> Comparison:
    """Match rows by their keys, the n-th of equal ones with the n-th, and compare what both measure.

    Raises:
        ValueError: the documents are of different commands.
    """
    if a.command != b.command:
        raise ValueError(f"{a.path} is of the command {a.command}, {b.path} of {b.command}: nothing to compare")
    rows_a, rows_b = _by_key(a.rows), _by_key(b.rows)
    names = _names({**rows_b, **rows_a})
    random = np.random.default_rng(seed)
    ratios = [
        ratio for key, row in rows_a.items() if key in rows_b for ratio in _ratios(names[key], row, rows_b[key], random)
    ]
    return Comparison(
        command=a.command,
        differences=tuple(_differences(a.device, b.device)),
        ratios=tuple(ratios),
        only_a=tuple(names[key] for key in rows_a if key not in rows_b),
        only_b=tuple(names[key] for key in rows_b if key not in rows_a),
    )


def ratio_interval(a: Sequence[float], b: Sequence[float], random: np.random.Generator) -> tuple[float, float]:
    """Bootstrap interval of the ratio of medians, median(b) / median(a); both are drawn anew, independently."""
    medians = [np.median(random.choice(np.asarray(x, float), (_DRAWS, len(x))), axis=1) for x in (a, b)]
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(medians[1] / medians[0], (tail, 1 - tail))
    return float(low), float(high)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="What a command printed: its last line, or all.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="What the same command printed another time.")],
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Ratios B/A of two measurements with their spread, for regressions and for two machines."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    try:
        found = compare_documents(read_document(a), read_document(b))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    show("compare", [_device_table(found), _ratio_table(found, a, b)], [*found.differences, *found.ratios], style, None)


def _device_table(found: Comparison) -> Table:
    different = any(difference.machine for difference in found.differences)
    rows = [(difference.field, difference.a, difference.b) for difference in found.differences]
    notes = () if rows else ("no field of the device cards differs",)
    return Table("DIFFERENT DEVICES" if different else "Same device", ("device card", "A", "B"), rows, notes)


def _ratio_table(found: Comparison, a: Path, b: Path) -> Table:
    rows = [
        (
            *(ratio.row, ratio.measure, f"{ratio.a:.6g}", f"{ratio.b:.6g}", f"{ratio.ratio:.3f}"),
            "" if ratio.low is None or ratio.high is None else f"{ratio.low:.3f} to {ratio.high:.3f}",
            ratio.verdict,
        )
        for ratio in found.ratios
    ]
    notes = [
        *(f"only in A: {name}" for name in found.only_a),
        *(f"only in B: {name}" for name in found.only_b),
        *(() if rows else ("no row is in both",)),
        f"A is {a}, B is {b}; of samples, the ratio of the medians",
        f"interval: {_CONFIDENCE:.0%}, bootstrap of the samples of each run; runs that differ otherwise are not in it",
    ]
    headings = ("row", "measure", "A", "B", "B/A", "interval", "verdict")
    return Table(f"{found.command}: B against A", headings, rows, tuple(notes))


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _flatten(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _differences(a: Flat | None, b: Flat | None) -> Iterator[DeviceDifference]:
    if a is None or b is None:
        if a is not b:
            yield DeviceDifference("all", _presence(a), _presence(b), machine=True)
        return
    for field in dict.fromkeys((*a, *b)):
        if a.get(field) != b.get(field):
            machine = field.partition(".")[0] not in _PROGRAM
            yield DeviceDifference(field, _text(a.get(field)), _text(b.get(field)), machine)


def _presence(card: Flat | None) -> str:
    return "no card" if card is None else "a card"


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "none" if value is None else str(value)


def _by_key(rows: Sequence[Flat]) -> dict[Key, Flat]:
    found: dict[Key, Flat] = {}
    repeats: Counter[Key] = Counter()
    for row in rows:
        key = tuple(sorted((field, value) for field, value in row.items() if _is_key(field, value)))
        repeats[key] += 1
        found[*key, ("#", repeats[key])] = row
    return found


def _is_key(field: str, value: object) -> bool:
    name = field.rpartition(".")[2]
    return (isinstance(value, str) and name not in _REMARKS) or (name in KEYS and _is_number(value))


def _names(rows: Mapping[Key, Flat]) -> dict[Key, str]:
    """What tells each row from the others, in the order of its fields; where that is nothing, all its keys."""
    common = set.intersection(*map(set[tuple[str, str | float]], rows)) if rows else set()
    names = {}
    for key, row in rows.items():
        order = [*row, "#"]
        parts = sorted(set(key) - common or set(key[:-1]), key=lambda part: order.index(part[0]))
        names[key] = ", ".join(value if isinstance(value, str) else f"{field} {value}" for field, value in parts)
    return names


def _ratios(name: str, a: Flat, b: Flat, random: np.random.Generator) -> Iterator[Ratio]:
    for field, value in a.items():
        if field.endswith(_SAMPLES) and _is_samples(value) and _is_samples(b.get(field)):
            other = b[field]
            first, second = float(np.median(value)), float(np.median(other))
            low, high = ratio_interval(value, other, random)
            enough = min(len(value), len(other)) >= LEAST_SAMPLES
            verdict = _verdict(low, high) if enough else f"fewer than {LEAST_SAMPLES} samples"
            yield Ratio(name, f"{field.removesuffix(_SAMPLES)}_ms", first, second, second / first, low, high, verdict)
        elif _stands_alone(field, a) and _is_number(value) and _is_number(b.get(field)) and value > 0:
            verdict = "equal" if value == b[field] else "one number each"
            yield Ratio(name, field, value, b[field], b[field] / value, None, None, verdict)


def _verdict(low: float, high: float) -> str:
    if low > 1:
        return "slower"
    return "faster" if high < 1 else "no difference seen"


def _stands_alone(field: str, row: Flat) -> bool:
    """Whether a number is a measure without samples; a median of samples is not."""
    return field.endswith(_UNITS) and f"{field.removesuffix('_ms')}{_SAMPLES}" not in row


def _is_samples(value: object) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) > 0 and all(_is_number(one) and one > 0 for one in value)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
