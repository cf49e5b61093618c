"""What the processor that runs the tests can do."""

from __future__ import annotations

import pytest

from glc.engines import CPU_ENGINES, engine_loader
from glc.errors import EngineUnavailable


def _missing(engine: str) -> str | None:
    if engine != "openvino-amx":
        return None
    try:
        engine_loader(engine, 1)
    except EngineUnavailable as error:
        return str(error)
    return None


CPU_ENGINES_HERE = [
    pytest.param(engine, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))
    for engine in CPU_ENGINES
    for reason in [_missing(engine)]
]
"""Parameters: engines of CPUs, those skipped that need a unit that is not here."""
