"""The range coder: z indices and symbols to payload bytes and back (docs/bitstream.md, "Payload").

The only module that imports constriction, and the place where its edges are absorbed: it never sees a symbol
outside an alphabet or a table that it would refuse, and what it raises on damaged data becomes CorruptBitstream.

    part:  elements sorted by scale index, largest first; one table a group; escapes follow their group
"""

from __future__ import annotations

import contextlib
import math

import constriction
import numpy as np
from numpy.typing import NDArray

from glc.errors import CorruptBitstream, EngineFailed, TruncatedBitstream
from glc.runtime.coding_order import CodingOrder
from glc.runtime.scale_table import PROBABILITY_BITS, ScaleTable

_WORD_BYTES = 4
_BEYOND = b"\xff" * 16
"""Highest continuation of a cut payload, as far as its last certain symbol can tell."""

ESCAPE_WIDTHS = 23
"""An escaped magnitude exceeds the table's reach by a number of 1 to 23 bits."""

ALL_ZERO_FREQUENCIES = np.array([(1 << PROBABILITY_BITS) - (1 << 18), 1 << 18], np.int64)
"""Frequencies of the flag before the group of scale index 0: 0 = every symbol is zero and none is coded."""

_MOST_SCANNED = 6
"""Largest reach of a table that a decoder scans from its start rather than halves.

Zero comes after `reach` others. Which symbol ends a scan is foreseen by the processor, so that it goes on to the next
one before the division is done; of a search by halves it waits for every step. Almost all symbols are of such levels.
"""

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
    """constriction's models for one scale table; read-only, shared by all coders."""

    def __init__(self, table: ScaleTable) -> None:
        self.reach: list[int] = table.reach.tolist()
        """Largest magnitude in the table of each level."""
        self.by_level = tuple(map(_categorical, table.frequencies))
        self.decoding = tuple(
            _scanned(row) if reach <= _MOST_SCANNED else halved
            for row, reach, halved in zip(table.frequencies, self.reach, self.by_level, strict=True)
        )
        """The same models, as they decode fastest."""
        self.all_zero = _categorical(ALL_ZERO_FREQUENCIES)
        self.escape_width = constriction.stream.model.Uniform(ESCAPE_WIDTHS)
        self.escape_bits = constriction.stream.model.Uniform()


class PayloadEncoder:
    """Writes one payload: first in, first out."""

    def __init__(self, models: SymbolModels) -> None:
        self._models = models
        self._coder = constriction.stream.queue.RangeEncoder()

    def put_indices(self, indices: NDArray[np.int32], entries: int) -> None:
        """Append z indices of any shape, each 0..entries - 1, all equally probable."""
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < entries:
            raise EngineFailed(f"z indices lie in {indices.min()}..{indices.max()}; expected 0..{entries - 1}")
        if entries > 1:
            self._coder.encode(_flat(indices), constriction.stream.model.Uniform(entries))

    def put_part(self, symbols: Symbols, scale_indices: NDArray[np.uint8]) -> None:
        """Append the symbols of one part.

        Args:
            symbols: (N, h/2, w/2) int32.
            scale_indices: the same shape, uint8, rows of the scale table.

        Raises:
            EngineFailed: a scale index or a symbol is out of range.
        """
        models = self._models
        order = CodingOrder.of(scale_indices, len(models.by_level))
        for level, group in zip(order.levels, order.by_level(_flat(symbols)), strict=True):
            if level == 0 and self._put_all_zero_flag(all_zero=group.largest == 0):
                continue
            reach = models.reach[level]
            if group.largest - reach >= 1 << ESCAPE_WIDTHS:
                raise EngineFailed(f"symbol {group.largest} is too large to code; the model's latent diverged")
            if group.largest > reach:
                self._put_with_escapes(np.concatenate(group.pieces), level, reach)
                continue
            for values in group.pieces:
                self._coder.encode(values + np.int32(reach), models.by_level[level])

    def finish(self) -> bytes:
        """Return the payload: as few bytes as tell its symbols, given that zeros follow its end."""
        words = self._coder.get_compressed()
        position, (lower, width) = self._coder.pos()
        sealed = words.astype(">u4").tobytes()[: 4 * position + 8].ljust(4 * position + 8, b"\0")
        return _shortest_end(sealed, lower, width)

    def _put_all_zero_flag(self, *, all_zero: bool) -> bool:
        self._coder.encode(np.array([not all_zero], np.int32), self._models.all_zero)
        return all_zero

    def _put_with_escapes(self, values: Symbols, level: int, reach: int) -> None:
        """Append symbols of one level, then the excess and sign of those beyond its table."""
        excess = np.abs(values) - reach
        escaped = excess > 0
        self._coder.encode(_flat(np.where(escaped, 2 * reach + 1, values + reach)), self._models.by_level[level])
        excess, negative = excess[escaped], values[escaped] < 0
        width = np.frexp(excess.astype(np.float64))[1].astype(np.int32)  # exact: bit length of a small integer
        low = excess - (1 << (width - 1))
        self._coder.encode(_flat(width - 1), self._models.escape_width)
        self._coder.encode(_flat(2 * low + negative), self._models.escape_bits, _flat(1 << width))


