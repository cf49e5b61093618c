"""Writes the golden streams: whole streams and their bundle, which every later version must read.

    python tests/golden/make_streams.py [DIRECTORY]

    tiny.glcb       the bundle: exact arithmetic, 8 latent channels, f = 4, a codebook of 100 entries, synthetic weights
    streams/*.glc   streams that it made, on ONNX Runtime: crops of a photograph, noise, and `invented`, whose
                    symbols are drawn, so that all codebook entries, most scale indices and many escapes occur;
                    `progressive` has refinements (version 2 of the format)
    streams.json    what a decoder must find in each: `Facts`, by the stream's name

Other tests make their bundle and streams anew, and would not notice a change that breaks old files but not new ones.
These files are made once: the script refuses to overwrite one, and nobody may make them anew because a test fails. A
new version of the format or of the bundle gets new names beside the old ones.

Symbols and latent are integers' work and must match to the last bit on any engine. Pixels are floating-point, so
that only their means are kept.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glc.engines import EngineLoader, Tensor, engine_loader
from glc.export import GlcModel, export_bundle, synthetic_model
from glc.export.config import ModelConfig
from glc.runtime.bitstream import Form, Header, Refinements, inspect, read_stream, write_stream
from glc.runtime.bundle import Bundle
from glc.runtime.codec import DEFAULT_MAX_PIXELS, Codec
from glc.runtime.entropy import PayloadDecoder, PayloadEncoder, SymbolModels
from glc.runtime.images import read_image
from glc.runtime.networks import Networks
from glc.runtime.spatial_walk import PartPrior, SymbolCoder
from glc.runtime.symbol_coders import PayloadCoder

BUNDLE, STREAMS, FACTS = "tiny.glcb", "streams", "streams.json"

TINY = ModelConfig(
    latent_channels=8,
    base_channels=32,
    channel_multipliers=(1, 1, 1),
    encoder_blocks=1,
    decoder_blocks=1,
    attention_levels=(),
    codebook_entries=100,
    qualities=4,
    swish_before_last=True,
    quant_conv=True,
)
_RATE = 2.0
"""Factor on q_enc: with synthetic weights as they are, hardly any symbol is larger than 1."""

_PHOTO = Path(__file__).parent.parent / "data" / "images" / "chelsea_256x320.png"

_CROPS: dict[str, tuple[int, int, float, Form]] = {
    "pixel": (1, 1, 0, "file"),
    "pixel_bare": (1, 1, 3, "bare"),
    "odd": (33, 17, 1, "file"),
    "odd_bare": (71, 45, 2, "bare"),
    "between": (64, 48, 10 / 21, "file"),
    "cells": (48, 48, 3, "file"),
    "photo": (130, 100, 2, "file"),
    "wide": (200, 9, 29 / 21, "file"),
    "tall_bare": (9, 200, 0, "bare"),
}
"""Stream -> width, height, quality and form of a crop of the photograph. A z cell is 16 pixels wide."""

REFINEMENTS = Refinements(100, 0b1011)
"""Of `progressive`: set here, since which places an encoder chooses rests on floating-point images."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a decoder must find in a stream."""

    form: Form
    width: int
    height: int
    quality: float
    symbols_sha256: str
    """Over the z indices, then the symbols in the order in which they are coded; int32, little-endian."""
    latent_sha256: str
    """Over `Codec.decode_latent`; float32, little-endian."""
    channel_means: list[float] | None = None
    """Mean red, green and blue of the decoded image, to one decimal; None where no image has such a latent."""


class _HashedCoder:
    """Another coder, whose symbols are hashed in the order in which they are coded."""

    def __init__(self, coder: SymbolCoder, z_indices: NDArray[np.int32]) -> None:
        self._coder = coder
        self.digest = hashlib.sha256(z_indices.astype("<i4").tobytes())

    def code(self, part: int, prior: PartPrior) -> Tensor:
        symbols = np.asarray(self._coder.code(part, prior))
        order = np.argsort(255 - np.asarray(prior.scale_indices), axis=None, kind="stable")
        self.digest.update(symbols.ravel()[order].astype("<i4").tobytes())
        return symbols


class _InventedCoder:
    """Symbols that no image asked for: small ones, and one in 64 beyond its table's reach, by up to 2^16."""

    def __init__(self, payload: PayloadEncoder, models: SymbolModels, random: np.random.Generator) -> None:
        self._payload, self._models, self._random = payload, models, random

    def code(self, part: int, prior: PartPrior) -> Tensor:
        indices = np.asarray(prior.scale_indices)[0]
        shape = indices.shape
        reach = np.asarray(self._models.reach, np.int32)[indices]
        beyond = (reach + (1 << self._random.integers(0, 17, shape))) * self._random.choice([-1, 1], shape)
        drawn = np.where(self._random.random(shape) < 1 / 64, beyond, self._random.integers(-3, 4, shape))
        symbols: NDArray[np.int32] = drawn.astype(np.int32)
        self._payload.put_part(symbols, indices)
        return symbols[None]


