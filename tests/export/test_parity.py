"""The comparison that stands between a wrong graph and a bundle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from glc.engines import Array, TensorSpec
from glc.errors import GraphMismatch
from glc.export import GlcModel
from glc.export.graphs import float_graphs, interpolated_row
from glc.export.parity import compare, expected_runs, parity_sizes, test_image
from glc.export.scale_levels import DEFAULT_GRID
from glc.export.synthetic import CONFIGS
from glc.runtime.signatures import signatures


class FakeEngine:
    """Returns what it was given."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, results: dict[str, Array]) -> None:
        self.results = results

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self.results

    def close(self) -> None:
        return


def _compare(found: Array, expected: Array, output: str = "y") -> float:
    return compare("analysis", FakeEngine({output: found}), [({}, {output: expected})]).largest


def test_small_float_differences_pass_and_are_reported() -> None:
    expected = np.linspace(-4, 4, 100, dtype=np.float32)
    assert _compare(expected + np.float32(1e-4), expected) == pytest.approx(1e-4, rel=0.01)


@pytest.mark.parametrize("wrong", [0.01, float("nan"), float("inf")])
def test_a_float_that_is_off_is_refused(wrong: float) -> None:
    expected = np.ones(10, np.float32)
    found = expected.copy()
    found[3] += np.float32(wrong)
    with pytest.raises(GraphMismatch, match="graph analysis, output y"):
        _compare(found, expected)


def test_another_shape_is_refused() -> None:
    with pytest.raises(GraphMismatch, match="shape"):
        _compare(np.zeros((1, 2), np.float32), np.zeros((2, 1), np.float32))


@pytest.mark.parametrize(("output", "allowed"), [("image", 100), ("scale_indices", 10)])
def test_integers_may_change_by_one_in_few_places(output: str, allowed: int) -> None:
    expected = np.full(10_000, 100, np.uint8)
    found = expected.copy()
    found[:allowed] += 1
    _compare(found, expected, output)
    found[allowed] += 1
    with pytest.raises(GraphMismatch, match="integers differ"):
        _compare(found, expected, output)


def test_an_integer_that_is_off_by_two_is_refused() -> None:
    expected = np.full(10_000, 100, np.uint8)
    found = expected.copy()
    found[0] = 102
    with pytest.raises(GraphMismatch, match="by up to 2"):
        _compare(found, expected, "image")


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_hold_one_pixel_and_ragged_patches(name: str) -> None:
    config = CONFIGS[name]
    sizes = parity_sizes(config)
    assert len(sizes) == 3
    assert sizes[0] == (1, 1)
    padded = [-(-n // config.padding_multiple) * config.padding_multiple // config.downsampling for n in sizes[2]]
    assert all(n > config.attention_patch and n % config.attention_patch for n in padded)


def test_torch_runs_cover_every_graph_with_its_inputs(mini_model: GlcModel) -> None:
    rows = interpolated_row(mini_model.q_enc, 0), interpolated_row(mini_model.q_dec, 0)
    runs = expected_runs(float_graphs(mini_model, DEFAULT_GRID), test_image(70, 90), rows)
    for name, signature in signatures(32).items():
        feeds, results = runs[name]
        assert all(spec.accepts(feeds[spec.name]) for spec in signature.inputs), name
        assert all(spec.accepts(results[spec.name]) for spec in signature.outputs), name
    assert torch.equal(torch.from_numpy(runs["synthesis"][0]["q_row"]), rows[1])
