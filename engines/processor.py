"""What is known of the processor that this process runs on."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path


def available_threads() -> int:
    """CPU threads that this process may use; an affinity mask, as containers set it, counts."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def processor_fields() -> Mapping[str, str]:
    """What /proc/cpuinfo says of the first processor; empty where there is no such file."""
    fields: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").partition("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    return fields


def has_float16_matrices() -> bool:
    """Whether a matrix unit multiplies float16. Without, float16 is widened to float32 first, and is no faster."""
    return "amx_fp16" in processor_fields().get("flags", "").split()


def has_avx512() -> bool:
    """Whether 16 float32s are multiplied at once."""
    return "avx512f" in processor_fields().get("flags", "").split()


@functools.cache
def processor_name() -> str:
    """Architecture, model and a digest of the instruction sets, on which kernels and their rounding depend."""
    fields = processor_fields()
    model = fields.get("model name") or platform.processor() or "unknown processor"
    features = " ".join(sorted((fields.get("flags") or fields.get("Features") or "").split()))
    return f"{platform.machine()} {model} {hashlib.sha256(features.encode()).hexdigest()[:8]}"
