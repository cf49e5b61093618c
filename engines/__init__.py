"""Engines: one file for each SDK behind one protocol, chosen by name."""

from __future__ import annotations

from glc.engines.protocol import Array, Engine, EngineLoader, TensorSpec
from glc.errors import EngineUnavailable

__all__ = ["ENGINE_NAMES", "Array", "Engine", "EngineLoader", "TensorSpec", "engine_loader"]

ENGINE_NAMES = ("auto", "onnxruntime")
"""What `engine_loader` takes."""


def engine_loader(name: str = "auto", threads: int | None = None) -> EngineLoader:
    """Choose an engine.

    Args:
        name: one of `ENGINE_NAMES`; "auto" takes the fastest that is installed.
        threads: CPU threads for one run; None takes all that this process may use.

    Raises:
        EngineUnavailable: no such engine, or its package is not installed.
        ValueError: threads is not positive.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1; got {threads}")
    if name not in ENGINE_NAMES:
        raise EngineUnavailable(f"no engine is called {name!r}; choose one of {', '.join(ENGINE_NAMES)}")
    # The import is what needs the SDK, so it happens only once that SDK was chosen.
    from glc.engines.ort import OrtLoader

    return OrtLoader(threads)