class PayloadDecoder:
    """Reads one payload in the order in which it was written.

    What was cut off a payload lies between all zeros and all ones: symbols on which both agree are certain. A decoder
    for a cut payload reads those; then `ended` is true, and every further symbol is zero.
    """

    def __init__(self, models: SymbolModels, payload: bytes, *, cut: bool = False) -> None:
        self._models = models
        self._coder = _range_decoder(payload)
        self._highest = _range_decoder(payload + _BEYOND) if cut else None
        self.ended = False
        """Whether a cut payload gave all of its certain symbols."""
        self.symbols_read = 0
        """Symbols of the four parts that were read, or are known to be zero."""

    def get_indices(self, shape: tuple[int, ...], entries: int) -> NDArray[np.int32]:
        """Read z indices.

        Raises:
            CorruptBitstream: no sequence of indices leads to this payload.
            TruncatedBitstream: a cut payload ends before them.
        """
        if entries == 1:
            return np.zeros(shape, np.int32)
        indices = self._decode(constriction.stream.model.Uniform(entries), math.prod(shape))
        if self.ended:
            raise TruncatedBitstream(
                f"the bitstream ends after {len(indices)} of {math.prod(shape)} z indices: too early for any image"
            )
        return indices.reshape(shape)

    def get_part(self, scale_indices: NDArray[np.uint8]) -> Symbols:
        """Read the symbols of one part.

        Args:
            scale_indices: (N, h/2, w/2) uint8, rows of the scale table.

        Returns:
            Symbols of the same shape.

        Raises:
            CorruptBitstream: no sequence of symbols leads to this payload.
            EngineFailed: a scale index is out of range.
        """
        order = CodingOrder.of(scale_indices, len(self._models.by_level))
        groups = [self._get_group(level, size) for level, size in zip(order.levels, order.sizes, strict=True)]
        return order.restored(groups).reshape(scale_indices.shape)

    def _get_group(self, level: int, size: int) -> Symbols:
        """Symbols of one level, (size,); zero where a cut payload no longer tells."""
        if level == 0:
            flag = self._decode(self._models.all_zero, 1)
            if not flag.any():
                self.symbols_read += len(flag) * size
                return np.zeros(size, np.int32)
        certain = self._get_certain(level, size)
        self.symbols_read += len(certain)
        return certain if len(certain) == size else np.pad(certain, (0, size - len(certain)))

    def _get_certain(self, level: int, size: int) -> Symbols:
        """Symbols of one level; fewer where a cut payload no longer tells."""
        reach = self._models.reach[level]
        values = self._decode(self._models.decoding[level], size)
        has_escapes = len(values) > 0 and int(np.maximum.reduce(values)) > 2 * reach
        values -= reach
        if has_escapes:
            escaped = values == reach + 1
            values[escaped] = self._get_escapes(int(escaped.sum()), reach)
        return values

    def _get_escapes(self, count: int, reach: int) -> Symbols:
        """Values of escaped symbols; zero where a cut payload no longer tells."""
        width = self._decode(self._models.escape_width, count) + 1
        bits = self._decode(self._models.escape_bits, _flat(1 << width))
        if self.ended:
            return np.zeros(count, np.int32)
        magnitude = reach + (1 << (width - 1)) + (bits >> 1)
        return np.where(bits & 1, -magnitude, magnitude).astype(np.int32)

    def _decode(self, model: constriction.stream.model.Model, argument: int | Symbols) -> Symbols:
        """Decode so many symbols, or those of which a cut payload is certain."""
        if self.ended:
            return np.zeros(0, np.int32)
        if self._highest is None:
            try:
                return self._coder.decode(model, argument)
            except AssertionError as error:
                raise CorruptBitstream("the payload is damaged: no symbols lead to it") from error
        lowest, highest = (_as_far_as_possible(coder, model, argument) for coder in (self._coder, self._highest))
        length = min(len(lowest), len(highest))
        differing = np.flatnonzero(lowest[:length] != highest[:length])
        wanted = argument if isinstance(argument, int) else len(argument)
        if length == wanted and not len(differing):
            return lowest
        self.ended = True
        return lowest[: differing[0] if len(differing) else length]


