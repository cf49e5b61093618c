"""The entropy coder alone: what a symbol costs, in time and memory, should not depend on the size of the image."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from glc.bench.app import BundleOption, app
from glc.bench.coder_peer import PeerCoder, PeerCoderTurn
from glc.bench.device import device_card
from glc.bench.drawn import draw_part, level_probabilities, symbol_bits
from glc.bench.output import CsvOption, LatexOption, MarkdownOption, Table, chosen_style, show
from glc.bench.timing import milliseconds, take_turns
from glc.errors import EngineFailed
from glc.runtime.bundle import Bundle
from glc.runtime.entropy import PayloadDecoder, PayloadEncoder, SymbolModels
from glc.runtime.spatial_walk import PARTS
from glc.runtime.terminal import parsed_size


@dataclass(frozen=True, slots=True)
class CoderRow:
    """The symbols of one image, written and read."""

    height: int
    width: int
    symbols: int
    payload_bytes: int
    encode_ms: float
    """Least of the turns."""
    decode_ms: float
    """Likewise."""
    encode_peak_bytes: int
    """Largest size of the arrays that encoding takes beside its input, of which it holds one part after the other."""
    decode_peak_bytes: int
    """Likewise, its results included."""
    peer: PeerCoderTurn | None = None
    """CompressAI's coder on the same symbols, least of the turns; None where it was not asked for."""


