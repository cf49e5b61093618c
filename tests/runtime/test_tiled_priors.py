"""Exact priors in strips: every bit as in one piece."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import glc
from glc.runtime.networks import HyperPrior
from glc.runtime.spatial_walk import PartPrior
from glc.runtime.tiled_priors import tiled_hyper_prior, tiled_spatial_prior

Z_ROWS, Z_COLUMNS = 11, 3


@pytest.fixture(scope="module")
def z_indices(codec: glc.Codec) -> np.ndarray:
    entries = codec.bundle.manifest.config.codebook_entries
    return np.random.default_rng(0).integers(0, entries, (1, Z_ROWS, Z_COLUMNS)).astype(np.int32)


def require_same(found: PartPrior, expected: PartPrior) -> None:
    assert np.array_equal(np.asarray(found.scale_indices), np.asarray(expected.scale_indices))
    assert np.array_equal(np.asarray(found.means), np.asarray(expected.means))


@pytest.mark.parametrize("rows", [4, 8, 12, 20, 44, 80])
def test_strips_of_any_height_give_every_bit(codec: glc.Codec, z_indices: np.ndarray, rows: int) -> None:
    networks = codec._networks  # what a codec keeps to itself is what is tested here
    with networks.passage() as passage:
        whole: HyperPrior = passage.hyper_prior(z_indices)
        tiled = tiled_hyper_prior(passage.hyper_prior, z_indices, rows)
        require_same(tiled.first, whole.first)
        assert np.array_equal(np.asarray(tiled.quant_step), np.asarray(whole.quant_step))
        assert np.array_equal(np.asarray(tiled.context), np.asarray(whole.context))
        context = np.asarray(whole.context)
        y_hat = np.random.default_rng(1).integers(-3, 4, context.shape).astype(np.float32)
        for part in (1, 2, 3):
            expected = passage.spatial_prior(part, y_hat, context)
            found = tiled_spatial_prior(partial(passage.spatial_prior, part), y_hat, context, rows)
            require_same(found, expected)