class Reader:
    """The golden bundle on one engine."""

    def __init__(self, bundle: Bundle, loader: EngineLoader) -> None:
        self.codec = Codec(bundle, loader)
        self._bundle = bundle
        self._networks = Networks(bundle, loader, None)
        self._models = SymbolModels(bundle.tables().scales)

    def facts(self, data: bytes, form: Form) -> Facts:
        """Decode all of a stream but the image."""
        header = inspect(data, form).header
        latent = self.codec.decode_latent(data, form=form).astype("<f4")
        return Facts(
            form=form,
            width=header.width,
            height=header.height,
            quality=header.quality,
            symbols_sha256=self._symbols_sha256(data, form),
            latent_sha256=hashlib.sha256(latent.tobytes()).hexdigest(),
        )

    def facts_with_means(self, data: bytes, form: Form) -> Facts:
        """Decode all of a stream."""
        means = self.codec.decode(data, form=form).mean((0, 1), np.float64)
        return dataclasses.replace(self.facts(data, form), channel_means=[round(float(mean), 1) for mean in means])

    def invented(self, header: Header) -> bytes:
        """A stream of drawn z indices and symbols, with every codebook entry and many escapes."""
        random = np.random.default_rng(0)
        shape, entries = self._hyper_size(header), self._bundle.manifest.config.codebook_entries
        z_indices = random.permutation(np.resize(np.arange(entries, dtype=np.int32), shape).ravel()).reshape(shape)
        payload = PayloadEncoder(self._models)
        payload.put_indices(z_indices, entries)
        with self._networks.passage() as passage:
            passage.walk(passage.hyper_prior(z_indices[None]), _InventedCoder(payload, self._models, random))
        like = inspect(self.codec.encode(np.zeros((1, 1, 3), np.uint8)))
        return write_stream(header, payload.finish(), like.arithmetic, like.identity, "file")

    def progressive(self, image: NDArray[np.uint8]) -> bytes:
        """A stream with refinements."""
        info, payload = read_stream(self.codec.encode(image, 1))
        header = dataclasses.replace(info.header, refinements=REFINEMENTS)
        return write_stream(header, payload, info.arithmetic, info.identity, "file")

    def close(self) -> None:
        """Free the graphs."""
        self.codec.close()
        self._networks.unload()

    def _symbols_sha256(self, data: bytes, form: Form) -> str:
        info, payload = read_stream(data, form)
        decoder = PayloadDecoder(self._models, payload)
        z_indices = decoder.get_indices(self._hyper_size(info.header), self._bundle.manifest.config.codebook_entries)
        with self._networks.passage() as passage:
            coder = _HashedCoder(PayloadCoder(decoder, passage.fetch), z_indices)
            passage.walk(passage.hyper_prior(z_indices[None]), coder)
        return coder.digest.hexdigest()

    def _hyper_size(self, header: Header) -> tuple[int, int]:
        cell = 4 * self._bundle.manifest.config.downsampling
        return -(-header.height // cell), -(-header.width // cell)


def make_bundle(path: Path) -> None:
    """Write the bundle; raises FileExistsError where one exists."""
    _require_absent(path)
    export_bundle(golden_model(), path, label="golden: tiny, synthetic weights", container="zip")


def golden_model() -> GlcModel:
    """The weights that the bundle was exported from."""
    model = synthetic_model(TINY)
    model.q_enc.mul_(_RATE)
    model.q_dec.div_(_RATE)
    for parameter in model.parameters():
        parameter.copy_(parameter.half())  # the graph files then hold 16 bits each
    return model


def make_streams(bundle: Path, directory: Path) -> None:
    """Write the streams of a bundle, and what they hold; raises FileExistsError where one exists."""
    _require_absent(directory / FACTS, directory / STREAMS)
    reader = Reader(Bundle.open(bundle), engine_loader("onnxruntime", 1))
    photo = read_image(_PHOTO, DEFAULT_MAX_PIXELS).pixels
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    streams: dict[str, tuple[bytes, Form]] = {"noise": (reader.codec.encode(noise, 3), "file")}
    for name, (width, height, quality, form) in _CROPS.items():
        streams[name] = reader.codec.encode(photo[20 : 20 + height, 90 : 90 + width], quality, form=form), form
    streams["progressive"] = reader.progressive(photo[50:100, 60:150]), "file"
    facts = {name: reader.facts_with_means(*stream) for name, stream in streams.items()}
    streams["invented"] = reader.invented(Header(21, 150, 170)), "file"
    facts["invented"] = reader.facts(*streams["invented"])
    (directory / STREAMS).mkdir()
    for name, (data, _) in streams.items():
        (directory / STREAMS / f"{name}.glc").write_bytes(data)
    document = {f"{name}.glc": dataclasses.asdict(found) for name, found in sorted(facts.items())}
    (directory / FACTS).write_text(json.dumps(document, indent=2) + "\n")
    reader.close()


def main(directory: Path) -> None:
    """Write the bundle and its streams into a directory."""
    _require_absent(*(directory / name for name in (BUNDLE, STREAMS, FACTS)))
    make_bundle(directory / BUNDLE)
    make_streams(directory / BUNDLE, directory)


def _require_absent(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
    except FileExistsError as error:
        raise SystemExit(f"{error.filename} exists: golden files are never made anew") from error
