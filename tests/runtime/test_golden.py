"""Golden payloads (tests/golden/make_payload.py): every version must decode them to the same symbols."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.golden.make_payload import main as make_golden
from tests.runtime.plain_decoder import PlainDecoder

from glc.runtime.entropy import PayloadDecoder, PayloadEncoder, SymbolModels
from glc.runtime.scale_table import ScaleTable

GOLDEN = Path(__file__).parent.parent / "golden"


@dataclass
class Golden:
    payload: bytes
    entries: int
    table: ScaleTable
    z_indices: NDArray[np.int32]
    parts: list[tuple[NDArray[np.uint8], NDArray[np.int32]]]


def load(name: str) -> Golden:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return Golden(
            (GOLDEN / f"{name}.payload").read_bytes(),
            int(file["codebook_entries"]),
            ScaleTable.from_arrays(file["scale_reach"], file["scale_frequencies"]),
            file["z_indices"],
            [(file[f"scale_indices_{part}"], file[f"symbols_{part}"]) for part in range(4)],
        )


@pytest.fixture(params=["natural", "edges"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


def test_the_golden_payload_decodes_to_its_symbols(golden: Golden) -> None:
    decoder = PayloadDecoder(SymbolModels(golden.table), golden.payload)
    assert decoder.get_indices(golden.z_indices.shape, golden.entries).tolist() == golden.z_indices.tolist()
    for scale_indices, symbols in golden.parts:
        assert decoder.get_part(scale_indices).tolist() == symbols.tolist()


def test_the_plain_decoder_reads_the_same_symbols(golden: Golden) -> None:
    decoder = PlainDecoder(golden.payload)
    rows = [row.tolist() for row in golden.table.frequencies]
    assert decoder.indices(golden.z_indices.size, golden.entries) == golden.z_indices.ravel().tolist()
    for scale_indices, symbols in golden.parts:
        assert decoder.part(scale_indices.ravel().tolist(), rows) == symbols.ravel().tolist()


def test_the_encoder_still_writes_the_golden_bytes(golden: Golden) -> None:
    encoder = PayloadEncoder(SymbolModels(golden.table))
    encoder.put_indices(golden.z_indices, golden.entries)
    for scale_indices, symbols in golden.parts:
        encoder.put_part(symbols, scale_indices)
    assert encoder.finish() == golden.payload


def test_golden_files_are_never_overwritten(tmp_path: Path) -> None:
    make_golden(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(made) == ["edges.npz", "edges.payload", "natural.npz", "natural.payload"]
    with pytest.raises(FileExistsError):
        make_golden(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == made
