"""Options with which `glc-export` is told of further encoders and decoders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from glc.export.further_transforms import TransformFile
from glc.runtime.transforms import ANALYSIS, SYNTHESIS, is_transform_name

EncoderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder",
        metavar="NAME=FILE",
        help="Another encoder, such as one that restores: its checkpoint, or just the tensors that it replaces "
        "(vqgan.encoder.*, enc.*, hyper_enc.*, q_enc); may be repeated.",
        show_default=False,
    ),
]
DecoderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--decoder",
        metavar="NAME=FILE",
        help="Another decoder, such as one of a style (vqgan.generator.*, dec.*, q_dec); may be repeated.",
        show_default=False,
    ),
]
IntoOption = Annotated[
    Path | None,
    typer.Option(
        "--into",
        help="Bundle to add --encoder and --decoder to, in place of an export. Tensors that a file lacks come from "
        "--ckpt where it is given, else from the bundle.",
        show_default=False,
    ),
]


def transform_files(encoders: list[str] | None, decoders: list[str] | None) -> list[TransformFile]:
    """What is asked for.

    Raises:
        typer.BadParameter: not of the form, a name that none may have, or one that is given twice.
    """
    found = [
        TransformFile(f"{own}.{name}", Path(file))
        for own, option, texts in ((ANALYSIS, "--encoder", encoders), (SYNTHESIS, "--decoder", decoders))
        for name, file in (_parsed(option, text) for text in texts or ())
    ]
    for graph, count in Counter(one.graph.lower() for one in found).items():
        if count > 1:
            raise typer.BadParameter(f"{graph.partition('.')[2]} is given {count} times; names must differ")
    return found


def _parsed(option: str, text: str) -> tuple[str, str]:
    name, _, file = text.partition("=")
    if not file:
        raise typer.BadParameter(f"{option} is {text!r}; expected NAME=FILE, such as restore=restore.pth")
    if not is_transform_name(name):
        raise typer.BadParameter(
            f"{option} is {text!r}; a name is at most 32 letters, digits, - and _, begins with a letter or digit, and "
            "is not default, as the model's own is called"
        )
    return name, file
