"""The entropy coder alone: `glc-bench coder`, and what it must find."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

import glc
from glc.bench.coder import measure_coder
from glc.errors import EngineFailed
from glc.runtime.default_model import default_bundle
from glc.runtime.entropy import PayloadDecoder


def test_all_symbols_of_an_image_are_written_and_read_at_the_rate_asked_for() -> None:
    bundle = glc.Bundle.open(default_bundle())
    (row,) = measure_coder(bundle, [(500, 700)], 0.25, 1)
    assert row.symbols == 512 * 704 // 64 * bundle.manifest.config.latent_channels
    assert 8 * row.payload_bytes == pytest.approx(0.25 * 500 * 700, rel=0.05)
    held = row.symbols // 4 * np.dtype(np.int32).itemsize
    assert row.encode_peak_bytes > held  # a part, sorted
    assert row.decode_peak_bytes > 4 * held  # all parts


def test_what_is_read_otherwise_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    read = PayloadDecoder.get_part

    def other(self: PayloadDecoder, scale_indices: NDArray[np.uint8]) -> NDArray[np.int32]:
        return read(self, scale_indices) + 1

    monkeypatch.setattr(PayloadDecoder, "get_part", other)
    with pytest.raises(EngineFailed, match="64x64: what was read"):
        measure_coder(glc.Bundle.open(default_bundle()), [(64, 64)], 0.5, 1)


@pytest.mark.slow
def test_the_command_takes_sizes() -> None:
    command = [sys.executable, "-m", "glc.bench", "coder", "-b", str(default_bundle())]
    sizes = ["--size", "64x96", "--size", "128x192", "--bpp", "0.25", "--repetitions", "1"]
    done = subprocess.run([*command, *sizes], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [(row["height"], row["width"]) for row in rows] == [(64, 96), (128, 192)]
    assert rows[1]["symbols"] == 4 * rows[0]["symbols"]
