"""Every configuration on the whole way: weights -> bundle -> file -> image, beside the published model."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import DATA

from glc.bench.rate import measure_rate
from glc.export import export_bundle, synthetic_model
from glc.export.synthetic import CONFIGS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "image"),
    [("f8", "coffee_200x300.png"), ("facial", "coffee_200x300.png"), ("natural", "chelsea_256x320.png")],
)
def test_a_configuration_exports_and_decodes(name: str, image: str, tmp_path: Path) -> None:
    model = synthetic_model(CONFIGS[name])
    bundle = export_bundle(model, tmp_path / "model.glcb", arithmetic="float", container="zip")
    assert bundle.manifest.parameters == sum(tensor.numel() for tensor in model.parameters())
    for row in measure_rate(model, bundle.path, [DATA / "images" / image]):
        assert row.payload_bits <= row.ideal_bits * 1.005 + 64
        assert row.within_one >= 0.999
        assert row.header_bytes <= 14
