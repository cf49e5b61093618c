"""The seam between the codec and the SDKs that run its networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from glc.errors import EngineFailed

Array = NDArray[Any]

EXACT_PRECISIONS = {"f32": "f32", "f16": "f16", "bf16": "f32"}
"""Precision asked for -> precision of exact graphs: 8 bits of bfloat16 do not hold their integers."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, data type and shape of one input or output."""

    name: str
    dtype: str
    """`float32`, `uint8` or `int32`."""
    shape: tuple[int | None, ...]
    """One entry an axis; None where any size will do."""

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join('*' if n is None else str(n) for n in self.shape)}]"

    def accepts(self, array: Array) -> bool:
        """Whether an array has this data type and shape."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(free in (None, size) for free, size in zip(self.shape, array.shape, strict=True))
        )


class Engine(Protocol):
    """One loaded graph. `run` may be called from several threads at once; `close` only when none runs."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs.

        Args:
            feeds: input name -> array of the stated data type and shape; not kept and not written to.

        Returns:
            Output name -> array that belongs to the caller.

        Raises:
            EngineFailed: a feed is missing, unexpected or mis-shaped, or the SDK reports an error.
        """
        ...

    def close(self) -> None:
        """Free the graph; `run` raises EngineFailed afterwards. Closing twice is harmless."""
        ...


class EngineLoader(Protocol):
    """An SDK that is ready to load graphs."""

    @property
    def name(self) -> str:
        """The engine's name, such as `onnxruntime`."""
        ...

    @property
    def fingerprint(self) -> str:
        """All that its float results may depend on: SDK, version, precision, threads, processor."""
        ...

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """Load a serialised ONNX graph.

        Args:
            graph: the file's content.
            exact: whether it must compute in exact arithmetic, whatever the precision of the others.

        Raises:
            EngineRejectedGraph: the SDK cannot load it.
        """
        ...


def check_feeds(inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Array]) -> None:
    """Compare feeds with what an engine expects, once, at the seam.

    Raises:
        EngineFailed: a feed is missing, unexpected, or has another data type or shape.
    """
    expected = {spec.name for spec in inputs}
    if expected != feeds.keys():
        raise EngineFailed(f"expected the inputs {sorted(expected)}; got {sorted(feeds)}")
    for spec in inputs:
        array = feeds[spec.name]
        if not spec.accepts(array):
            raise EngineFailed(f"expected the input {spec}; got {array.dtype} {list(array.shape)}")
