"""Threads that share a codec: `glc-bench threads`, and what it must find."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from tests.conftest import DATA, load_image

import glc
from glc.bench.threads import measure_threads
from glc.engines import CPU_ENGINES, engine_loader
from glc.errors import EngineUnavailable
from glc.runtime.default_model import default_bundle

PHOTO = load_image("coffee_200x300.png")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_threads_that_mix_all_calls_get_what_one_gets(engine: str) -> None:
    rows = measure_threads(glc.Bundle.open(default_bundle()), engine_loader(engine, 1), [PHOTO], 12, (1, 8))
    assert [(row.callers, row.calls) for row in rows] == [(1, 48), (8, 48)]
    assert not any(row.differing for row in rows)


def test_what_a_thread_gets_otherwise_or_not_at_all_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, preview = glc.Codec.encode, glc.Codec.preview

    def other_bytes(self: glc.Codec, *arguments: Any) -> bytes:
        data = encode(self, *arguments)
        return data if threading.current_thread() is threading.main_thread() else data + b"\0"

    def failing(self: glc.Codec, data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError
        return preview(self, data)

    monkeypatch.setattr(glc.Codec, "encode", other_bytes)
    monkeypatch.setattr(glc.Codec, "preview", failing)
    loader = engine_loader("onnxruntime", 1)
    (row,) = measure_threads(glc.Bundle.open(default_bundle()), loader, [PHOTO[:20, :20]], 2, (2,))
    assert row.differing == 2 * 4  # of eight calls, each made twice: once to load the graphs


def engines_here() -> int:
    """How many of the engines of CPUs this processor has."""
    here = 0
    for name in CPU_ENGINES:
        with contextlib.suppress(EngineUnavailable):
            engine_loader(name, 1)
            here += 1
    return here


@pytest.mark.slow
def test_the_command_ends_with_one_json_document() -> None:
    photo = DATA / "images" / "coffee_200x300.png"
    command = [sys.executable, "-m", "glc.bench", "threads", str(photo), "-b", str(default_bundle()), "--crops", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert [row["callers"] for row in rows] == [1, 2, 8] * engines_here()
    assert not any(row["differing"] for row in rows)
