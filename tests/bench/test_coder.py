"""The entropy coder alone: `glc-bench coder`, and what it must find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import glc
from glc.bench import coder_peer
from glc.bench.coder import measure_coder
from glc.bench.coder_peer import peer_tables
from glc.errors import EngineFailed, EngineUnavailable
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


PEER = """
import sys, types
import numpy as np
sys.path[:0] = [{folder!r}]
import coder_program

class Plain:  # writes nothing, and reads what it was last given
    given = None
    def encode_with_indexes(self, symbols, indices, cdfs, sizes, offsets):
        for symbol, index in zip(symbols, indices):
            row = cdfs[index][: sizes[index]]
            place = symbol - offsets[index]
            assert row[0] == 0 and row[-1] == 1 << 16 and row[place] < row[place + 1]
        Plain.given = symbols
        return b"seven.."
    def decode_with_indexes(self, payload, indices, *tables):
        return Plain.given

coder_program._coder = lambda: types.SimpleNamespace(RansEncoder=Plain, RansDecoder=Plain)
coder_program.main(sys.argv[1])
"""


def test_compressai_gets_our_symbols_and_tables_in_its_own_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peer.py").write_text(PEER.format(folder=str(coder_peer._PROGRAM.parent)))
    monkeypatch.setattr(coder_peer, "_PROGRAM", tmp_path / "peer.py")
    (row,) = measure_coder(glc.Bundle.open(default_bundle()), [(64, 64)], 0.5, 2, peer_python=sys.executable)
    assert row.peer is not None
    assert row.peer.payload_bytes == 7
    assert row.peer.encode_ms >= row.peer.encode_alone_ms > 0
    assert row.peer.decode_ms >= row.peer.decode_alone_ms > 0


def test_tables_of_compressai_give_every_symbol_a_share_close_to_ours() -> None:
    table = glc.Bundle.open(default_bundle()).tables().scales
    cdfs, sizes, offsets = peer_tables(table)
    assert np.array_equal(offsets, -table.reach)
    for index, frequencies in enumerate(table.frequencies):
        row = cdfs[index][: sizes[index]]
        shares = np.diff(row)
        assert shares.min() >= 1
        assert shares.sum() == 1 << 16
        assert abs(shares - frequencies / 256).max() <= len(shares)


def test_an_interpreter_without_compressai_is_named() -> None:
    with pytest.raises(EngineUnavailable, match=r"No module named 'compressai'.*--peer-python"):
        measure_coder(glc.Bundle.open(default_bundle()), [(64, 64)], 0.5, 1, peer_python=sys.executable)


@pytest.mark.slow
def test_the_command_takes_sizes() -> None:
    command = [sys.executable, "-m", "glc.bench", "coder", "-b", str(default_bundle())]
    sizes = ["--size", "64x96", "--size", "128x192", "--bpp", "0.25", "--repetitions", "1"]
    done = subprocess.run([*command, *sizes], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [(row["height"], row["width"]) for row in rows] == [(64, 96), (128, 192)]
    assert rows[1]["symbols"] == 4 * rows[0]["symbols"]
