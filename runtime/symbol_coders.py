"""Where the walk's symbols come from: a latent that is encoded, a payload that is decoded, or nowhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np

from glc.engines import Array, Tensor
from glc.errors import EngineFailed
from glc.runtime.entropy import MAX_SYMBOL, PayloadDecoder, PayloadEncoder
from glc.runtime.latent_steps import LatentSteps
from glc.runtime.spatial_walk import PartPrior

Fetch = Callable[[Mapping[str, Tensor]], dict[str, Array]]
"""`Workspace.fetch`."""


class LatentCoder:
    """Symbol encoder: rounds a latent against the means.

    It writes nothing before all symbols are known, so that a device goes through the four parts without waiting.
    """

    def __init__(self, targets: Sequence[Tensor], steps: LatentSteps) -> None:
        self._targets = targets
        self._steps = steps
        self._made: dict[str, Tensor] = {}

    def code(self, part: int, prior: PartPrior) -> Tensor:
        """See `SymbolCoder.code`."""
        symbols = self._steps.quantise(self._targets[part], prior.means)
        self._made |= {f"symbols_{part}": symbols, f"scale_indices_{part}": prior.scale_indices}
        return symbols

    @property
    def made(self) -> Mapping[str, Tensor]:
        """What `write_parts` must be given: `symbols_k` and `scale_indices_k` of every part k."""
        return self._made


def write_parts(parts: Mapping[str, Array], payload: PayloadEncoder) -> None:
    """Write what `LatentCoder.made` names.

    Raises:
        EngineFailed: the latent cannot be coded.
    """
    for part in range(len(parts) // 2):
        symbols = parts[f"symbols_{part}"][0]
        if symbols.size and max(-int(symbols.min()), int(symbols.max())) >= MAX_SYMBOL:
            raise EngineFailed(f"part {part} of the latent is not finite, or too large to code")
        payload.put_part(symbols, parts[f"scale_indices_{part}"][0])


class PayloadCoder:
    """Symbol decoder: reads the symbols."""

    def __init__(
        self,
        payload: PayloadDecoder,
        fetch: Fetch,
        timed: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Read from a payload.

        Args:
            payload: at the beginning of part 0.
            fetch: brings scale indices to the CPU.
            timed: what reading happens within.
        """
        self._payload = payload
        self._fetch = fetch
        self._timed = timed

    def code(self, part: int, prior: PartPrior) -> Tensor:
        """See `SymbolCoder.code`. Raises CorruptBitstream on a damaged payload."""
        name = f"scale_indices_{part}"
        indices = self._fetch({name: prior.scale_indices})[name]
        with self._timed():
            return self._payload.get_part(indices[0])[None]


class ZeroCoder:
    """Every symbol zero."""

    def code(self, part: int, prior: PartPrior) -> Tensor:  # noqa: ARG002
        """See `SymbolCoder.code`."""
        return np.zeros(prior.means.shape, np.int32)
