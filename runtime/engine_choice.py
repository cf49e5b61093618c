"""Which engine runs a bundle where the caller names none: the fastest that is here and computes it exactly."""

from __future__ import annotations

import os
from collections.abc import Iterator

from glc.engines import GPU_ENGINES, EngineLoader, engine_loader
from glc.engines.processor import has_float16_matrices
from glc.errors import EngineUnavailable, TargetMissing
from glc.runtime.bundle import Bundle

ENGINE_VARIABLE = "GLC_ENGINE"
"""Environment variable that names the engine where the caller does not."""

AUTO = "auto"

_FASTEST_FIRST: tuple[tuple[str, str], ...] = (
    *(("tensorrt", "f16"), ("tensorrt_rtx", "f16")),
    *(("openvino-amx", "f16"), ("openvino-amx", "bf16"), ("openvino-avx2", "f32")),
    ("onnxruntime-avx2", "f32"),
    *(("openvino", "f16"), ("openvino", "f32"), ("onnxruntime", "f32")),
)
"""Engine and its precision where none is asked for. On a CPU, float16 only where a matrix unit computes it; bfloat16
only where activations are float16 between convolutions, so that images stay within 50 dB (docs/decisions/0013)."""

_STEADIEST_FIRST: tuple[tuple[str, str], ...] = (("onnxruntime", "f32"), ("openvino", "f32"))
"""For float arithmetic, whose streams decode only where they were made: the same choice wherever that is possible."""


def named_engine(engine: str | None) -> str:
    """The engine that was asked for, by the caller or in GLC_ENGINE; else "auto"."""
    return engine or os.environ.get(ENGINE_VARIABLE) or AUTO


def loaders(bundle: Bundle, engine: str, threads: int | None, precision: str | None) -> Iterator[EngineLoader]:
    """The engine that was named; for "auto" all that are here and hold what the bundle needs, the best first.

    Raises:
        EngineUnavailable: the named engine is not here; or for "auto", none is: the message says why of each.
        TargetMissing: nothing in the bundle was compiled for the named engine.
        ValueError: threads is not positive, or there is no such precision.
    """
    if engine != AUTO:
        yield engine_loader(engine, threads, precision)
        return
    order = _FASTEST_FIRST if bundle.manifest.arithmetic == "exact" else _STEADIEST_FIRST
    if precision is None:
        order = tuple(choice for choice in order if choice != ("openvino", "f16") or has_float16_matrices())
    else:
        order = tuple(dict.fromkeys((name, precision) for name, _ in order))
    reasons = []
    found = False
    for name, of_engine in order:
        if threads is not None and name in GPU_ENGINES:
            continue  # who counts the CPU's threads wants the CPU
        try:
            loader = engine_loader(name, threads, of_engine)
            bundle.require_target(loader.target)
        except (EngineUnavailable, TargetMissing) as error:
            reasons.append(str(error))
        else:
            found = True
            yield loader
    if not found:
        raise EngineUnavailable(f"no engine is here that can run this bundle: {'; '.join(dict.fromkeys(reasons))}")
