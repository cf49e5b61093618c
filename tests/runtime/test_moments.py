"""Statistics that are gathered strip by strip: those of the whole."""

from __future__ import annotations

import numpy as np
import torch

from glc.runtime.moments import EPSILON, Moments, RowMoments, group_statistics, merged


def moments(values: np.ndarray) -> Moments:
    flat = values.reshape(values.shape[0], -1)
    return Moments(flat.mean(axis=1), flat.var(axis=1))


def results(values: np.ndarray) -> dict[str, np.ndarray]:
    """What a tile graph tells of (C, rows, columns)."""
    lengths = np.sqrt((values**2).sum(axis=2))
    return {
        name: part.astype(np.float32)[None, :, :, None]
        for name, part in (("row_means", values.mean(axis=2)), ("row_lengths", lengths))
    }


def test_moments_of_uneven_strips_are_those_of_the_whole() -> None:
    whole = np.random.default_rng(0).normal(3, 1, (8, 30, 7)) * np.arange(1, 9)[:, None, None]
    found = merged([RowMoments.of_results(results(strip), 7) for strip in np.split(whole, [1, 4, 20], axis=1)])
    expected = moments(whole)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-5)


def test_moments_of_chosen_rows_are_those_of_these_rows() -> None:
    whole = np.random.default_rng(0).normal(3, 1, (8, 30, 7))
    found = merged([RowMoments.of_results(results(whole), 7).chosen(5, 12)])
    expected = moments(whole[:, 5:12])
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-5)


def test_a_constant_has_no_negative_variance() -> None:
    found = merged([RowMoments.of_results(results(np.full((2, 9, 7), 1000 / 3)), 7)])
    assert (found.variance >= 0).all()
    assert (found.variance < 0.1).all()


def test_group_statistics_are_those_of_group_norm() -> None:
    whole = np.random.default_rng(1).normal(3, 2, (8, 5, 6)) * np.arange(1, 9)[:, None, None]
    found = group_statistics(moments(whole), 4)
    expected = torch.nn.functional.group_norm(torch.from_numpy(whole)[None], 4, eps=EPSILON)[0].numpy()
    mean, inverse = (np.repeat(found[name], 2)[:, None, None] for name in ("mean", "inverse_deviation"))
    np.testing.assert_allclose((whole - mean) * inverse, expected, atol=1e-5)
