"""A second decoder of the payload, in plain Python integers, written from docs/bitstream.md alone.

It shares no code with `glc.runtime.entropy` and knows no library but the standard one. That it reads every payload
which the runtime writes shows that the document suffices to write a decoder. It is slow and meant for tests.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

_TOTAL_BITS = 24
_WORD_BITS = 32
_MODULUS = 1 << 64
_ALL_ZERO_FLAG = (2**24 - 2**18, 2**18)
_ESCAPE_WIDTHS = 23


class Damaged(Exception):
    """No symbols lead to the payload, or more of them than it can hold."""


class PlainDecoder:
    """Reads symbols from the front of one payload."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._position = 0
        self._lower = 0
        self._range = _MODULUS - 1
        self._point = self._word() << _WORD_BITS
        self._point |= self._word()

    def symbols(self, frequencies: Sequence[int], count: int) -> list[int]:
        """Read `count` symbols of a distribution with these frequencies, which add up to 2^24."""
        below = list(accumulate(frequencies, initial=0))
        symbols = []
        for _ in range(count):
            symbol = bisect_right(below, self._quantile()) - 1
            self._consume(below[symbol], frequencies[symbol])
            symbols.append(symbol)
        return symbols

    def uniform(self, n: int) -> int:
        """Read one of n symbols of equal probability; the last one takes the remainder."""
        each = (1 << _TOTAL_BITS) // n
        symbol = min(self._quantile() // each, n - 1)
        self._consume(symbol * each, each if symbol < n - 1 else (1 << _TOTAL_BITS) - symbol * each)
        return symbol

    def indices(self, count: int, entries: int) -> list[int]:
        """Read z indices, in raster order."""
        return [0] * count if entries == 1 else [self.uniform(entries) for _ in range(count)]

    def part(self, scale_indices: Sequence[int], table: Sequence[Sequence[int]]) -> list[int]:
        """Read one part.

        Args:
            scale_indices: of its elements in the order of the array.
            table: for each scale index the 2R + 2 frequencies.

        Returns:
            The symbols of its elements in the order of the array.
        """
        values = [0] * len(scale_indices)
        for level in sorted(set(scale_indices), reverse=True):
            if level == 0 and self.symbols(_ALL_ZERO_FLAG, 1) == [0]:
                continue
            members = [place for place, index in enumerate(scale_indices) if index == level]
            for place, value in zip(members, self._group(table[level], len(members)), strict=True):
                values[place] = value
        return values

    def _group(self, frequencies: Sequence[int], count: int) -> list[int]:
        reach = (len(frequencies) - 2) // 2
        escape = 2 * reach + 1
        coded = self.symbols(frequencies, count)
        widths = [self.uniform(_ESCAPE_WIDTHS) + 1 for symbol in coded if symbol == escape]
        escaped = []
        for width in widths:
            v = self.uniform(1 << width)
            magnitude = reach + (1 << (width - 1)) + v // 2
            escaped.append(-magnitude if v % 2 else magnitude)
        following = iter(escaped)
        return [next(following) if symbol == escape else symbol - reach for symbol in coded]

    def _quantile(self) -> int:
        quantile = (self._point - self._lower) % _MODULUS // (self._range >> _TOTAL_BITS)
        if quantile >= 1 << _TOTAL_BITS:
            raise Damaged
        return quantile

    def _consume(self, below: int, frequency: int) -> None:
        scale = self._range >> _TOTAL_BITS
        self._lower = (self._lower + scale * below) % _MODULUS
        self._range = scale * frequency
        if self._range < 1 << _WORD_BITS:
            self._lower = (self._lower << _WORD_BITS) % _MODULUS
            self._range <<= _WORD_BITS
            self._point = (self._point << _WORD_BITS) % _MODULUS | self._word()

    def _word(self) -> int:
        word = self._payload[self._position : self._position + 4].ljust(4, b"\0")
        self._position += 4
        if self._position - 8 > len(self._payload):
            raise Damaged
        return int.from_bytes(word, "big")
