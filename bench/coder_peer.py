"""CompressAI's coder on the symbols, scale indices and probabilities that ours codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glc.bench.peers import Piped
from glc.runtime.scale_table import PROBABILITY_BITS, ScaleTable

_PEER_BITS = 16
"""Of CompressAI's probabilities."""

_PROGRAM = Path(__file__).resolve().parent / "coder_program.py"


@dataclass(frozen=True, slots=True)
class PeerCoderTurn:
    """All symbols written and read once."""

    encode_ms: float
    """From arrays to bytes, with the lists that its functions take."""
    decode_ms: float
    """Back to an array."""
    encode_alone_ms: float
    """Of that, without lists."""
    decode_alone_ms: float
    payload_bytes: int


class PeerCoder(Piped):
    """CompressAI's coder, waiting for its turn."""

    def __init__(
        self,
        python: str,
        symbols: NDArray[np.int32],
        indices: NDArray[np.uint8],
        parts: int,
        table: ScaleTable,
        file: Path,
    ) -> None:
        """Start it and code once.

        Args:
            python: interpreter that has CompressAI.
            symbols: of one part, any shape.
            indices: the same shape, rows of the table.
            parts: how often the part is coded, at once.
            table: our probabilities, which are rounded to CompressAI's 16 bits.
            file: to write, for it to read.

        Raises:
            EngineUnavailable: CompressAI is not there.
        """
        cdfs, sizes, offsets = peer_tables(table)
        whole, of_whole = np.tile(symbols.ravel(), parts), np.tile(indices.ravel(), parts)
        np.savez(file, symbols=whole, indices=of_whole, cdfs=cdfs, sizes=sizes, offsets=offsets)
        super().__init__("compressai", "its coder", [python, str(_PROGRAM), str(file)])

    def turn(self) -> PeerCoderTurn:
        """Write and read all symbols once more.

        Raises:
            EngineFailed: the process ended.
        """
        return PeerCoderTurn(**self.ask())


def peer_tables(table: ScaleTable) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Our table as CompressAI's: a row ends with the escape there too.

    Returns:
        Cumulated frequencies (levels, longest) int32, from 0 to 2^16 in each row and zero behind; how many numbers of
        each row count (levels,) int32; its first symbol (levels,) int32.
    """
    rows = [_peer_row(row) for row in table.frequencies]
    cdfs = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for cdf, row in zip(cdfs, rows, strict=True):
        cdf[: len(row)] = row
    return cdfs, np.array([len(row) for row in rows], np.int32), -table.reach


def _peer_row(frequencies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cumulated frequencies at CompressAI's precision, none of them zero; what rounding adds, the largest makes up."""
    step = 1 << (PROBABILITY_BITS - _PEER_BITS)
    rounded = np.maximum((frequencies + step // 2) // step, 1)
    rounded[np.argmax(rounded)] += (1 << _PEER_BITS) - rounded.sum()
    return np.concatenate([[0], np.cumsum(rounded)])
