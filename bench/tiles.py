"""`glc-bench tiles`: time and memory of large images under a limit, and what tiles change, each in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from glc.bench.app import BundleOption, app
from glc.bench.device import device_card
from glc.bench.memory import peak_memory_bytes
from glc.bench.output import CsvOption, LatexOption, MarkdownOption, Table, chosen_style, show
from glc.bench.tapped import TappedLoader
from glc.engines import engine_loader
from glc.errors import GlcError, MemoryLimitTooSmall
from glc.runtime.bundle import Bundle
from glc.runtime.codec import DEFAULT_MAX_PIXELS, Codec
from glc.runtime.demo import psnr_db
from glc.runtime.images import read_image
from glc.runtime.terminal import parsed_bytes, parsed_size

_PROGRAM = "from glc.bench.tiles import main; main()"


@dataclass(frozen=True, slots=True)
class TileRun:
    """What one process does: encode `folder`/image.npy, or decode `folder`/stream.glc."""

    folder: str
    bundle: str
    engine: str
    precision: str | None
    threads: int | None
    limit_bytes: int | None
    """None: in one piece."""
    decode: bool


@dataclass(frozen=True, slots=True)
class TileResult:
    """What came of it."""

    seconds: float
    """Loading of graphs included."""
    peak_bytes: int
    """Largest resident memory of the process."""
    plan: str
    """What was kept of each level, between blocks and within, and how, from full resolution down."""
    strip_rows: int
    """Height in pixels of a strip at full resolution; 0 in one piece."""


@dataclass(frozen=True, slots=True)
class TileRow:
    """One direction of one image under one limit."""

    direction: str
    height: int
    width: int
    limit_bytes: int | None
    result: TileResult

    @property
    def seconds_per_megapixel(self) -> float:
        """Time by size."""
        return self.result.seconds / (self.height * self.width / 1e6)


@dataclass(frozen=True, slots=True)
class TileDifference:
    """An image in tiles beside the same image in one piece."""

    symbols: int
    symbols_changed: int
    indices: int
    indices_changed: int
    psnr_db: float
    """Of the two decoded images of one stream, to each other."""
    at_borders: float
    """Mean absolute difference of pixel values in the four rows about each border of strips."""
    elsewhere: float
    """In all other rows."""
    largest_elsewhere: float
    """In four rows of each strip at another place, where it is largest."""


def run_tiles(run: TileRun) -> TileResult:
    """Run a process.

    Raises:
        MemoryLimitTooSmall: the image does not fit into the limit.
        GlcError: it failed otherwise; with its last words.
    """
    command = [sys.executable, "-c", _PROGRAM, json.dumps(asdict(run))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it was killed: not enough memory"])[-1]
        _, refused, why = last.partition(f"{MemoryLimitTooSmall.__name__}: ")
        raise MemoryLimitTooSmall(why) if refused else GlcError(last)
    return TileResult(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Run the specification in the arguments and print JSON."""
    print(json.dumps(asdict(_run(TileRun(**json.loads(sys.argv[1]))))))


