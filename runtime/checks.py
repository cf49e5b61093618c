"""What a codec takes: images, outputs and streams are held against it before any memory is taken for them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from glc.engines import EngineLoader, Tensor
from glc.errors import (
    CorruptBitstream,
    EngineMismatch,
    EngineUnavailable,
    ImageTooLarge,
    ModelMismatch,
    TruncatedBitstream,
)
from glc.runtime.bitstream import QUALITY_STEPS, Arithmetic, Form, Header, StreamInfo, as_bytes, read_stream
from glc.runtime.bundle import Bundle
from glc.runtime.coding import hyper_size
from glc.runtime.entropy import least_payload_bytes
from glc.runtime.messages import one_line, shown
from glc.runtime.transforms import ANALYSIS, SYNTHESIS, transforms


@dataclass(frozen=True, slots=True, eq=False)
class Checks:
    """The limits of one bundle on one engine."""

    bundle: Bundle
    loader: EngineLoader
    max_pixels: int
    """Limit on width times height."""
    arithmetic: Arithmetic
    """What streams are marked with; with `identity`."""
    identity: bytes
    """The model, and for float arithmetic the engine too."""
    encoders: Mapping[str, str]
    """Name -> graph, the model's own first."""
    decoders: Mapping[str, str]

    @classmethod
    def of(cls, bundle: Bundle, loader: EngineLoader, max_pixels: int) -> Checks:
        """Those of a codec.

        Raises:
            EngineUnavailable: streams in float arithmetic cannot name the engine.
        """
        model = bytes.fromhex(bundle.manifest.model_id)
        known = [transforms(bundle.manifest.graphs, own) for own in (ANALYSIS, SYNTHESIS)]
        if bundle.manifest.arithmetic == "exact":
            return cls(bundle, loader, max_pixels, Arithmetic.EXACT, model[:4], *known)
        tag = hashlib.sha256(loader.fingerprint.encode()).digest()
        code = f"FLOAT_{loader.name.upper()}"
        if code not in Arithmetic.__members__:
            raise EngineUnavailable(f"streams in float arithmetic have no code for engine {loader.name!r}")
        return cls(bundle, loader, max_pixels, Arithmetic[code], model[:2] + tag[:2], *known)

    def encoder(self, name: str) -> str:
        """Graph of an encoder.

        Raises:
            ValueError: the bundle has none of this name.
        """
        return _named("encoder", name, self.encoders)

    def decoder(self, name: str) -> str:
        """Graph of a decoder.

        Raises:
            ValueError: the bundle has none of this name.
        """
        return _named("decoder", name, self.decoders)

    def image(self, image: object) -> Tensor:
        """Image (1, H, W, 3) uint8, where the engine reads it.

        Raises:
            TypeError: not of uint8, or not where the engine can read it.
            ValueError: it has another shape, or too many pixels.
        """
        pixels = self.loader.adopt(image, "image")
        if pixels.dtype != np.uint8:
            raise TypeError(f"image must be of uint8; got {pixels.dtype}")
        shape = pixels.shape[1:]
        if len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"image must have shape (H, W, 3) and not be empty; got {shape}")
        if shape[0] * shape[1] > self.max_pixels:
            raise ValueError(f"{shape[1]}x{shape[0]} pixels exceed max_pixels = {self.max_pixels}")
        return pixels

    def out(self, out: object, header: Header) -> Tensor:
        """What an image (1, H, W, 3) uint8 is written into.

        Raises:
            TypeError: not of uint8, or not where the engine can write it.
            ValueError: it has another shape than the image, or is read-only.
        """
        target = self.loader.adopt(out, "out")
        if target.dtype != np.uint8:
            raise TypeError(f"out must be of uint8; got {target.dtype}")
        if target.shape != (1, header.height, header.width, 3):
            raise ValueError(f"out has shape {target.shape[1:]}; the image has {(header.height, header.width, 3)}")
        if isinstance(target, np.ndarray) and not target.flags.writeable:
            raise ValueError("out is read-only")
        return target

    def stream(self, data: bytes, form: Form) -> tuple[StreamInfo, bytes]:
        """Take a stream apart, unless it cannot be decoded here.

        Raises:
            BitstreamError: not a bitstream, damaged, too large, or made with another model or engine.
        """
        info, payload = read_stream(as_bytes(data), form)
        if form == "file":
            self._require_identity(info)
        header = info.header
        if header.quality_units > (self.bundle.manifest.config.qualities - 1) * QUALITY_STEPS:
            raise CorruptBitstream(
                f"quality {header.quality:.2f} is out of range 0..{self.bundle.manifest.config.qualities - 1}"
            )
        if header.width * header.height > self.max_pixels:
            raise ImageTooLarge(
                f"{header.width}x{header.height} pixels exceed max_pixels = {self.max_pixels}; "
                "raise the limit if you trust the source"
            )
        rows, columns = hyper_size(header, self.bundle.manifest.config)
        least = least_payload_bytes(rows * columns, self.bundle.manifest.config.codebook_entries)
        if len(payload) < least:
            raise TruncatedBitstream(
                f"{header.width}x{header.height} pixels need a payload of at least {least} bytes; got {len(payload)}"
            )
        return info, payload

    def _require_identity(self, info: StreamInfo) -> None:
        if (info.arithmetic, info.identity) == (self.arithmetic, self.identity):
            return
        model_bytes = 2 if info.arithmetic.engine else 4
        ours = bytes.fromhex(self.bundle.manifest.model_id)[:model_bytes].hex()
        made = info.identity[:model_bytes].hex()
        if made != ours:
            label = one_line(self.bundle.manifest.label)
            raise ModelMismatch(
                f"the stream was made with model {made}; this bundle is model {ours} ({label}): "
                "open the bundle that made it"
            )
        raise EngineMismatch(
            f"the stream was made with {info.arithmetic.engine or 'exact arithmetic'}, tag {info.identity[2:].hex()}; "
            f"this codec is {self.loader.fingerprint}, tag {self.identity[2:].hex()}. Float arithmetic decodes only "
            "where it was encoded: same engine, version, threads and processor"
        )


def _named(kind: str, name: str, known: Mapping[str, str]) -> str:
    if name not in known:
        raise ValueError(f"no {kind} is called {shown(name)}; this bundle has {', '.join(known)}")
    return known[name]
