"""Statistics that are gathered strip by strip: those of the whole."""

from __future__ import annotations

import numpy as np
import torch

from glc.runtime.moments import EPSILON, Moments, group_statistics, merged


def moments(values: np.ndarray) -> Moments:
    flat = values.reshape(values.shape[0], -1)
    return Moments(flat.shape[1], flat.mean(axis=1), flat.var(axis=1))


def test_moments_of_uneven_strips_are_those_of_the_whole() -> None:
    whole = np.random.default_rng(0).normal(1000, 1, (8, 30, 7))  # a mean that float32's squares would drown in
    found = merged([moments(strip) for strip in np.split(whole, [1, 4, 20], axis=1)])
    expected = moments(whole)
    assert found.count == expected.count
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-9)


def test_group_statistics_are_those_of_group_norm() -> None:
    whole = np.random.default_rng(1).normal(3, 2, (8, 5, 6)) * np.arange(1, 9)[:, None, None]
    found = group_statistics(moments(whole), 4)
    expected = torch.nn.functional.group_norm(torch.from_numpy(whole)[None], 4, eps=EPSILON)[0].numpy()
    mean, inverse = (np.repeat(found[name], 2)[:, None, None] for name in ("mean", "inverse_deviation"))
    np.testing.assert_allclose((whole - mean) * inverse, expected, atol=1e-5)
