"""The levels of the scale and the probabilities that export computes for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from glc.export.graphs import scale_indices
from glc.export.scale_levels import DEFAULT_GRID, build_scale_table, level_of
from glc.runtime.scale_table import ScaleGrid, ScaleTable

TABLE = build_scale_table(DEFAULT_GRID)
COARSE = ScaleGrid(0.5, 2.0, 6)

LEVELS = range(DEFAULT_GRID.levels)
SCALES = [DEFAULT_GRID.smallest * DEFAULT_GRID.ratio**level for level in LEVELS]


def normal_probabilities(scale: float, reach: int) -> NDArray[np.float64]:
    """P(-reach), ..., P(reach) of a rounded zero-mean normal variable, and what lies beyond; `erfc` keeps the tails."""
    upper = [math.erfc((n - 0.5) / (scale * math.sqrt(2))) / 2 for n in range(1, reach + 2)]
    half = [upper[n] - upper[n + 1] for n in range(reach)]
    return np.array([*half[::-1], 1 - 2 * upper[0], *half, 2 * upper[reach]])


def random_scales(count: int) -> NDArray[np.float32]:
    """Positive and negative scales, within the grid and beyond both its ends."""
    generator = np.random.default_rng(0)
    spread = np.exp(generator.uniform(-14, 7, count // 2)), generator.normal(0, 20, count // 2)
    return np.concatenate(spread).astype(np.float32)


def test_the_default_grid_runs_from_0_11_to_64_in_steps_of_5_percent() -> None:
    assert (DEFAULT_GRID.levels, SCALES[0]) == (128, 0.11)
    assert SCALES[-1] == pytest.approx(64)
    assert DEFAULT_GRID.ratio == pytest.approx(1.051, abs=5e-4)


@pytest.mark.parametrize("table", [TABLE, build_scale_table(COARSE)], ids=["default", "coarse"])
def test_every_row_adds_up_to_2_to_the_24th_and_rules_no_symbol_out(table: ScaleTable) -> None:
    for reach, row in zip(table.reach.tolist(), table.frequencies, strict=True):
        assert len(row) == 2 * reach + 2
        assert row.sum() == 1 << 24
        assert row.min() >= 1


def test_every_row_is_symmetric_and_falls_away_from_zero() -> None:
    for row in TABLE.frequencies:
        symbols = row[:-1]
        assert symbols.tolist() == symbols[::-1].tolist()
        assert (np.diff(symbols[len(symbols) // 2 :]) <= 0).all()


def test_the_reach_is_four_more_than_five_scales() -> None:
    assert TABLE.reach.tolist() == [4 + math.ceil(5 * scale) for scale in SCALES]


def test_probabilities_are_within_2e_4_of_the_normal_distribution() -> None:
    for scale, reach, row in zip(SCALES, TABLE.reach.tolist(), TABLE.frequencies, strict=True):
        assert np.abs(row / 2**24 - normal_probabilities(scale, reach)).max() < 2e-4


def test_coding_normal_symbols_with_the_table_costs_no_more_above_their_entropy_than_the_floors_take() -> None:
    for scale, reach, row in zip(SCALES, TABLE.reach.tolist(), TABLE.frequencies, strict=True):
        p = normal_probabilities(scale, reach)
        p, q = p[p > 0], row[p > 0] / 2**24
        assert (p * np.log2(p / q)).sum() < 1e-5 * (2 * reach + 1) / math.log(2) * 1.02


def test_small_scales_leave_outliers_the_floor_of_the_published_estimate() -> None:
    row, reach = TABLE.frequencies[0], int(TABLE.reach[0])
    centre = row[reach : reach + 4] / 2**24
    assert centre[1] == pytest.approx(1e-5, rel=0.3)
    assert centre[2:] == pytest.approx(1e-5, rel=0.01)
    assert row[-1] / 2**24 == pytest.approx(1e-5, rel=0.01)


def test_level_of_finds_the_nearest_level_on_a_logarithmic_axis() -> None:
    scales = random_scales(20_000)
    scales = scales[scales > 0]
    distance = np.abs(np.log(scales.astype(np.float64))[:, None] - np.log(SCALES)[None, :])
    chosen = np.take_along_axis(distance, level_of(scales, DEFAULT_GRID).astype(np.intp)[:, None], axis=1)[:, 0]
    assert (chosen <= distance.min(axis=1) + 1e-6).all()


@pytest.mark.parametrize("grid", [DEFAULT_GRID, COARSE], ids=["default", "coarse"])
def test_a_scale_changes_level_half_way_between_two_on_a_logarithmic_axis(grid: ScaleGrid) -> None:
    levels = np.arange(grid.levels)
    centres = grid.smallest * grid.ratio**levels
    for factor in (1.0, grid.ratio**0.49, grid.ratio**-0.49):
        assert level_of((centres * factor).astype(np.float32), grid).tolist() == levels.tolist()


def test_scales_that_are_not_positive_take_the_smallest_level() -> None:
    scales = np.array([0.0, -0.0, -1e-30, -0.2, -64, -3e38, -np.inf, 1e-30, 1e-45], np.float32)
    assert level_of(scales, DEFAULT_GRID).tolist() == [0] * len(scales)


def test_scales_beyond_the_grid_take_the_largest_level() -> None:
    assert level_of(np.array([64, 65, 1e6, 1e30, np.inf], np.float32), DEFAULT_GRID).tolist() == [127] * 5


def test_levels_keep_the_shape_and_are_uint8() -> None:
    levels = level_of(np.ones((2, 3, 4), np.float32), DEFAULT_GRID)
    assert levels.shape == (2, 3, 4)
    assert levels.dtype == np.uint8


@pytest.mark.parametrize("grid", [DEFAULT_GRID, COARSE], ids=["default", "coarse"])
def test_level_of_agrees_with_the_graphs(grid: ScaleGrid) -> None:
    scales = random_scales(200_000)
    ours = level_of(scales, grid)
    theirs = scale_indices(torch.from_numpy(scales), grid).numpy()
    assert theirs.dtype == np.uint8
    position = np.log(np.maximum(scales, 1e-5).astype(np.float64) / grid.smallest) / math.log(grid.ratio)
    tie = np.abs(position % 1 - 0.5) < 1e-4  # the last bit of a logarithm decides there, and libraries differ in it
    assert tie.mean() < 1e-3
    assert (ours == theirs)[~tie].all()
    assert (np.abs(ours.astype(int) - theirs.astype(int)) <= 1).all()
