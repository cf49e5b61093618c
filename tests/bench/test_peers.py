"""Other codecs in processes of their own: what they answer, and what is said where they cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from glc.bench import peers
from glc.bench.peers import PeerProcess
from glc.errors import EngineFailed, EngineUnavailable

SERVER = """
import json, sys
print(json.dumps({"import_ms": 1.0, "open_ms": 2.0, "parameters": 7}), flush=True)
for number, _ in enumerate(sys.stdin):
    if number == 2:
        sys.exit("out of patience")
    print(json.dumps({"encode_ms": 10.0 + number, "decode_ms": 20.0, "file_bytes": 5, "peak_bytes": 9}), flush=True)
"""


def test_a_peer_takes_turns_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    monkeypatch.setattr(peers, "_PROGRAM", tmp_path / "server.py")
    peer = PeerProcess("compressai", "mbt2018", tmp_path / "image.npy", 1, sys.executable)
    assert peer.parameters == 7
    assert (peer.first_image.open_ms, peer.first_image.encode_ms) == (2.0, 10.0)
    assert peer.turn().encode_ms == 11.0
    with pytest.raises(EngineFailed, match="compressai mbt2018: out of patience"):
        peer.turn()
    peer.close()


def test_a_package_that_is_not_there_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"No module named 'compressai'.*--peer-python"):
        PeerProcess("compressai", "mbt2018", tmp_path / "image.npy", 1, None)


def test_an_interpreter_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="cannot start /nowhere/python"):
        PeerProcess("compressai", "mbt2018", tmp_path / "image.npy", 1, "/nowhere/python")
