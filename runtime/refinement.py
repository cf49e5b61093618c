"""Where a cut stream may show more: places in its payload that an encoder tries, as it alone has the image.

A symbol more makes the image worse in one case of ten (docs/decisions/0015-falls-of-cut-streams.md), and a decoder
cannot tell which. So an encoder that is asked for refinements decodes its own stream, cut at evenly spaced places,
and states those at which the image is better than at all places before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from glc.errors import TruncatedBitstream
from glc.runtime.bitstream import MAX_REFINEMENTS, Refinements, inspect

_LEAST_GAIN = 0.01
"""Of squared error, from one place to the next: more than engines and precisions differ by."""


class Shower(Protocol):
    """What of a codec shows streams that are cut."""

    def preview(self, data: bytes) -> NDArray[np.uint8]:
        """See `Codec.preview`."""
        ...

    def decode(self, data: bytes, *, allow_partial: bool = False) -> NDArray[np.uint8]:
        """See `Codec.decode`."""
        ...


def find_refinements(codec: Shower, data: bytes, image: NDArray[np.uint8]) -> Refinements:
    """Decode a stream, cut at up to `MAX_REFINEMENTS` places, and choose those that show more.

    Args:
        codec: that made it.
        data: the whole stream in file form, without refinements.
        image: (H, W, 3) that it was made of.

    Returns:
        Places by whose squared errors each is better than all before it, and the whole image better than any.

    Raises:
        EngineError: the engine failed.
    """
    info = inspect(data)
    step = -(-max(info.payload_bytes, 1) // (MAX_REFINEMENTS + 1))
    places = range(step, min(info.payload_bytes, step * MAX_REFINEMENTS + 1), step)
    errors = [_error_of_cut(codec, data[: info.header_bytes + place], image) for place in places]
    preview, whole = (_squared_error(shown, image) for shown in (codec.preview(data), codec.decode(data)))
    return Refinements(step, _better(preview, errors, whole))


def _better(preview: float, errors: Sequence[float], whole: float) -> int:
    """Mask of the errors that fall from the preview's to the whole image's, each by the least gain."""
    mask, best = 0, preview
    for number, error in enumerate(errors):
        if error < best * (1 - _LEAST_GAIN) and whole < error * (1 - _LEAST_GAIN):
            mask |= 1 << number
            best = error
    return mask


def _error_of_cut(codec: Shower, data: bytes, image: NDArray[np.uint8]) -> float:
    try:
        return _squared_error(codec.decode(data, allow_partial=True), image)
    except TruncatedBitstream:  # the place lies among the z indices
        return np.inf


def _squared_error(shown: NDArray[np.uint8], image: NDArray[np.uint8]) -> float:
    """Mean over all values; row by row, as an image of float64 takes eight times its memory."""
    rows = (np.square(a.astype(np.float64) - b).mean() for a, b in zip(shown, image, strict=True))
    return float(np.mean(list(rows)))
