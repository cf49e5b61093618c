"""How measurements leave the program: aligned tables, Markdown, LaTeX or CSV; then one JSON document, the last line."""

from __future__ import annotations

import csv
import dataclasses
import enum
import io
import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from tabulate import tabulate

from glc.bench.device import DeviceCard


class Style(enum.StrEnum):
    """How a table is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"


_TABULATE = {Style.TEXT: "simple", Style.MARKDOWN: "github", Style.LATEX: "latex_booktabs"}


def _style_option(style: Style) -> Any:
    return typer.Option(f"--{style.value}", help=f"Write tables as {style.value.capitalize()}.")


MarkdownOption = Annotated[bool, _style_option(Style.MARKDOWN)]
LatexOption = Annotated[bool, _style_option(Style.LATEX)]
CsvOption = Annotated[bool, _style_option(Style.CSV)]


def chosen_style(*, markdown: bool, latex: bool, as_csv: bool) -> Style:
    """What the options ask for.

    Raises:
        typer.BadParameter: more than one of them was given.
    """
    given = {Style.MARKDOWN: markdown, Style.LATEX: latex, Style.CSV: as_csv}
    asked = [style for style, wanted in given.items() if wanted]
    if len(asked) > 1:
        raise typer.BadParameter(f"give one of {', '.join(f'--{style.value}' for style in asked)}")
    return asked[0] if asked else Style.TEXT


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Cells as people read them; numbers are aligned by their dots."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    notes: tuple[str, ...] = ()

    def render(self, style: Style) -> str:
        """Title, cells and notes in one style; CSV has the cells only."""
        if style is Style.CSV:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerows([self.headings, *self.rows])
            return text.getvalue()
        cells = tabulate(
            self.rows, self.headings, tablefmt=_TABULATE[style], disable_numparse=True, colalign=self._alignment
        )
        mark = {Style.TEXT: "", Style.MARKDOWN: "", Style.LATEX: "% "}[style]
        title = f"### {self.title}" if style is Style.MARKDOWN else f"{mark}{self.title}"
        notes = "\n".join(f"{'- ' if style is Style.MARKDOWN else mark}{note}" for note in self.notes)
        return "\n\n".join(part for part in (title, cells, notes) if part) + "\n"

    @property
    def _alignment(self) -> tuple[str, ...] | None:
        """Text to the left, numbers to the right."""
        if not self.rows:
            return None
        return tuple(
            "right" if any(_is_number(row[c]) for row in self.rows) else "left" for c in range(len(self.headings))
        )


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or (cell[:1] in "+-" and cell[1:2].isdigit())


def show(
    command: str, tables: Sequence[Table], rows: Sequence[Any], style: Style, device: DeviceCard | None, **more: Any
) -> None:
    """Print tables, and last one line of JSON.

    Args:
        command: name of the command, for the document.
        tables: to print.
        rows: dataclass instances, or what JSON knows: the numbers in full.
        style: of the tables.
        device: what was measured on; None where nothing was timed.
        more: further members of the document, of the same kinds as rows.
    """
    for table in tables:
        print(table.render(style))
    if device is not None and style is not Style.CSV:
        print("\n".join(f"% {line}" if style is Style.LATEX else line for line in device.lines()) + "\n")
    document = {
        "command": command,
        "device": None if device is None else dataclasses.asdict(device),
        "rows": [_plain(row) for row in rows],
        "notes": [note for table in tables for note in table.notes],
        **{
            name: [_plain(one) for one in value] if isinstance(value, list) else _plain(value)
            for name, value in more.items()
        },
    }
    print(json.dumps(document))


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
