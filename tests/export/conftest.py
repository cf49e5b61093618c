"""Fixtures of the tests of exact arithmetic."""

from __future__ import annotations

import pytest
from tests.conftest import load_image

from glc.export import GlcModel
from glc.export.exact_priors import ExactPriors, exact_priors
from glc.export.scale_levels import DEFAULT_GRID


@pytest.fixture(scope="session")
def priors(mini_model: GlcModel) -> ExactPriors:
    """Exact priors of the mini model, calibrated on one photograph."""
    return exact_priors(mini_model, [load_image("coffee_200x300.png")], DEFAULT_GRID)
