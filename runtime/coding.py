"""The way of one image through networks and entropy coder: to a payload and back.

image --analysis--> y, z indices ------------------------------+
                         | hyper_prior                          |
                         v                                      v
      scale indices, means, quant_step, context --walk--> payload encoder --> payload
                         ^     (y_hat so far)                   |
                         | spatial_prior_1..3                   v
image <--synthesis-- y_hat <--walk-- payload decoder <------- payload
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc.engines import Tensor
from glc.errors import CorruptBitstream, TruncatedBitstream
from glc.runtime.bitstream import Header, StreamInfo
from glc.runtime.bundle import Tables
from glc.runtime.entropy import PayloadDecoder, PayloadEncoder, SymbolModels
from glc.runtime.manifest import CodecConfig
from glc.runtime.networks import Networks, Passage, interpolated_row
from glc.runtime.spatial_walk import SymbolCoder
from glc.runtime.symbol_coders import LatentCoder, PayloadCoder, ZeroCoder, write_parts


@dataclass(frozen=True, slots=True, eq=False)
class Coding:
    """Codes images and streams that were checked; threads may share it."""

    networks: Networks
    config: CodecConfig
    tables: Tables
    models: SymbolModels

    def payload(self, image: Tensor, header: Header, analysis: str) -> bytes:
        """Image (1, H, W, 3) to the payload behind its header.

        Args:
            image: (1, H, W, 3) uint8.
            header: states its size and the quality.
            analysis: graph of the encoder.

        Raises:
            EngineError: the engine failed, or the latent cannot be coded.
        """
        q_row = interpolated_row(self.tables.rows[analysis], header.quality_units)
        with self.networks.passage() as passage:
            y, z_indices = passage.analysis(analysis, image, q_row, hyper_size(header, self.config))
            prior = passage.hyper_prior(z_indices)
            coder = LatentCoder(passage.steps.split(y, prior.quant_step), passage.steps)
            passage.walk(prior, coder)
            made = passage.fetch({"z_indices": z_indices, **coder.made})
        with self.networks.stage("entropy_coding"):
            payload = PayloadEncoder(self.models)
            payload.put_indices(made.pop("z_indices")[0], self.config.codebook_entries)
            write_parts(made, payload)
            return payload.finish()

    def image(self, out: Tensor, info: StreamInfo, payload: bytes, synthesis: str, *, partial: bool) -> float:
        """Write the image into `out` (1, H, W, 3); returns the share of symbols that the payload tells.

        Args:
            out: (1, H, W, 3) uint8.
            info: of the stream.
            payload: behind its header.
            synthesis: graph of the decoder.
            partial: show what a cut stream holds; where it states refinements, up to the last one that is there.

        Raises:
            TruncatedBitstream, CorruptBitstream: unless `partial` allows a cut.
            EngineError: the engine failed.
        """
        with self.networks.passage() as passage:
            cut = not info.intact or (partial and info.form == "bare")
            try:
                latent, decoder = self._read_latent(passage, info, payload, cut=cut, partial=partial)
            except TruncatedBitstream:
                if cut or not partial:
                    raise
                # A cut one, whose checksum is that of a whole one by chance.
                latent, decoder = self._read_latent(passage, info, payload, cut=True, partial=True)
            if not partial:
                _require_whole(info, decoder, latent)
            self._synthesise(passage, synthesis, info.header, latent, out)
        return decoder.symbols_read / math.prod(latent.shape)

    def latent(self, info: StreamInfo, payload: bytes) -> NDArray[np.float32]:
        """y_hat (N, H/f, W/f), multiplied by quant_step; raises as `image`."""
        with self.networks.passage() as passage:
            latent, decoder = self._read_latent(passage, info, payload, cut=not info.intact)
            _require_whole(info, decoder, latent)
            y_hat: NDArray[np.float32] = passage.fetch({"latent": latent})["latent"][0]
        return y_hat

    def preview(self, out: Tensor, info: StreamInfo, payload: bytes, synthesis: str) -> None:
        """Write what the z indices alone show into `out` (1, H, W, 3); see `image`.

        Raises:
            TruncatedBitstream: they are not whole.
            EngineError: the engine failed.
        """
        decoder = PayloadDecoder(self.models, payload, cut=not info.intact)
        with self.networks.passage() as passage:
            latent = self._latent_of(passage, self._get_indices(decoder, info.header), ZeroCoder())
            self._synthesise(passage, synthesis, info.header, latent, out)

    def _read_latent(
        self, passage: Passage, info: StreamInfo, payload: bytes, *, cut: bool, partial: bool = False
    ) -> tuple[Tensor, PayloadDecoder]:
        """Latent (1, N, h, w) times quant_step, and the decoder behind the last symbol that it shows."""
        coder: SymbolCoder
        refinements = info.header.refinements if cut and partial else None
        reached = refinements.reached(len(payload)) if refinements else 0
        decoder = PayloadDecoder(self.models, payload[:reached] if reached else payload, cut=cut)
        with self.networks.stage("entropy_coding"):
            z_indices = self._get_indices(decoder, info.header)
        if refinements and not reached:
            coder = ZeroCoder()
        else:
            coder = PayloadCoder(decoder, passage.fetch, lambda: self.networks.stage("entropy_coding"))
        return self._latent_of(passage, z_indices, coder), decoder

    def _latent_of(self, passage: Passage, z_indices: NDArray[np.int32], coder: SymbolCoder) -> Tensor:
        prior = passage.hyper_prior(z_indices)
        return passage.steps.dequantise(passage.walk(prior, coder), prior.quant_step)

    def _synthesise(self, passage: Passage, synthesis: str, header: Header, latent: Tensor, out: Tensor) -> None:
        """Write the image into `out` (1, H, W, 3)."""
        q_row = interpolated_row(self.tables.rows[synthesis], header.quality_units)
        passage.synthesise(synthesis, latent, q_row, out)

    def _get_indices(self, decoder: PayloadDecoder, header: Header) -> NDArray[np.int32]:
        """Z indices (1, h/4, w/4)."""
        return decoder.get_indices(hyper_size(header, self.config), self.config.codebook_entries)[None]


def hyper_size(header: Header, config: CodecConfig) -> tuple[int, int]:
    """Rows and columns of the z indices of an image."""
    multiple = 4 * config.downsampling
    return -(-header.height // multiple), -(-header.width // multiple)


def _require_whole(info: StreamInfo, decoder: PayloadDecoder, latent: Tensor) -> None:
    """Refuse a stream that has not told all symbols of the latent."""
    if decoder.ended:
        raise TruncatedBitstream(
            f"the bitstream was cut or damaged: it ends after {decoder.symbols_read} of {math.prod(latent.shape)} "
            "symbols; allow_partial shows them"
        )
    if not info.intact:
        raise CorruptBitstream("the checksum does not match: the bitstream was damaged")
