"""`glc-bench tiles`: real runs in fresh processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import DATA
from typer.testing import CliRunner

from glc.bench.command import app
from glc.bench.tiles import measure_difference


@pytest.mark.slow
def test_a_large_image_is_run_whole_and_under_limits(mini_bundle: Path) -> None:
    arguments = ["tiles", str(DATA / "images" / "coffee_200x300.png"), "-b", str(mini_bundle), "--size", "640x960"]
    limits = ["--whole", "--engine", "onnxruntime", "--max-memory", "500M", "--max-memory", "40M"]
    done = CliRunner().invoke(app, [*arguments, *limits], catch_exceptions=False)
    assert done.exit_code == 0
    document = json.loads(done.stdout.splitlines()[-1])
    assert [row["direction"] for row in document["rows"]] == ["encode", "decode"] * 2
    assert all(row["result"]["strip_rows"] > 0 for row in document["rows"][2:])
    assert all(row["result"]["peak_bytes"] > 0 for row in document["rows"])
    (difference,) = document["differences"]
    assert difference["symbols"] == 32 * 40 * 60
    assert difference["symbols_changed"] <= 10
    assert difference["psnr_db"] > 50
    assert sum("needs a memory limit" in note for note in document["notes"]) == 2, "40 MiB are refused, both ways"


def test_a_seam_shows(tmp_path: Path) -> None:
    image = np.zeros((400, 30, 3), np.uint8)
    seams = image.copy()
    seams[98::100] = seams[101::100] = 9
    np.save(tmp_path / "whole_image.npy", image)
    np.save(tmp_path / "tiles_image.npy", seams)
    for kind in ("whole", "tiles"):
        np.savez(tmp_path / f"{kind}_symbols.npz", z_indices=np.zeros(4), symbols_0=np.zeros(8))
    found = measure_difference(tmp_path, 100)
    assert found.at_borders == pytest.approx(4.5)
    assert found.elsewhere == found.largest_elsewhere == 0
    assert found.symbols_changed == found.indices_changed == 0