def _as_far_as_possible(
    coder: constriction.stream.queue.RangeDecoder, model: constriction.stream.model.Model, argument: int | Symbols
) -> Symbols:
    """Decode until a continuation of a cut payload leaves the range of every symbol."""
    before = coder.clone()
    with contextlib.suppress(AssertionError):
        return coder.decode(model, argument)
    found = np.zeros(0, np.int32)
    fails = argument if isinstance(argument, int) else len(argument)
    while fails - len(found) > 1:
        middle = (len(found) + fails) // 2
        try:
            found = before.clone().decode(model, middle if isinstance(argument, int) else argument[:middle])
        except AssertionError:
            fails = middle
    return found


def _range_decoder(payload: bytes) -> constriction.stream.queue.RangeDecoder:
    padded = payload + bytes(-len(payload) % _WORD_BYTES)
    return constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))


def _categorical(frequencies: NDArray[np.int64]) -> constriction.stream.model.Model:
    return constriction.stream.model.Categorical(_weights(frequencies), perfect=False)


def _scanned(frequencies: NDArray[np.int64]) -> constriction.stream.model.Model:
    return constriction.stream.model.Categorical(_weights(frequencies), lazy=True)


def _weights(frequencies: NDArray[np.int64]) -> NDArray[np.float64]:
    # constriction gives each of n symbols one unit of 2^24 and shares the rest by weight; weights that are integers
    # and add up to 2^24 - n are therefore taken over exactly, whatever the machine. tests/runtime/test_entropy.py
    # holds this against a range coder in plain integers.
    return (frequencies - 1).astype(np.float64)


def _flat(array: NDArray[np.integer]) -> Symbols:
    return np.ascontiguousarray(array, np.int32).ravel()


def _shortest_end(sealed: bytes, lower: int, width: int) -> bytes:
    """Cut the coder's last 8 bytes to the fewest that, with zeros after them, lie in its final interval.

    Args:
        sealed: words that the coder shifted out, then 8 bytes with a number of its own choice in the interval.
        lower: start of the interval, as the coder keeps it, modulo 2^64.
        width: length of the interval.
    """
    shifted_out, chosen = sealed[:-8], int.from_bytes(sealed[-8:], "big")
    # If the choice wrapped around 2^64, a carry went into the words before, and the interval starts below them.
    start = (int.from_bytes(shifted_out, "big") << 64) + lower - ((1 << 64) if chosen < lower else 0)
    for length in range(8):
        shift = 64 - 8 * length
        candidate = -(-start >> shift) << shift
        if candidate < start + width:
            return candidate.to_bytes(len(sealed), "big")[: len(shifted_out) + length]
    return start.to_bytes(len(sealed), "big")