def _run(run: TileRun) -> TileResult:
    folder = Path(run.folder)
    bundle = Bundle.open(run.bundle)
    loader = TappedLoader(engine_loader(run.engine, run.threads, run.precision), {})
    kind = "whole" if run.limit_bytes is None else "tiles"
    with Codec(bundle, loader, memory_limit_bytes=run.limit_bytes) as codec:
        start = time.perf_counter()
        if run.decode:
            image = codec.decode((folder / "stream.glc").read_bytes())
            seconds = time.perf_counter() - start
            peak = peak_memory_bytes()
            np.save(folder / f"{kind}_image.npy", image)
        else:
            pixels = np.load(folder / "image.npy")
            start = time.perf_counter()
            data = codec.encode(pixels)
            seconds = time.perf_counter() - start
            peak = peak_memory_bytes()
            if not (folder / "stream.glc").exists():
                (folder / "stream.glc").write_bytes(data)
            np.savez(folder / f"{kind}_symbols.npz", **loader.fetched)  # type: ignore[arg-type] # not its keyword
        plan = codec.tile_plan
        if plan is None:
            return TileResult(seconds, peak, "one piece", 0)
        layout = bundle.tile_layout()
        level = (layout.synthesis if run.decode else layout.analysis)[0]
        multiple = 4 * bundle.manifest.config.downsampling
        height, width, _ = np.load(folder / "image.npy", mmap_mode="r").shape
        rows = plan.strip_rows(level, *(-(-side // multiple) * multiple for side in (height, width)))
    kept = ", ".join(f"{one.features:.0%}/{one.within:.0%} in {one.storage}" for one in plan.kept)
    return TileResult(seconds, peak, kept, rows)


def measure_difference(folder: Path, strip_rows: int) -> TileDifference:
    """Compare what runs in one piece and in tiles left in a folder."""
    with np.load(folder / "whole_symbols.npz") as whole, np.load(folder / "tiles_symbols.npz") as tiles:
        changed = {name: (int((whole[name] != tiles[name]).sum()), whole[name].size) for name in whole}
    symbols = [counts for name, counts in changed.items() if name.startswith("symbols_")]
    images: list[NDArray[np.uint8]] = [np.load(folder / f"{kind}_image.npy") for kind in ("whole", "tiles")]
    by_row = np.array([np.abs(a.astype(np.int16) - b).mean() for a, b in zip(*images, strict=True)])
    # Place by place in a strip, in the middle of the image: its first and last rows have no border of strips.
    places = by_row[2 : 2 + (len(by_row) - 4) // strip_rows * strip_rows].reshape(-1, strip_rows).mean(axis=0)
    windows = np.convolve(np.concatenate([places, places[:3]]), np.full(4, 0.25), "valid")
    at_border = strip_rows - 4  # counted from the third row of a strip
    apart = np.delete(windows, [(at_border + n) % strip_rows for n in range(-3, 4)])
    return TileDifference(
        symbols=sum(size for _, size in symbols),
        symbols_changed=sum(count for count, _ in symbols),
        indices=changed["z_indices"][1],
        indices_changed=changed["z_indices"][0],
        psnr_db=psnr_db(*images),
        at_borders=float(windows[at_border]),
        elsewhere=float(apart.mean()),
        largest_elsewhere=float(apart.max()),
    )


@app.command()
def tiles(
    image: Annotated[Path, typer.Argument(help="Photograph; it is scaled to the size.")],
    bundle: BundleOption,
    size: Annotated[str, typer.Option("--size", help="Height x width in pixels.")] = "1536x2048",
    limits: Annotated[
        list[str] | None, typer.Option("--max-memory", help="Limit, such as 4G; may be repeated.", show_default=False)
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="In one piece too, and compare.")] = False,
    engine: Annotated[str, typer.Option("--engine", help="Of the CPU.")] = "openvino",
    precision: Annotated[str | None, typer.Option("--precision", help="Of analysis and synthesis.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; all by default.")] = None,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Time and memory of a large image under limits; with --whole also what tiles change."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    height, width = parsed_size(size)
    wanted: list[int | None] = [parsed_bytes(limit) for limit in limits or ()]
    rows: list[TileRow] = []
    refused: list[str] = []
    differences: list[TileDifference] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = Image.fromarray(read_image(image, DEFAULT_MAX_PIXELS).pixels)
        np.save(folder / "image.npy", np.asarray(pixels.resize((width, height), Image.Resampling.LANCZOS)))
        for limit in ([None] if whole else []) + wanted:
            for decode in (False, True):
                run = TileRun(name, str(bundle), engine, precision, threads, limit, decode)
                direction = "decode" if decode else "encode"
                try:
                    rows.append(TileRow(direction, height, width, limit, run_tiles(run)))
                except MemoryLimitTooSmall as refusal:
                    refused.append(f"{direction}: {refusal}")
            made = [row.result.strip_rows for row in rows if limit is not None and row.limit_bytes == limit]
            if whole and len(made) == 2 and all(made):  # what an earlier limit left must not be compared
                differences.append(measure_difference(folder, made[1]))
    show("tiles", _tables(rows, differences, refused), rows, style, device_card(), differences=differences)


def _tables(rows: list[TileRow], differences: list[TileDifference], refused: list[str]) -> list[Table]:
    made = [
        Table(
            "Large images, each run in a fresh process, loading included",
            ("direction", "size", "limit GiB", "peak GiB", "s", "s/MP", "kept", "strip rows"),
            [
                (
                    row.direction,
                    f"{row.width}x{row.height}",
                    "none" if row.limit_bytes is None else f"{row.limit_bytes / 2**30:.2f}",
                    f"{row.result.peak_bytes / 2**30:.2f}",
                    f"{row.result.seconds:.1f}",
                    f"{row.seconds_per_megapixel:.2f}",
                    row.result.plan,
                    str(row.result.strip_rows or ""),
                )
                for row in rows
            ],
            tuple(refused),
        )
    ]
    if differences:
        headings = (
            "symbols changed",
            "z indices changed",
            "PSNR dB",
            "difference at borders",
            "elsewhere",
            "largest elsewhere",
        )
        made.append(Table("Tiles beside one piece", headings, [_cells(one) for one in differences]))
    return made


def _cells(one: TileDifference) -> tuple[str, ...]:
    return (
        f"{one.symbols_changed} of {one.symbols} ({one.symbols_changed / one.symbols:.2e})",
        f"{one.indices_changed} of {one.indices}",
        f"{one.psnr_db:.1f}",
        f"{one.at_borders:.5f}",
        f"{one.elsewhere:.5f}",
        f"{one.largest_elsewhere:.5f}",
    )
