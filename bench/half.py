"""`glc-bench half`: what float16 does to images and files, by the very graphs that a GPU is given, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from glc.bench.app import BundleOption, app
from glc.bench.half_emulation import emulated
from glc.bench.output import CsvOption, LatexOption, MarkdownOption, Table, chosen_style, show
from glc.bench.tapped import TappedLoader
from glc.engines.ort import OrtLoader
from glc.errors import BundleError
from glc.export.exact_calibration import central_crop
from glc.export.targets import IMAGE_GRAPHS, target_graph
from glc.runtime.bundle import Bundle
from glc.runtime.codec import DEFAULT_MAX_PIXELS, Codec
from glc.runtime.demo import psnr_db
from glc.runtime.images import read_image


@dataclass(frozen=True, slots=True)
class HalfRow:
    """One photograph at one quality."""

    image: str
    quality: int
    symbols: int
    """Symbols of its latent."""
    symbols_changed: int
    """Of them, those that analysis in float16 changes, and those that follow from other parts' changes."""
    indices: int
    """Z indices."""
    indices_changed: int
    float_bytes: int
    """Size of the file with analysis in float32."""
    half_bytes: int
    """Size of the file with analysis in float16."""
    synthesis_psnr_db: float
    """Of the images that both syntheses make of one file, to each other."""

    @property
    def rate_change(self) -> float:
        """Part by which the file grows."""
        return self.half_bytes / self.float_bytes - 1


def half_loader(bundle: Bundle, threads: int | None = None) -> TappedLoader:
    """ONNX Runtime with the float16 image graphs of a target, emulated; unoptimised, so that no rounding is left out.

    Raises:
        ExportError: a graph cannot be converted.
    """
    halves = {
        bundle.manifest.graphs[name].file.sha256: emulated(target_graph(bundle, name, "f16")) for name in IMAGE_GRAPHS
    }
    return TappedLoader(OrtLoader(threads, optimise=False), halves)


def measure_half(
    bundle: Bundle, images: Sequence[Path], largest: int = 768, threads: int | None = None
) -> list[HalfRow]:
    """Encode and decode photographs at every quality, with image graphs in float32 and in float16.

    Args:
        bundle: in exact arithmetic.
        images: photographs.
        largest: side in pixels of the middle that is taken of each; the emulation needs much memory.
        threads: CPU threads; None takes all that this process may use.

    Raises:
        BundleError: it is not in exact arithmetic, in which alone the two can share a file.
        ExportError: a graph cannot be converted.
        GlcError: an image or the bundle cannot be used.
    """
    if bundle.manifest.arithmetic != "exact":
        raise BundleError(f"{bundle.path} is in float arithmetic; export it with --arithmetic exact")
    whole, half = TappedLoader(OrtLoader(threads), {}), half_loader(bundle, threads)
    rows = []
    with Codec(bundle, whole) as in_float, Codec(bundle, half) as in_half:
        for path in images:
            pixels = central_crop(read_image(path, DEFAULT_MAX_PIXELS).pixels, largest)
            for quality in range(in_float.qualities):
                data = in_float.encode(pixels, quality)
                expected = dict(whole.fetched)
                half_bytes = len(in_half.encode(pixels, quality))
                symbols = [name for name in expected if name.startswith("symbols_")]
                rows.append(
                    HalfRow(
                        image=path.name,
                        quality=quality,
                        symbols=sum(expected[name].size for name in symbols),
                        symbols_changed=sum(int((expected[n] != half.fetched[n]).sum()) for n in symbols),
                        indices=expected["z_indices"].size,
                        indices_changed=int((expected["z_indices"] != half.fetched["z_indices"]).sum()),
                        float_bytes=len(data),
                        half_bytes=half_bytes,
                        synthesis_psnr_db=psnr_db(in_float.decode(data), in_half.decode(data)),
                    )
                )
    return rows


@app.command()
def half(
    images: Annotated[list[Path], typer.Argument(help="Photographs.")],
    bundle: BundleOption,
    largest: Annotated[int, typer.Option("--largest", min=1, help="Side of the middle that is taken of each.")] = 768,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Compare float16 image graphs, as --target compiles them, with float32 on the CPU: symbols, files, images."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    rows = measure_half(Bundle.open(bundle), images, largest)
    headings = ("image", "quality", "symbols changed", "z indices changed", "file bytes", "in float16", "PSNR dB")
    cells = [
        (
            row.image,
            str(row.quality),
            f"{row.symbols_changed / row.symbols:.4%}",
            f"{row.indices_changed} of {row.indices}",
            str(row.float_bytes),
            f"{row.half_bytes} ({row.rate_change:+.2%})",
            f"{row.synthesis_psnr_db:.1f}",
        )
        for row in rows
    ]
    symbols, changed = (sum(getattr(row, name) for row in rows) for name in ("symbols", "symbols_changed"))
    sizes = [sum(getattr(row, name) for row in rows) for name in ("float_bytes", "half_bytes")]
    notes = (
        f"all: {changed / symbols:.4%} of symbols changed, {sizes[1] / sizes[0] - 1:+.3%} of bytes, lowest PSNR of a "
        f"synthesis to the other {min(row.synthesis_psnr_db for row in rows):.1f} dB",
        "PSNR is between the images that both syntheses make of one file; a file of either decodes with both",
    )
    show("half", [Table("Image graphs in float16 beside float32", headings, cells, notes)], rows, style, None)
