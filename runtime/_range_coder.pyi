import numpy as np
from numpy.typing import NDArray

class RangeEncoder:
    """Writes symbols. Threads must not share it."""

    def put_indices(self, indices: NDArray[np.int32], entries: int, /) -> None:
        """Append indices, each one of so many entries.

        Raises:
            ValueError: one is not, or there are no entries or more than 2^24.
        """

    def put_part(
        self,
        values: NDArray[np.int32],
        scale_indices: NDArray[np.uint8],
        reach: NDArray[np.int32],
        below: NDArray[np.uint32],
        /,
    ) -> None:
        """Append a part; all arrays in one piece of memory, the tables as `SymbolModels` has them.

        Raises:
            IndexError: a scale index has no row in the tables.
            OverflowError: no escape can state one of the values.
            ValueError: the arrays do not fit each other.
        """

    def state(self) -> tuple[bytes, int, int]:
        """What was shifted out, and start and length of the interval, of 64 bits each."""

class RangeDecoder:
    """Reads symbols of a payload; of one that may be cut, those that are certain."""

    def __init__(self, payload: bytes, cut: bool, /) -> None: ...
    @property
    def ended(self) -> bool:
        """Whether a symbol was not certain, or none fitted; all that is read after that is not certain either."""

    @property
    def words(self) -> int:
        """Words that were shifted in after the first two."""

    def get_indices(self, indices: NDArray[np.int32], entries: int, /) -> int:
        """Fill with indices, each one of so many entries; returns how many were read."""

    def get_part(
        self,
        values: NDArray[np.int32],
        scale_indices: NDArray[np.uint8],
        reach: NDArray[np.int32],
        below: NDArray[np.uint32],
        /,
    ) -> int:
        """Write the certain values other than zero where zeros stand; returns how many are certain. See `put_part`.

        Raises:
            IndexError: a scale index has no row in the tables.
            ValueError: the arrays do not fit each other.
        """
