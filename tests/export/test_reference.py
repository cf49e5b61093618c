"""The torch model against what the published model computes, for every committed vector."""

from __future__ import annotations

import numpy as np
import pytest
from tests.conftest import DATA, load_image

from glc.export import GlcModel, Reference, reference, synthetic_model
from glc.export.synthetic import CONFIGS, MINI

VECTORS = sorted((DATA / "vectors").glob("*.npz"))
INTERMEDIATE = ("l", "y", "params", "scales", "y_hat", "l_hat")


def _vector(name: str) -> object:
    """Networks of published size take 5 to 20 s each."""
    return name if name.startswith("mini") else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [_vector(path.stem) for path in VECTORS])
def test_reference_equals_the_published_model(name: str) -> None:
    with np.load(DATA / "vectors" / f"{name}.npz") as vector:
        model = synthetic_model(CONFIGS[str(vector["kind"])], int(vector["seed"]))
        found = reference(model, load_image(str(vector["image"])), int(vector["q_index"]))

        np.testing.assert_array_equal(found.z_indices, vector["z_indices"])
        assert np.count_nonzero(found.y_q != vector["y_q"]) <= found.y_q.size * 1e-5
        assert found.bit_y == pytest.approx(float(vector["bit_y"]), rel=1e-4)
        assert found.bit_z == float(vector["bit_z"])
        np.testing.assert_allclose(found.x_hat, vector["x_hat"].astype(np.float32), rtol=0, atol=2e-3)
        for field in INTERMEDIATE:
            if field in vector:
                np.testing.assert_allclose(getattr(found, field), vector[field], rtol=1e-5, atol=1e-5, err_msg=field)
        if "x_hat_z_only" in vector:
            np.testing.assert_allclose(found.x_hat_z_only, vector["x_hat_z_only"].astype(np.float32), rtol=0, atol=2e-3)


def test_all_three_configurations_have_a_vector() -> None:
    assert {path.stem.partition("_")[0] for path in VECTORS} >= {"natural", "facial", "mini"}


def test_quantisation_step_has_a_lower_bound(mini_model: GlcModel) -> None:
    """The vectors never reach the bound, so weights are changed until they would."""
    model = synthetic_model(MINI)
    image = load_image("coffee_200x300.png")
    n = MINI.latent_channels
    bias = model.state_dict()["y_prior_fusion.1.block.1.conv_out.bias"]
    bias[:n] = -3.0
    below = reference(model, image, 1)
    bias[:n] = -4.0
    further_below = reference(model, image, 1)
    assert (below.params[:n] < 0.5).all()
    # common sees the unclamped params, so only part 0 may be compared: its symbols depend on the bound alone.
    positions = np.s_[: n // 4, ::2, ::2]
    np.testing.assert_array_equal(below.y_q[positions], further_below.y_q[positions])
    assert np.abs(below.y_q).max() > np.abs(reference(mini_model, image, 1).y_q).max()


def test_fractional_quality_interpolates_the_rows(mini_model: GlcModel) -> None:
    image = load_image("astronaut_256.png")[:64, :64]
    rates = [reference(mini_model, image, quality).bit_y for quality in (0, 1.5, 3)]
    assert rates[0] < rates[1] < rates[2]
    whole = reference(mini_model, image, 2.0)
    assert isinstance(whole, Reference)
    assert whole.bit_y == reference(mini_model, image, 2).bit_y


@pytest.mark.parametrize("quality", [-0.1, 3.1, float("nan")])
def test_quality_out_of_range_is_refused(mini_model: GlcModel, quality: float) -> None:
    with pytest.raises(ValueError, match="quality"):
        reference(mini_model, np.zeros((8, 8, 3), np.uint8), quality)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(np.zeros((8, 8), np.uint8), id="gray"),
        pytest.param(np.zeros((8, 8, 3), np.float32), id="float"),
        pytest.param(np.zeros((0, 8, 3), np.uint8), id="empty"),
    ],
)
def test_other_arrays_are_refused(mini_model: GlcModel, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="image must be"):
        reference(mini_model, image, 0)
