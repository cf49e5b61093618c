"""The payload: z indices and symbols to bytes and back (docs/bitstream.md, "Payload").

`range_coder.c` codes; here its input is checked, and what it finds wrong becomes one of our errors.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from glc.errors import CorruptBitstream, EngineFailed, TruncatedBitstream
from glc.runtime._range_coder import RangeDecoder, RangeEncoder
from glc.runtime.scale_table import PROBABILITY_BITS, ScaleTable

_WORD_BYTES = 4

ESCAPE_WIDTHS = 23
"""An escaped magnitude exceeds the table's reach by a number of 1 to 23 bits."""

MAX_SYMBOL = 1 << ESCAPE_WIDTHS
"""Every symbol of a smaller magnitude can be coded, whatever its scale index."""

Symbols = NDArray[np.int32]


def least_payload_bytes(indices: int, entries: int) -> int:
    """Shortest payload that can hold this many z indices, whatever they are and whatever follows.

    Every index narrows the coder's interval at least to the share of the most probable one; ending a payload may
    leave out the last 8 bytes.
    """
    if entries == 1:
        return 0
    total = 1 << PROBABILITY_BITS
    most_probable = total - (entries - 1) * (total // entries)
    return max(0, math.floor(indices * (PROBABILITY_BITS - math.log2(most_probable)) / 8) - 8)


class SymbolModels:
    """The distributions of a scale table as the coder reads them; read-only, shared by all coders."""

    def __init__(self, table: ScaleTable) -> None:
        self.reach = table.reach
        """(levels,) int32: largest magnitude in the table of each level."""
        sums = (part for row in table.frequencies for part in ((0,), row.cumsum()))
        self.below = np.concatenate([*sums]).astype(np.uint32)
        """Of each level in turn: the sums of the frequencies before each symbol, and of all."""


class PayloadEncoder:
    """Writes one payload: first in, first out."""

    def __init__(self, models: SymbolModels) -> None:
        self._models = models
        self._coder = RangeEncoder()

    def put_indices(self, indices: NDArray[np.int32], entries: int) -> None:
        """Append z indices of any shape, each 0..entries - 1, all equally probable."""
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < entries:
            raise EngineFailed(f"z indices lie in {indices.min()}..{indices.max()}; expected 0..{entries - 1}")
        if entries > 1:
            self._coder.put_indices(np.ascontiguousarray(indices, np.int32), entries)

    def put_part(self, symbols: Symbols, scale_indices: NDArray[np.uint8]) -> None:
        """Append the symbols of one part.

        Args:
            symbols: (N, h/2, w/2) int32.
            scale_indices: the same shape, uint8, rows of the scale table.

        Raises:
            EngineFailed: a scale index or a symbol is out of range.
        """
        models, values = self._models, np.ascontiguousarray(symbols, np.int32)
        try:
            self._coder.put_part(values, np.ascontiguousarray(scale_indices, np.uint8), models.reach, models.below)
        except OverflowError as error:
            raise EngineFailed(f"{error}; the model's latent diverged") from error
        except IndexError as error:
            raise _unknown_level(scale_indices, models) from error

    def finish(self) -> bytes:
        """Return the payload: as few bytes as tell its symbols, given that zeros follow its end."""
        return _shortest_end(*self._coder.state())


class PayloadDecoder:
    """Reads one payload in the order in which it was written.

    What was cut off a payload lies between all zeros and all ones: symbols on which both agree are certain. A decoder
    for a cut payload reads those; then `ended` is true, and every further symbol is zero.
    """

    def __init__(self, models: SymbolModels, payload: bytes, *, cut: bool = False) -> None:
        self._models = models
        self._payload_bytes = len(payload)
        self._cut = cut
        self._coder = RangeDecoder(payload, cut)
        self.symbols_read = 0
        """Symbols of the four parts that were read, or are known to be zero."""

    @property
    def ended(self) -> bool:
        """Whether a cut payload gave all of its certain symbols."""
        return self._coder.ended

    def get_indices(self, shape: tuple[int, ...], entries: int) -> NDArray[np.int32]:
        """Read z indices.

        Raises:
            CorruptBitstream: no sequence of indices leads to this payload.
            TruncatedBitstream: it ends before them.
        """
        indices = np.zeros(shape, np.int32)
        if entries > 1:
            read = self._coder.get_indices(indices, entries)
            self._require_whole()
            if self.ended:
                raise TruncatedBitstream(
                    f"the bitstream ends after {read} of {indices.size} z indices: too early for any image"
                )
        return indices

    def get_part(self, scale_indices: NDArray[np.uint8]) -> Symbols:
        """Read the symbols of one part.

        Args:
            scale_indices: (N, h/2, w/2) uint8, rows of the scale table.

        Returns:
            Symbols of the same shape; zeros where a cut payload no longer tells.

        Raises:
            CorruptBitstream: no sequence of symbols leads to this payload.
            TruncatedBitstream: it is too short for them, and was not said to be cut.
            EngineFailed: a scale index is out of range.
        """
        models, symbols = self._models, np.zeros(scale_indices.shape, np.int32)
        levels = np.ascontiguousarray(scale_indices, np.uint8)
        try:
            self.symbols_read += self._coder.get_part(symbols, levels, models.reach, models.below)
        except IndexError as error:
            raise _unknown_level(scale_indices, models) from error
        self._require_whole()
        return symbols

    def _require_whole(self) -> None:
        """Refuse a payload that was not said to be cut, and to which what was read does not lead.

        An encoder writes every word that its coder shifts out, and a decoder shifts in as many: one that shifts in
        more has read symbols that were cut off, whatever the checksum says.
        """
        if self._cut:
            return
        if self._coder.words * _WORD_BYTES > self._payload_bytes:
            raise TruncatedBitstream("the bitstream was cut: it is too short for its symbols")
        if self.ended:
            raise CorruptBitstream("the payload is damaged: no symbols lead to it")


def _unknown_level(scale_indices: NDArray[np.uint8], models: SymbolModels) -> EngineFailed:
    return EngineFailed(f"scale index {scale_indices.max()} is out of range 0..{len(models.reach) - 1}")


def _shortest_end(shifted_out: bytes, lower: int, width: int) -> bytes:
    """End a payload with the fewest bytes that, with zeros after them, lie in the coder's final interval.

    Args:
        shifted_out: what the coder has written.
        lower: start of the interval behind that, of 64 bits.
        width: length of the interval.
    """
    start = int.from_bytes(shifted_out, "big") << 64 | lower
    sealed = start
    for length in range(9):
        shift = 64 - 8 * length
        sealed = -(-start >> shift) << shift
        if sealed < start + width:
            break
    return sealed.to_bytes(len(shifted_out) + 8, "big")[: len(shifted_out) + length]
