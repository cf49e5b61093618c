"""The command `glc batch`: what it needs beyond the other commands is imported when it runs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glc.batch.names import RESULTS_NAME
from glc.runtime.codec import DEFAULT_MAX_PIXELS
from glc.runtime.command import (
    AsJson,
    BundlePath,
    Decoder,
    Encoder,
    EngineName,
    MaxMemory,
    MaxPixels,
    Precision,
    Progressive,
    app,
)
from glc.runtime.images import image_format as require_image_format
from glc.runtime.terminal import EXIT_ERROR, Interrupted, requires_extra
from glc.runtime.transforms import OWN

if TYPE_CHECKING:
    from glc.batch.job import Tally

_logger = logging.getLogger(__name__)


@app.command()
def batch(
    inputs: Annotated[
        list[str], typer.Argument(help="Folders, patterns such as 'a/**/*.png', image files, tar and Parquet files.")
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder of the outputs and of results.parquet.")],
    bundle: BundlePath = None,
    quality: Annotated[
        float | None, typer.Option("--quality", "-q", help="0 to Q-1; fractions interpolate; 1 by default.")
    ] = None,
    encoder: Encoder = OWN,
    progressive: Progressive = False,
    decode: Annotated[bool, typer.Option("--decode", help="Bitstreams to images, not images to bitstreams.")] = False,
    decoder: Decoder = OWN,
    image_format: Annotated[str | None, typer.Option("--format", help="Of decoded images; png by default.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Images under way at once; one for each core by default.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads of one image; 1 by default.")
    ] = None,
    engine: EngineName = None,
    precision: Precision = None,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    max_memory: MaxMemory = None,
    column: Annotated[str, typer.Option("--column", help="Of Parquet files: where the images are.")] = "image",
    key: Annotated[str | None, typer.Option("--key", help="Of Parquet files: the column that names outputs.")] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", help="Address of a Ray cluster that does the work; local starts one here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Encode many images: glc batch photos/ -o coded/ -q 1. Run it again to do what is missing."""
    if decode and quality is not None:
        raise typer.BadParameter("--quality is for encoding; streams state their own")
    if decode and (encoder != OWN or progressive):
        raise typer.BadParameter("--encoder and --progressive are for encoding")
    if not decode and (image_format is not None or decoder != OWN):
        raise typer.BadParameter("--format and --decoder are for --decode")
    with requires_extra("batch"):
        from glc.batch.session import Request, run_request
        from glc.batch.work import Decoding, Encoding
    if decode:
        work: Encoding | Decoding = Decoding(_ending(image_format), decoder)
    else:
        work = Encoding(1.0 if quality is None else quality, max_pixels, encoder, progressive)
    request = Request(
        inputs=tuple(inputs),
        out=out,
        work=work,
        bundle=bundle,
        engine=engine,
        threads=threads,
        precision=precision,
        max_pixels=max_pixels,
        memory_limit_bytes=max_memory,
        workers=workers,
        column=column,
        key=key,
        ray=ray,
    )
    try:
        tally = run_request(request)
    except KeyboardInterrupt as interrupt:
        raise Interrupted(f"{out} keeps what was done: the same command goes on from there") from interrupt
    table = out / RESULTS_NAME
    if as_json:
        print(json.dumps(_summary(tally) | {"results": str(table)}))
    else:
        print(f"{out}: {_in_words(tally)}")
    if tally.failed:
        _logger.error("%d failed: see the rows of %s whose status is failed", tally.failed, table)
        raise typer.Exit(EXIT_ERROR)


def _ending(image_format: str | None) -> str:
    ending = f".{(image_format or 'png').removeprefix('.').lower()}"
    try:
        require_image_format(Path(f"image{ending}"))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return ending


def _summary(tally: Tally) -> dict[str, Any]:
    return {
        "done": tally.done,
        "failed": tally.failed,
        "there_before": tally.there,
        "repeated": tally.repeated,
        "passed_over": tally.passed_over,
        "bytes": tally.bytes,
        "megapixels": round(tally.pixels / 1e6, 3),
        "bpp": round(8 * tally.bytes / tally.pixels, 5) if tally.pixels else None,
        "seconds": round(tally.seconds, 3),
        "images_per_second": round(tally.images_per_second, 3),
    }


def _in_words(tally: Tally) -> str:
    words = [f"{tally.done} done", f"{tally.failed} failed", f"{tally.there} there before"]
    words += [f"{tally.repeated} named again"] * bool(tally.repeated)
    words += [f"{tally.passed_over} other files passed over"] * bool(tally.passed_over)
    return f"{', '.join(words)}; {tally.bytes} bytes, {tally.images_per_second:.1f} images/s"
