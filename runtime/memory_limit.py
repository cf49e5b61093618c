"""How much memory this process may still take, and estimates of what graphs will."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

_STATM = Path("/proc/self/statm")
_C = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_TRIMMED_BYTES = 1 << 30

REUSED_BYTES = 32 << 20
"""Larger memory always comes from the system, page by page, and goes back when it is freed: glibc's own limit."""
_FLOAT_BYTES = 4


def resident_bytes() -> int:
    """Resident memory of this process; where the system does not tell, the most that it ever had."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def give_back() -> None:
    """Return to the system what was freed; glibc keeps some of it for later."""
    if _C is not None and hasattr(_C, "malloc_trim"):
        _C.malloc_trim(0)


def reuse_memory() -> None:
    """Let this process use memory of up to `REUSED_BYTES` again once it is freed, until `give_back`.

    By itself glibc returns much of it at once; to get it anew, zeroed page by page, took 40 % of a decode in strips.
    """
    if _C is not None and hasattr(_C, "mallopt"):
        _C.mallopt(_M_MMAP_THRESHOLD, REUSED_BYTES)
        _C.mallopt(_M_TRIM_THRESHOLD, _MOST_TRIMMED_BYTES)


def image_graph_bytes(base_channels: int, height: int, width: int) -> int:
    """What analysis or synthesis takes for a whole image of the padded size.

    OpenVINO holds about five tensors of the finest level at its peak, ONNX Runtime seven (docs/decisions/0010).
    """
    return 8 * _FLOAT_BYTES * base_channels * height * width


def deepest_graph_bytes(channels: int, patch: int, rows: int, columns: int) -> int:
    """What the deepest level takes, for a latent of this size: features, and scores of each attention patch.

    ONNX Runtime needs it all, OpenVINO down to a third of it on a large image.
    """
    in_patch = min(patch, rows) * min(patch, columns)
    return _FLOAT_BYTES * rows * columns * (16 * channels + 6 * in_patch)


def prior_graph_bytes(latent_channels: int, rows: int, columns: int) -> int:
    """What a prior graph takes for a latent of this size."""
    return 40 * _FLOAT_BYTES * latent_channels * rows * columns


def loading_bytes(file_bytes: int) -> int:
    """What a graph takes while it is loaded: the file, what is read of it, and the engine's own order of weights."""
    return 4 * file_bytes
