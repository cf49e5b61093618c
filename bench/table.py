"""`glc-bench table`: the paper's complexity tables, measured here, with the paper's own rows quoted as such."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from glc.bench.app import app
from glc.bench.device import device_card
from glc.bench.latency import AGAIN, SETTINGS, Config, LatencyRow, Parts, Setting, measure_table
from glc.bench.output import CsvOption, LatexOption, MarkdownOption, Table, chosen_style, show
from glc.bench.peers import PEERS
from glc.bench.timing import AGREEMENT, Spread, disagreement
from glc.engines.processor import available_threads
from glc.export import GlcModel, export_bundle, load_checkpoint, synthetic_model
from glc.export.synthetic import CONFIGS
from glc.runtime.bundle import Bundle
from glc.runtime.command import Decoder, Encoder, require_known
from glc.runtime.default_model import default_bundle, default_weights
from glc.runtime.transforms import ANALYSIS, OWN, SYNTHESIS, transforms

_ADDS_UP = 0.03
"""Medians of the parts of a row may miss the median of the whole by this much."""

_HEADINGS = (
    "row",
    "enc ms",
    "p95",
    "dec ms",
    "p95",
    "enc networks / coding / rest",
    "dec networks / coding / rest",
    "params M",
    "bpp estimate",
    "bpp file",
    "peak MiB",
    "import / open / first enc / first dec ms",
    "remark",
)


@app.command()
def table(
    config: Annotated[
        Config, typer.Option("--config", help="Model and size: that of Table 6, of Table 5, or the demo.")
    ],
    bundle: Annotated[
        Path | None, typer.Option("--bundle", "-b", help="Its bundle; exported to a temporary place without.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--ckpt", help="Its checkpoint; synthetic weights, or the demo's own, without.")
    ] = None,
    encoder: Encoder = OWN,
    decoder: Decoder = OWN,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; all by default.")] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", "-n", min=1, help="Timed turns, after one more.")] = 5,
    peer: Annotated[
        list[str] | None, typer.Option("--peer", help=f"Other codecs too: {', '.join(PEERS)}.", show_default=False)
    ] = None,
    peer_python: Annotated[
        str | None, typer.Option("--peer-python", help="Interpreter that has their package; this one by default.")
    ] = None,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Latency, memory and start-up of every engine beside PyTorch on this machine, in one run.

    Rows take turns, so that a slow moment of the machine meets all of them alike. Symbols are drawn at the paper's
    rate where the weights are not trained, since the entropy coder's time depends on it. PyTorch's rows are of the
    model's own encoder and decoder, whatever --encoder and --decoder choose.
    """
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    for package in peer or ():
        if package not in PEERS:
            raise typer.BadParameter(f"no peer is called {package!r}; choose one of {', '.join(PEERS)}")
    log = Console(stderr=True)
    with log.status("load weights") as status, tempfile.TemporaryDirectory() as folder:
        model = _model(config, checkpoint)
        path = bundle
        if path is None and config is Config.DEMO and checkpoint is None:
            path = default_bundle()
        if path is None:
            status.update("export a bundle")
            path = export_bundle(model, Path(folder) / "model.glcb", label=config.value).path
        graphs = Bundle.open(path).manifest.graphs
        require_known("--encoder", encoder, tuple(transforms(graphs, ANALYSIS)))
        require_known("--decoder", decoder, tuple(transforms(graphs, SYNTHESIS)))
        rows = measure_table(
            config,
            model,
            path,
            threads=threads or available_threads(),
            repetitions=repetitions,
            peers=peer or (),
            peer_python=peer_python,
            encoder=encoder,
            decoder=decoder,
            on_step=status.update,
        )
    show("table", [latency_table(rows, SETTINGS[config])], rows, style, device_card())


def latency_table(rows: Sequence[LatencyRow], setting: Setting) -> Table:
    """Cells and notes for people."""
    name = rows[0].config
    return Table(
        f"{name}, {setting.height}x{setting.width}", _HEADINGS, [_cells(row) for row in rows], _notes(rows, setting)
    )


def _model(config: Config, checkpoint: Path | None) -> GlcModel:
    if checkpoint is not None:
        return load_checkpoint(checkpoint)
    return load_checkpoint(default_weights()) if config is Config.DEMO else synthetic_model(CONFIGS[config.value])


def _notes(rows: Sequence[LatencyRow], setting: Setting) -> tuple[str, ...]:
    notes = [
        "Networks, entropy coding, and the rest (copies and Python) are parts of the time; medians over the turns.",
        "Import, open and first image: a fresh process; OpenVINO finds compiled graphs in its cache. Peak: its memory.",
    ]
    if setting.bpp is None:
        notes.append("A photograph of the package, mirrored at its edges; the estimate is the published one.")
    else:
        notes.append(
            f"Symbols drawn at {setting.bpp} bpp, the paper's rate: the networks run, then their results that reach "
            "the coder are replaced. The estimate is the ideal cost of what was drawn. Fresh processes code a picture."
        )
    measured = {row.row: row for row in rows if row.kind == "measured"}
    for name, again in measured.items():
        if name.endswith(AGAIN):
            first = measured[name.removesuffix(AGAIN)]
            notes.append(_agreement(first, again))
    apart = [name for name, row in measured.items() if row.encode_parts and not _adds_up(row)]
    notes.append(
        f"Parts do not add up within {_ADDS_UP:.0%} in: {', '.join(apart)}."
        if apart
        else f"The parts of every row add up to its total within {_ADDS_UP:.0%}."
    )
    return tuple(notes)


def _agreement(first: LatencyRow, again: LatencyRow) -> str:
    pairs = ((first.encode_samples_ms, again.encode_samples_ms), (first.decode_samples_ms, again.decode_samples_ms))
    encode, decode = (disagreement(Spread(a), Spread(b)) for a, b in pairs)
    found = f"{first.row} measured twice: medians {encode:.1%} (enc) and {decode:.1%} (dec) apart"
    if max(encode, decode) > AGREEMENT:
        return f"{found}: THE MACHINE WAS TOO NOISY, differences below that mean nothing."
    return f"{found}."


def _adds_up(row: LatencyRow) -> bool:
    wholes = ((row.encode_parts, row.encode_ms), (row.decode_parts, row.decode_ms))
    return all(parts and whole and abs(parts.sum_ms / whole - 1) <= _ADDS_UP for parts, whole in wholes)


def _cells(row: LatencyRow) -> list[str]:
    first = row.first_image
    return [
        row.row,
        _ms(row.encode_ms),
        _ms(Spread(row.encode_samples_ms).p95_ms) if row.encode_samples_ms else "",
        _ms(row.decode_ms),
        _ms(Spread(row.decode_samples_ms).p95_ms) if row.decode_samples_ms else "",
        _parts(row.encode_parts),
        _parts(row.decode_parts),
        "" if row.parameters is None else f"{row.parameters / 1e6:.1f}",
        "" if row.estimate_bpp is None else f"{row.estimate_bpp:.4f}",
        "" if row.file_bpp is None else f"{row.file_bpp:.4f}",
        "" if first is None else f"{first.peak_bytes / 2**20:.0f}",
        ""
        if first is None
        else f"{first.import_ms:.0f} / {first.open_ms:.0f} / {first.encode_ms:.0f} / {first.decode_ms:.0f}",
        row.remark if row.kind != "unavailable" else f"unavailable: {row.remark}",
    ]


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _parts(parts: Parts | None) -> str:
    return "" if parts is None else f"{parts.networks_ms:.0f} / {parts.entropy_coding_ms:.1f} / {parts.rest_ms:.1f}"
