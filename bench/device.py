"""The device card: what a measurement was taken on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from glc.engines.processor import available_threads, processor_fields

_INSTRUCTION_SETS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_fp16",
    "amx_int8",
)
"""As /proc/cpuinfo names them: those that the engines choose kernels by."""

_PACKAGES = (
    "glc-deploy",
    "numpy",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13-libs",
    "torch",
    "onnx",
    "compressai",
)


@dataclass(frozen=True, slots=True)
class DeviceCard:
    """All that a timing may depend on beside the program."""

    date: str
    processor: str
    instruction_sets: tuple[str, ...]
    threads: int
    """That this process may use."""
    memory_bytes: int
    gpus: tuple[str, ...]
    """Name, memory and driver of each, as nvidia-smi says; empty where there is none."""
    governor: str
    system: str
    python: str
    packages: dict[str, str]
    commit: str
    """Of the working tree that the program runs from, with a + where it was changed; "installed" without one."""

    def lines(self) -> tuple[str, ...]:
        """For people."""
        versions = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        return (
            f"{self.processor}, {self.threads} threads, {self.memory_bytes / 2**30:.0f} GiB, governor {self.governor}",
            f"instruction sets: {', '.join(self.instruction_sets) or 'none known'}",
            f"GPU: {'; '.join(self.gpus) or 'none'}",
            f"{self.system}, Python {self.python}, {versions}",
            f"commit {self.commit}, {self.date}",
        )


def device_card() -> DeviceCard:
    """Look at the machine."""
    fields = processor_fields()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return DeviceCard(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        processor=fields.get("model name") or platform.processor() or "unknown processor",
        instruction_sets=tuple(name for name in _INSTRUCTION_SETS if name in flags),
        threads=available_threads(),
        memory_bytes=psutil.virtual_memory().total,
        gpus=_gpus(),
        governor=_governor(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=dict(_versions()),
        commit=_commit(),
    )


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue  # not installed: the card lists what is there
    return found


def _governor() -> str:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        return path.read_text().strip()
    except OSError:
        return "unknown"


def _gpus() -> tuple[str, ...]:
    query = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return tuple(line.strip() for line in _output("nvidia-smi", *query).splitlines() if line.strip())


def _commit() -> str:
    folder = str(Path(__file__).resolve().parent)
    commit = _output("git", "-C", folder, "rev-parse", "--short=10", "HEAD").strip()
    if not commit:
        return "installed"
    return commit + ("+" if _output("git", "-C", folder, "status", "--porcelain", "--untracked-files=no") else "")


def _output(program: str, *arguments: str) -> str:
    """What a program prints; nothing where it is missing or fails."""
    path = shutil.which(program)
    if path is None:
        return ""
    environment = {**os.environ, "LC_ALL": "C"}
    command = [path, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603 - ours
    return done.stdout if done.returncode == 0 else ""
