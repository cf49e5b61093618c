"""Where the walk's symbols come from: a latent that is encoded, a payload that is decoded, or nowhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glc.errors import EngineFailed
from glc.runtime.entropy import MAX_SYMBOL, PayloadDecoder, PayloadEncoder
from glc.runtime.spatial_walk import PartPrior, gather_part


class LatentCoder:
    """Symbol encoder: rounds a latent against the means, writes the symbols and returns them."""

    def __init__(self, target: NDArray[np.float32], payload: PayloadEncoder) -> None:
        self._target = target
        self._payload = payload

    def code(self, part: int, prior: PartPrior) -> NDArray[np.int32]:
        """See `SymbolCoder.code`. Raises EngineFailed where the latent cannot be coded."""
        rounded = np.rint(gather_part(self._target, part) - prior.means)
        if not bool((np.abs(rounded) < MAX_SYMBOL).all()):  # false for NaN too
            raise EngineFailed(f"part {part} of the latent is not finite, or too large to code")
        symbols = np.asarray(rounded, np.int32)
        self._payload.put_part(symbols, prior.scale_indices)
        return symbols


class PayloadCoder:
    """Symbol decoder: reads the symbols."""

    def __init__(self, payload: PayloadDecoder) -> None:
        self._payload = payload

    def code(self, part: int, prior: PartPrior) -> NDArray[np.int32]:  # noqa: ARG002 - a payload is in order
        """See `SymbolCoder.code`. Raises CorruptBitstream on a damaged payload."""
        return self._payload.get_part(prior.scale_indices)


class ZeroCoder:
    """Every symbol zero."""

    def code(self, part: int, prior: PartPrior) -> NDArray[np.int32]:  # noqa: ARG002
        """See `SymbolCoder.code`."""
        return np.zeros(prior.means.shape, np.int32)
