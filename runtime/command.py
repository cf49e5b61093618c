"""The command `glc`: results on stdout, logs on stderr."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from glc.engines import ENGINE_NAMES, PRECISIONS
from glc.runtime.bitstream import Form, StreamInfo, inspect
from glc.runtime.bundle import Bundle
from glc.runtime.codec import DEFAULT_MAX_PIXELS, Codec
from glc.runtime.default_model import BUNDLE_VARIABLE, packaged_photos
from glc.runtime.engine_choice import ENGINE_VARIABLE
from glc.runtime.files import require_place
from glc.runtime.images import STANDARD_STREAM, encode_image, image_format, read_bytes, read_image, write_bytes
from glc.runtime.terminal import new_app, parsed_bytes, progress_bar, run
from glc.runtime.transforms import ANALYSIS, OWN, SYNTHESIS, transforms

app = new_app("GLC: images below 0.04 bits per pixel.")

_logger = logging.getLogger(__name__)

BundlePath = Annotated[
    Path | None,
    typer.Option(
        "--bundle", "-b", envvar=BUNDLE_VARIABLE, help="Bundle that glc-export wrote; a demonstration model by default."
    ),
]
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        envvar=ENGINE_VARIABLE,
        help=f"{', '.join(ENGINE_NAMES)}; by default the fastest that is here and exact.",
        show_default=False,
    ),
]
Precision = Annotated[
    str | None, typer.Option("--precision", help="f32, or f16 or bf16 where engine and processor can.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; all by default.")]
MaxMemory = Annotated[
    int | None,
    typer.Option(
        "--max-memory",
        parser=parsed_bytes,
        metavar="BYTES",
        help="Most memory that this process may hold, such as 4G; larger images are computed in tiles.",
        show_default=False,
    ),
]
MaxPixels = Annotated[int, typer.Option("--max-pixels", min=1, help="Refuse larger images.")]
Encoder = Annotated[
    str, typer.Option("--encoder", help="Another encoder of the bundle, such as one that restores; see glc info.")
]
Decoder = Annotated[
    str, typer.Option("--decoder", help="Another decoder of the bundle, such as one of a style; see glc info.")
]
Bare = Annotated[bool, typer.Option("--bare", help="Without signature, model id and checksum, for other containers.")]
Progressive = Annotated[
    bool, typer.Option("--progressive", help="Never show less when more arrives; takes the time of 18 decodings.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Source = Annotated[Path, typer.Argument(help='File, or "-" for standard input.')]
Destination = Annotated[Path, typer.Argument(help='File, or "-" for standard output.')]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"glc-deploy {version('glc-deploy')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """GLC: images below 0.04 bits per pixel."""


@app.command()
def encode(
    source: Source,
    destination: Destination,
    bundle: BundlePath = None,
    quality: Annotated[float, typer.Option("--quality", "-q", help="0 to Q-1; fractions interpolate.")] = 1.0,
    encoder: Encoder = OWN,
    engine: EngineName = None,
    threads: Threads = None,
    precision: Precision = None,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    max_memory: MaxMemory = None,
    bare: Bare = False,
    progressive: Progressive = False,
    as_json: AsJson = False,
) -> None:
    """Encode an image: glc encode photo.png photo.glc --bundle model.glcb -q 1."""
    _require_output(destination)
    if progressive and bare:
        raise typer.BadParameter("--progressive needs the file form: leave out --bare")
    with _open(bundle, engine, threads, precision, max_pixels, max_memory) as codec:
        if not 0 <= quality <= codec.qualities - 1:
            raise typer.BadParameter(f"quality must lie in 0..{codec.qualities - 1}; got {quality:g}")
        require_known("--encoder", encoder, codec.encoders)
        image = read_image(source, max_pixels)
        for note in image.notes:
            _logger.info("%s: %s", source, note)
        data = codec.encode(image.pixels, quality, form=_form(bare), encoder=encoder, progressive=progressive)
    write_bytes(destination, data)
    described = _describe_stream(inspect(data, _form(bare)))
    if destination == STANDARD_STREAM:
        _logger.info("%s", _in_words(described))  # standard output is the bitstream
    else:
        _print(destination, described, as_json)


@app.command()
def decode(
    source: Source,
    destination: Destination,
    bundle: BundlePath = None,
    decoder: Decoder = OWN,
    engine: EngineName = None,
    threads: Threads = None,
    precision: Precision = None,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    max_memory: MaxMemory = None,
    bare: Bare = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Show what a cut stream holds, and say how much that is.")
    ] = False,
) -> None:
    """Decode a bitstream: glc decode photo.glc photo.png --bundle model.glcb."""
    _require_image_output(destination)
    data = read_bytes(source)
    with _open(bundle, engine, threads, precision, max_pixels, max_memory) as codec:
        require_known("--decoder", decoder, codec.decoders)
        if allow_partial:
            partial = codec.decode_partial(data, form=_form(bare), decoder=decoder)
            _logger.info("%s: %.1f %% of the symbols were there", source, 100 * partial.symbols)
            image = partial.image
        else:
            image = codec.decode(data, form=_form(bare), decoder=decoder)
    write_bytes(destination, encode_image(image, destination))


@app.command()
def preview(
    source: Source,
    destination: Destination,
    bundle: BundlePath = None,
    decoder: Decoder = OWN,
    engine: EngineName = None,
    threads: Threads = None,
    precision: Precision = None,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    max_memory: MaxMemory = None,
    bare: Bare = False,
) -> None:
    """Decode from the z indices alone; works on a stream that was cut behind them."""
    _require_image_output(destination)
    data = read_bytes(source)
    with _open(bundle, engine, threads, precision, max_pixels, max_memory) as codec:
        require_known("--decoder", decoder, codec.decoders)
        image = codec.preview(data, form=_form(bare), decoder=decoder)
    write_bytes(destination, encode_image(image, destination))


@app.command()
def info(source: Source, bare: Bare = False, as_json: AsJson = False) -> None:
    """Tell what a bundle or a bitstream is; needs neither bundle nor engine."""
    if os.path.isdir(source) or _is_zip(source):  # noqa: PTH112 - Path.is_dir raises for names that are too long
        _print(source, _describe_bundle(Bundle.open(source)), as_json)
    else:
        _print(source, _describe_stream(inspect(read_bytes(source), _form(bare))), as_json)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle to verify.")],
    engine: EngineName = None,
    threads: Threads = None,
    precision: Precision = None,
) -> None:
    """Check every file of a bundle against the manifest and load every graph."""
    opened = Bundle.open(bundle)
    size_bytes = opened.verify()
    with Codec.open(bundle, engine=engine, threads=threads, precision=precision) as codec:
        for encoder in codec.encoders:
            codec.warm_up(encoder=encoder)
        for decoder in codec.decoders:
            codec.warm_up(decoder=decoder)
        print(f"{bundle}: {size_bytes} bytes and {len(opened.manifest.graphs)} graphs are intact on {codec.engine}")


@app.command()
def demo(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Photographs to encode and decode; one comes with the package.")
    ] = None,
    bundle: BundlePath = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Comparison sheet, PNG.")] = Path("glc-demo.png"),
    engine: EngineName = None,
    threads: Threads = None,
    precision: Precision = None,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
) -> None:
    """Encode and decode photographs at every quality; print a table, draw a sheet and a rate-distortion plot."""
    from glc.runtime.demo import run_demo

    _require_image_output(output)
    run_demo(
        bundle,
        images or [packaged_photos()[0]],
        output,
        engine=engine,
        threads=threads,
        precision=precision,
        max_pixels=max_pixels,
    )


def main() -> None:
    """Entry point of `glc`."""
    run(app, "glc")


@contextlib.contextmanager
def _open(
    bundle: Path | None,
    engine: str | None,
    threads: int | None,
    precision: str | None,
    max_pixels: int,
    max_memory: int | None,
) -> Iterator[Codec]:
    if precision is not None and precision not in PRECISIONS:
        raise typer.BadParameter(f"no precision is called {precision!r}; choose one of {', '.join(PRECISIONS)}")
    with (
        progress_bar("in tiles") as on_progress,
        Codec.open(
            bundle,
            engine=engine,
            threads=threads,
            precision=precision,
            max_pixels=max_pixels,
            memory_limit_bytes=max_memory,
            on_progress=on_progress,
        ) as codec,
    ):
        if bundle is None:
            _logger.info("no bundle given: %s", codec.bundle.manifest.label)
        yield codec


def require_known(option: str, name: str, known: Sequence[str]) -> None:
    """Refuse an encoder or decoder that the bundle does not have.

    Raises:
        typer.BadParameter: it has none of this name; the message lists those that it has.
    """
    if name not in known:
        raise typer.BadParameter(f"{option} is {name!r}; this bundle has {', '.join(known)}")


def _form(bare: bool) -> Form:
    return "bare" if bare else "file"


def _require_output(destination: Path) -> None:
    """Refuse what cannot be written before the work, not after it."""
    if destination != STANDARD_STREAM:
        require_place(destination)


def _require_image_output(destination: Path) -> None:
    """Refuse an ending that names no image format, and what cannot be written."""
    try:
        image_format(destination)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    _require_output(destination)


def _is_zip(source: Path) -> bool:
    """Look at two bytes of a regular file: a pipe can be read once only, and a bundle may be large."""
    if not os.path.isfile(source):  # noqa: PTH113 - as above
        return False
    with contextlib.suppress(OSError), source.open("rb") as file:
        return file.read(2) == b"PK"
    return False


def _print(path: Path, fields: dict[str, Any], as_json: bool) -> None:
    print(json.dumps(fields) if as_json else f"{path}: {_in_words(fields)}")


def _in_words(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())


def _describe_stream(stream: StreamInfo) -> dict[str, Any]:
    return {
        "kind": "bitstream",
        "version": stream.version,
        "width": stream.header.width,
        "height": stream.header.height,
        "quality": round(stream.header.quality, 3),
        "bytes": stream.header_bytes + stream.payload_bytes,
        "header_bytes": stream.header_bytes,
        "bpp": round(stream.bpp, 5),
        "form": stream.form,
        "progressive": stream.header.refinements is not None,
        "arithmetic": stream.arithmetic.name.lower() if stream.form == "file" else "not stated",
        "identity": stream.identity.hex(),
        "intact": stream.intact,
    }


def _describe_bundle(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "kind": "bundle",
        "label": manifest.label,
        "model_id": manifest.model_id[:8],
        "arithmetic": manifest.arithmetic,
        **dataclasses.asdict(manifest.config),
        "parameters": manifest.parameters,
        "bytes": sum(entry.size_bytes for entry in manifest.files()),
        "encoders": list(transforms(manifest.graphs, ANALYSIS)),
        "decoders": list(transforms(manifest.graphs, SYNTHESIS)),
        "graphs": list(manifest.graphs),
        "tiles": len(manifest.tiles),
        "targets": [str(target.key) for target in manifest.targets.values()],
        "producers": dict(manifest.producers),
    }
