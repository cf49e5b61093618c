"""Engines: one file for each SDK behind one protocol, chosen by name."""

from __future__ import annotations

from glc.engines.host_arrays import LentPixels
from glc.engines.protocol import (
    Array,
    Engine,
    EngineLoader,
    HostLoader,
    StageListener,
    StripLoader,
    TargetKey,
    Tensor,
    TensorSpec,
    Workspace,
)
from glc.errors import EngineUnavailable

__all__ = [
    "CPU_ENGINES",
    "ENGINE_NAMES",
    "GPU_ENGINES",
    "PRECISIONS",
    "Array",
    "Engine",
    "EngineLoader",
    "HostLoader",
    "LentPixels",
    "StageListener",
    "StripLoader",
    "TargetKey",
    "Tensor",
    "TensorSpec",
    "Workspace",
    "engine_loader",
]

CPU_ENGINES = ("onnxruntime", "openvino", "onnxruntime-avx2", "openvino-avx2", "openvino-amx")
"""Compute on the CPU; the last three on processors that have these instructions alone."""

GPU_ENGINES = ("tensorrt", "tensorrt_rtx", "onnxruntime-cuda", "onnxruntime-tensorrt")
"""Compute on a GPU; the first two run what `glc-export --target` compiled."""

ENGINE_NAMES = (*CPU_ENGINES, *GPU_ENGINES)
"""What `engine_loader` takes."""

PRECISIONS = ("f32", "f16", "bf16")
"""Of the image graphs; exact graphs run at one that holds their integers."""


def engine_loader(name: str, threads: int | None = None, precision: str | None = None) -> EngineLoader:
    """Choose an engine.

    Args:
        name: one of `ENGINE_NAMES`.
        threads: CPU threads for one run; None takes all that this process may use. Not for engines on a GPU.
        precision: one of `PRECISIONS`; None takes f32, f16 on a GPU, and for `openvino-amx` f16 or else bf16.

    Raises:
        EngineUnavailable: no such engine, its package is not installed, or it cannot compute in this precision, or with
            a number of threads, here.
        ValueError: threads is not positive, or there is no such precision.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1; got {threads}")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"no precision is called {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if name not in ENGINE_NAMES:
        raise EngineUnavailable(f"no engine is called {name!r}; choose one of {', '.join(ENGINE_NAMES)}")
    # The import is what needs the SDK, so it happens only once that SDK was chosen.
    if name in GPU_ENGINES:
        return _gpu_loader(name, threads, precision)
    if name == "openvino":
        from glc.engines.ov import OvLoader

        return OvLoader(threads, precision)
    if name in ("openvino-amx", "openvino-avx2"):
        from glc.engines.ov_chained import OvChainedLoader

        return OvChainedLoader(name, threads, precision)
    from glc.engines.ort import OrtLoader

    if precision not in (None, "f32"):
        raise EngineUnavailable(f"engine {name} computes in f32 only, not in {precision}: choose openvino")
    return OrtLoader(threads, own_convolutions=name == "onnxruntime-avx2")


def _gpu_loader(name: str, threads: int | None, precision: str | None) -> EngineLoader:
    if threads is not None:
        raise EngineUnavailable(f"engine {name} takes no threads, which are for engines on the CPU: leave them out")
    if precision == "bf16":
        raise EngineUnavailable(f"engine {name} computes in f16 or f32, not in bf16")
    if name.startswith("onnxruntime"):
        from glc.engines.ort import OrtDeviceLoader

        return OrtDeviceLoader(name, precision)
    from glc.engines.trt import TrtLoader

    return TrtLoader(name, precision)