def measure_coder(
    bundle: Bundle,
    sizes: Sequence[tuple[int, int]],
    bpp: float,
    repetitions: int,
    seed: int = 0,
    peer_python: str | None = None,
) -> list[CoderRow]:
    """Write and read drawn symbols of images of these sizes, in turns.

    Args:
        bundle: whose scale table and channels are used.
        sizes: heights and widths in pixels.
        bpp: bits per pixel of the payload.
        repetitions: turns that count.
        seed: of the draws.
        peer_python: interpreter whose CompressAI takes turns too; None leaves it out.

    Raises:
        EngineUnavailable: CompressAI is not there.
        BundleError: the bundle's tables cannot be read.
        EngineFailed: what is read is not what was written.
        ValueError: no mixture of the table's scales has this rate.
    """
    table, config = bundle.tables().scales, bundle.manifest.config
    models = SymbolModels(table)
    cases = []
    for height, width in sizes:
        rows, columns = (-(-side // (4 * config.downsampling)) for side in (height, width))
        levels = level_probabilities(table, symbol_bits(bundle, height, width, bpp))
        drawn = draw_part(table, levels, (config.latent_channels, 2 * rows, 2 * columns), seed)
        cases.append(_Case(models, *drawn))
        if any(not np.array_equal(part, cases[-1].symbols) for part in cases[-1].decode()):
            raise EngineFailed(f"{height}x{width}: what was read is not what was written")
    runs: dict[str, Callable[[], tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        for number, case in enumerate(cases):
            for way in (case.encode, case.decode):
                runs[f"{number} {way.__name__}"] = partial(_timed, way)
            if peer_python is not None:
                file = Path(folder, f"{number}.npz")
                peer = PeerCoder(peer_python, case.symbols, case.indices, PARTS, table, file)
                processes.callback(peer.close)
                runs[f"{number} peer"] = partial(_peer_turn, peer)
        turns = take_turns(runs, repetitions)
    least = {name: tuple(map(min, zip(*samples, strict=True))) for name, samples in turns.items()}
    return [
        CoderRow(
            *size,
            symbols=PARTS * case.symbols.size,
            payload_bytes=len(case.payload),
            encode_ms=least[f"{number} encode"][0],
            decode_ms=least[f"{number} decode"][0],
            encode_peak_bytes=_peak_bytes(case.encode),
            decode_peak_bytes=_peak_bytes(case.decode),
            peer=None if peer_python is None else PeerCoderTurn(*least[f"{number} peer"]),
        )
        for number, (size, case) in enumerate(zip(sizes, cases, strict=True))
    ]


def _timed(call: Callable[[], object]) -> tuple[float]:
    return (milliseconds(call),)


def _peer_turn(peer: PeerCoder) -> tuple[float, ...]:
    return dataclasses.astuple(peer.turn())


class _Case:
    """One image's symbols: the same for all four parts."""

    def __init__(self, models: SymbolModels, indices: NDArray[np.uint8], symbols: NDArray[np.int32]) -> None:
        self._models = models
        self.indices, self.symbols = indices, symbols
        self.payload = self.encode()

    def encode(self) -> bytes:
        encoder = PayloadEncoder(self._models)
        for _ in range(PARTS):
            encoder.put_part(self.symbols, self.indices)
        return encoder.finish()

    def decode(self) -> list[NDArray[np.int32]]:
        decoder = PayloadDecoder(self._models, self.payload)
        return [decoder.get_part(self.indices) for _ in range(PARTS)]


def _peak_bytes(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@app.command()
def coder(
    bundle: BundleOption,
    size: Annotated[list[str], typer.Option(help="Height x width in pixels; may be repeated.")] = [  # noqa: B006
        "512x768",
        "2160x3840",
        "4320x7680",
    ],
    bpp: Annotated[float, typer.Option(help="Bits per pixel of the payload.", min=0.001)] = 0.03,
    repetitions: Annotated[int, typer.Option(help="Turns; the least counts.", min=1)] = 3,
    peer_python: Annotated[
        str | None, typer.Option("--peer-python", help="Interpreter with CompressAI, whose coder takes turns too.")
    ] = None,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Time and memory of the entropy coder alone, on drawn symbols of small and large images."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    rows = measure_coder(
        Bundle.open(bundle), [parsed_size(text) for text in size], bpp, repetitions, peer_python=peer_python
    )
    tables = [_table(rows, bpp)] if peer_python is None else [_table(rows, bpp), _peer_table(rows)]
    show("coder", tables, rows, style, device_card())


def _table(rows: Sequence[CoderRow], bpp: float) -> Table:
    cells = [
        (
            f"{row.height}x{row.width}",
            f"{row.symbols:,}",
            f"{row.encode_ms:.1f}",
            f"{row.decode_ms:.1f}",
            f"{1e6 * row.encode_ms / row.symbols:.1f}",
            f"{1e6 * row.decode_ms / row.symbols:.1f}",
            f"{row.encode_peak_bytes / row.symbols:.1f}",
            f"{row.decode_peak_bytes / row.symbols:.1f}",
        )
        for row in rows
    ]
    headings = (
        *("image", "symbols", "enc ms", "dec ms", "enc ns a symbol", "dec ns a symbol"),
        *("enc bytes a symbol", "dec bytes a symbol"),
    )
    notes = (
        f"Four parts at {bpp:g} bits per pixel, drawn; one thread; the least of the turns, which all sizes take.",
        "Memory: arrays at their largest, beside the input; that of the payload itself is not counted.",
    )
    return Table("Entropy coder", headings, cells, notes)


def _peer_table(rows: Sequence[CoderRow]) -> Table:
    cells = []
    for row in rows:
        if row.peer is None:
            continue
        pairs = (
            *((row.encode_ms, row.peer.encode_ms), (row.decode_ms, row.peer.decode_ms)),
            *((row.encode_ms, row.peer.encode_alone_ms), (row.decode_ms, row.peer.decode_alone_ms)),
        )
        times = (f"{theirs:.1f} ({theirs / ours:.1f}x)" for ours, theirs in pairs)
        cells.append((f"{row.height}x{row.width}", *times, f"{row.peer.payload_bytes / row.payload_bytes - 1:+.2%}"))
    headings = ("image", "enc ms", "dec ms", "enc ms, lists made", "dec ms, lists made", "bytes")
    notes = (
        "From arrays and back to arrays, as ours; lists made: without making the lists of numbers that it takes.",
        "Behind each time, how many times ours it is. It takes all parts at once, at 16 bits of probability.",
    )
    return Table("CompressAI's coder on the same symbols, scale indices and probabilities", headings, cells, notes)
