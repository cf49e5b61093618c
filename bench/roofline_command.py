"""`glc-bench roofline`: floor and projection on a device that is not at hand."""

from __future__ import annotations

from typing import Annotated

import typer

from glc.bench.app import BundleOption, SizeOption, app
from glc.bench.output import CsvOption, LatexOption, MarkdownOption, Table, chosen_style, show
from glc.bench.roofline import DEFAULT_EFFICIENCY, DEVICES, PRECISION_BYTES, Roofline, project_bundle
from glc.runtime.bundle import Bundle
from glc.runtime.terminal import parsed_size


@app.command()
def roofline(
    bundle: BundleOption,
    device: Annotated[str, typer.Option("--device", help=f"One of {', '.join(DEVICES)}.")],
    size: SizeOption = "512x768",
    efficiency: Annotated[
        float, typer.Option("--efficiency", min=0.01, max=1, help="Part of the device's ceilings that is reached.")
    ] = DEFAULT_EFFICIENCY,
    entropy_ms: Annotated[
        tuple[float, float] | None,
        typer.Option("--entropy-ms", metavar="ENC DEC", help="Entropy coding as measured on a CPU, in ms."),
    ] = None,
    priors: Annotated[
        str | None,
        typer.Option("--priors", help=f"Precision of the priors: {', '.join(PRECISION_BYTES)}; tf32 where it exists."),
    ] = None,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Floor and projection of every stage on a device that is not at hand: projected, not measured."""
    style = chosen_style(markdown=markdown, latex=latex, as_csv=as_csv)
    height, width = parsed_size(size)
    opened = Bundle.open(bundle)
    try:
        result = project_bundle(opened, device, height, width, efficiency, entropy_ms, priors)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    show("roofline", [_table(result)], result.rows, style, None, projection=result)


def _table(result: Roofline) -> Table:
    ceilings = result.device
    tf32 = "no" if ceilings.tf32_tflops is None else f"{ceilings.tf32_tflops:g}"
    stated = (
        f"ceilings: {ceilings.fp16_tflops:g} TFLOP/s fp16, {tf32} tf32, {ceilings.fp32_tflops:g} fp32, "
        f"{ceilings.memory_gb_s:g} GB/s ({ceilings.source}); not included: {', '.join(result.not_included)}"
    )
    quotes = (
        f"{quote.status}: {quote.model} {quote.table}, {quote.parameters / 1e6:.0f} M parameters, "
        f"{quote.height}x{quote.width}: encode {quote.encode_ms} ms, decode {quote.decode_ms} ms"
        for quote in result.paper
    )
    amounts = ("dense GFLOP", "MB", "compute ms", "memory ms", "floor ms")
    return Table(
        f"{ceilings.name}, {result.height}x{result.width}, at {result.efficiency:g} of its ceilings: {result.status}",
        ("stage", "precision", *amounts, "bound", "projected ms", "status"),
        [
            (
                row.stage,
                row.precision,
                f"{row.dense_gflop:.1f}",
                f"{row.traffic_mb:.1f}",
                *(f"{ms:.3f}" for ms in (row.compute_ms, row.memory_ms, row.floor_ms)),
                row.bound,
                f"{row.projected_ms:.3f}",
                row.status,
            )
            for row in result.rows
        ],
        (stated, *quotes),
    )
