"""What happens to the latent between the networks: quantisation against the means, and assembly of the parts.

On the CPU it is NumPy; on a device it is graphs of a bundle, so that the latent does not leave the device
(docs/bundle.md, "Steps").
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glc.engines import Tensor
from glc.errors import EngineFailed
from glc.runtime.entropy import MAX_SYMBOL
from glc.runtime.spatial_walk import PARTS, gather_part, scatter_part


class LatentSteps(Protocol):
    """Arithmetic on latents y, y_hat (1, N, h, w) and parts (1, N, h/2, w/2), in units of quant_step."""

    def split(self, y: Tensor, quant_step: Tensor) -> tuple[Tensor, ...]:
        """Divide y by quant_step, and take the four parts out of it."""
        ...

    def quantise(self, target: Tensor, means: Tensor) -> Tensor:
        """Symbols int32 of a part: its distance from the means, rounded; +-MAX_SYMBOL or more where it has none."""
        ...

    def assemble(self, part: int, y_hat: Tensor | None, symbols: Tensor, means: Tensor) -> Tensor:
        """Add a part to y_hat so far, which is taken over; None before part 0."""
        ...

    def dequantise(self, y_hat: Tensor, quant_step: Tensor) -> Tensor:
        """Multiply y_hat by quant_step: what the synthesis transform takes.

        Raises:
            EngineFailed: the result is not finite.
        """
        ...


class HostSteps:
    """In NumPy."""

    def split(self, y: Tensor, quant_step: Tensor) -> tuple[Tensor, ...]:
        """See `LatentSteps.split`."""
        with np.errstate(all="ignore"):  # where a model gives no numbers, the coder says so
            target = (_array(y) / _array(quant_step))[0]
        return tuple(gather_part(target, part)[None] for part in range(PARTS))

    def quantise(self, target: Tensor, means: Tensor) -> Tensor:
        """See `LatentSteps.quantise`."""
        with np.errstate(all="ignore"):
            distance: NDArray[np.float32] = _array(target) - _array(means)
            np.rint(distance, out=distance)
            symbols = distance.astype(np.int32)
            symbols[~(np.abs(distance) < MAX_SYMBOL)] = MAX_SYMBOL  # false for NaN too
        return symbols

    def assemble(self, part: int, y_hat: Tensor | None, symbols: Tensor, means: Tensor) -> Tensor:
        """See `LatentSteps.assemble`."""
        values = _array(symbols)[0].astype(np.float32)  # by itself NumPy would add in float64
        values += _array(means)[0]
        if y_hat is None:
            channels, rows, columns = values.shape
            y_hat = np.zeros((1, channels, 2 * rows, 2 * columns), np.float32)
        scatter_part(_array(y_hat)[0], part, values)
        return y_hat

    def dequantise(self, y_hat: Tensor, quant_step: Tensor) -> Tensor:
        """See `LatentSteps.dequantise`."""
        with np.errstate(all="ignore"):
            latent: NDArray[np.float32] = _array(y_hat) * _array(quant_step)
        if not np.isfinite(latent).all():
            raise EngineFailed("the decoded latent is not finite")
        return latent


def _array(tensor: Tensor) -> NDArray[Any]:
    return np.asarray(tensor)
