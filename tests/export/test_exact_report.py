"""What export says of exact arithmetic: rate, saturation and ranges of each layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tests.conftest import load_image

from glc.export import GlcModel
from glc.export.exact_priors import ExactPrior, ExactPriors
from glc.export.exact_program import SCALES_MEANS
from glc.export.exact_report import rounding_report
from glc.export.scale_levels import DEFAULT_GRID

IMAGES = [load_image("coffee_200x300.png")]


@pytest.fixture(scope="module")
def coarse(priors: ExactPriors) -> ExactPriors:
    """The same priors, but that one layer of part 2 knows no number but -1, 0 and 1."""
    prior = priors.spatial[1]
    program = prior.program
    limits = {**program.limits, SCALES_MEANS: 1}
    exponents = {**program.exponents, SCALES_MEANS: np.zeros_like(program.exponents[SCALES_MEANS])}
    convs = dict(program.convs)
    conv = convs[SCALES_MEANS]
    change = program.exponents[SCALES_MEANS]
    convs[SCALES_MEANS] = dataclasses.replace(conv, shift=conv.shift + change, add_shift=conv.add_shift - change)
    replaced = dataclasses.replace(program, limits=limits, exponents=exponents, convs=convs)
    changed: ExactPrior = dataclasses.replace(prior, program=replaced)
    return dataclasses.replace(priors, spatial=(priors.spatial[0], changed, priors.spatial[2]))


def test_calibrated_layers_cost_little_and_clamp_nothing_that_they_have_seen(
    mini_model: GlcModel, priors: ExactPriors
) -> None:
    report = rounding_report(mini_model, priors, IMAGES, DEFAULT_GRID, layers=False)
    assert report.images == 1
    assert report.published_bits > 1000
    assert abs(report.added_rate) < 0.01
    assert report.saturated < 1e-4
    assert report.layers == ()


def test_a_layer_that_is_too_coarse_stands_out(mini_model: GlcModel, coarse: ExactPriors) -> None:
    report = rounding_report(mini_model, coarse, IMAGES, DEFAULT_GRID, layers=True)
    worst = max(report.layers, key=lambda layer: abs(layer.added_rate))
    assert (worst.part, worst.tensor) == (2, SCALES_MEANS)
    assert abs(worst.added_rate) > 0.01  # of either sign: the weights are random
    assert worst.saturated > 0
    assert worst.ranges[1] > worst.limit
    others = [layer for layer in report.layers if layer is not worst]
    assert max(abs(layer.added_rate) for layer in others) < abs(worst.added_rate) / 2
    assert {layer.part for layer in report.layers} == {0, 1, 2, 3}
