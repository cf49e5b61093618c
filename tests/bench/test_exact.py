"""The matrix of encoders and decoders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import DATA

from glc.engines.conv_chain import available_precisions

PHOTO = DATA / "images" / "coffee_200x300.png"


def chained_engines() -> set[str]:
    """Engines with our own kernels that this processor computes."""
    precisions = available_precisions()
    known = (("onnxruntime-avx2", "f32"), ("openvino-avx2", "f32"), ("openvino-amx", "bf16"))
    return {name for name, needed in known if needed in precisions}


@pytest.mark.slow
def test_exact_streams_decode_alike_on_every_engine(mini_bundle: Path) -> None:
    command = [sys.executable, "-m", "glc.bench", "exact", "-b", str(mini_bundle), "--crops", "4", str(PHOTO)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    engines = {row["encoder"] for row in rows}
    assert {name.partition(" ")[0] for name in engines} == {"onnxruntime", "openvino", *chained_engines()}
    assert len(rows) == len(engines) ** 2 >= 16
    assert all(row["streams"] == 4 for row in rows)
    assert not any(row["differing"] or row["failed"] for row in rows)
