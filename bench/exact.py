"""Every encoder against every decoder: which streams decode elsewhere to what their encoder meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glc.engines import GPU_ENGINES, EngineLoader, engine_loader
from glc.engines.ort import OrtLoader
from glc.errors import EngineUnavailable, GlcError, TargetMissing
from glc.runtime.bitstream import inspect, read_stream, write_stream
from glc.runtime.bundle import Bundle
from glc.runtime.codec import DEFAULT_MAX_PIXELS, Codec
from glc.runtime.images import read_image

_SIDES = (1, 31, 64, 97, 130, 200)
"""Sides that crops are drawn from: odd ones, tiny ones, whole multiples of a cell."""

_BEYOND_ROUNDING = 0.01
"""In units of the latent, whose symbols are half a unit apart at the least; float rounding moves it by 1e-5."""


@dataclass(frozen=True, slots=True)
class PairRow:
    """One encoder and one decoder over all crops and qualities."""

    encoder: str
    decoder: str
    streams: int
    differing: int
    """Streams whose decoded latent is not, to the last bit, the one that the encoder's own engine decodes."""
    garbled: int
    """Of those, streams with an element further off than rounding goes: a symbol was read under a wrong scale."""
    failed: int
    """Streams that raised."""


def available_loaders(bundle: Bundle) -> tuple[list[EngineLoader], dict[str, str]]:
    """Every engine with every setting that exact arithmetic must not depend on; what is missing, and why."""
    found: list[EngineLoader] = [OrtLoader(1), OrtLoader(2), OrtLoader(2, optimise=False)]
    missing: dict[str, str] = {}
    candidates: list[tuple[str, str | None]] = [("openvino", "f32"), ("openvino", "f16")]
    if bundle.manifest.arithmetic == "exact":  # streams in float arithmetic have no codes for these
        candidates += [("onnxruntime-avx2", None), ("openvino-avx2", None), ("openvino-amx", None)]
    for name, precision in candidates:
        try:
            found.append(engine_loader(name, 2, precision))
        except EngineUnavailable as error:
            missing[f"{name} {precision or ''}".strip()] = str(error)
    for name, precision in ((name, precision) for name in GPU_ENGINES for precision in ("f32", "f16")):
        try:
            loader = engine_loader(name, None, precision)
            bundle.require_target(loader.target)
        except (EngineUnavailable, TargetMissing) as error:
            missing[f"{name} {precision}"] = str(error)
        else:
            found.append(loader)
    return found, missing


def measure_pairs(
    bundle: Bundle, loaders: Sequence[EngineLoader], images: Sequence[Path], crops: int, seed: int = 0
) -> list[PairRow]:
    """Encode crops of images with every engine and decode each stream with every other.

    Float streams name their engine; here each is given the decoder's name, to see what the refusal protects from.

    Raises:
        GlcError: a bundle or an image cannot be used.
    """
    codecs = [Codec(bundle, loader) for loader in loaders]
    pixels = [read_image(path, DEFAULT_MAX_PIXELS).pixels for path in images]
    counts = {(a, b): [0, 0, 0, 0] for a in range(len(codecs)) for b in range(len(codecs))}
    identities = [inspect(codec.encode(pixels[0][:8, :8], 0)) for codec in codecs]
    for number, crop in enumerate(_crops(pixels, crops, seed)):
        quality = number % codecs[0].qualities
        for a, encoder in enumerate(codecs):
            data = encoder.encode(crop, quality)
            wanted = encoder.decode_latent(data)
            info, payload = read_stream(data, "file")
            for b, decoder in enumerate(codecs):
                named = write_stream(info.header, payload, identities[b].arithmetic, identities[b].identity, "file")
                count = counts[a, b]
                count[0] += 1
                try:
                    difference = np.abs(decoder.decode_latent(named) - wanted).max()
                except GlcError:
                    count[3] += 1
                else:
                    count[1] += int(difference > 0)
                    count[2] += int(difference > _BEYOND_ROUNDING)
    rows = [PairRow(codecs[a].engine, codecs[b].engine, *count) for (a, b), count in counts.items()]
    for codec in codecs:
        codec.close()
    return rows


def _crops(images: Sequence[NDArray[np.uint8]], count: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    random = np.random.default_rng(seed)
    for number in range(count):
        image = images[number % len(images)]
        height, width = (min(int(random.choice(_SIDES)), size) for size in image.shape[:2])
        top, left = random.integers(image.shape[0] - height + 1), random.integers(image.shape[1] - width + 1)
        yield image[top : top + height, left : left + width]
