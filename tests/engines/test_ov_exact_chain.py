"""Rows of exact layers in graphs: cut out whole, they compute the same integers; what is not exact stays."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray
from openvino import opset13 as ops

from glc.engines.exact_chain import ExactChain, Kind, pack
from glc.engines.ov_cut import GIVEN, TAKEN
from glc.engines.ov_exact_chain import CutExactGraph, cut_exact
from glc.runtime.bundle import Bundle
from glc.runtime.default_model import default_bundle

PRIORS = ("hyper_prior", "spatial_prior_1", "spatial_prior_2", "spatial_prior_3")


@pytest.mark.parametrize("graph", PRIORS)
def test_what_a_prior_consists_of_is_cut_out(graph: str) -> None:
    parts = cut_exact(openvino.Core().read_model(Bundle.open(default_bundle()).graph(graph)[1]))
    assert parts is not None
    kinds = Counter(layer.kind for layer in parts.row.layers)
    depthwise, gates = (3, 3) if graph == "hyper_prior" else (4, 4)
    assert (kinds[Kind.DEPTHWISE], kinds[Kind.GATE]) == (depthwise, gates)
    left = [node for node in parts.behind.get_ordered_ops() if "Convolution" in node.get_type_name()]
    assert not left


@pytest.mark.parametrize("graph", PRIORS)
def test_a_graph_in_parts_gives_every_bit(graph: str) -> None:
    bundle = Bundle.open(default_bundle())
    content, case = bundle.graph(graph)[1], bundle.conformance(graph)
    parts = cut_exact(openvino.Core().read_model(content))
    assert case is not None
    assert parts is not None
    found = computed(parts, case)
    assert found
    for name, values in found.items():
        np.testing.assert_array_equal(values, case[name])


def computed(parts: CutExactGraph, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    given = run(parts.before, inputs)[GIVEN]
    taken = ExactChain(pack(parts.row), 2, plain=True).run(given[0].astype(np.float32))
    return run(parts.behind, {**inputs, TAKEN: taken[None]})


def run(model: openvino.Model, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    taken = {port.any_name for port in compiled.inputs}
    results = compiled({name: value for name, value in inputs.items() if name in taken})
    return {port.any_name: results[port] for port in compiled.outputs}


def row_of(
    *,
    limit: float = 1000,
    weight: float = 2.0**-10,
    largest: int = 2047,
    channels: int = 16,
    entering: float = 1023,
    mode: str = "half_to_even",
) -> openvino.Model:
    """Four 1x1 convolutions in a row, each with bias, limits and rounding."""
    random = np.random.default_rng(0)
    x = ops.parameter(openvino.PartialShape([1, channels, -1, -1]), np.float32, "x")
    x.output(0).set_names({"x"})
    value = rounded(x, entering)
    for _ in range(4):
        weights = random.integers(-99, 100, (channels, channels, 1, 1)).astype(np.float32)
        weights[0, 0, 0, 0], weights[0, 1, 0, 0] = largest, 1
        convolved = ops.convolution(value, ops.constant(weights * np.float32(weight)), [1, 1], [0, 0], [0, 0], [1, 1])
        bias = random.integers(-99, 100, (1, channels, 1, 1)).astype(np.float32)
        value = rounded(ops.add(convolved, ops.constant(bias)), limit, mode)
    return openvino.Model([ops.result(value)], [x], "row")


def rounded(value: openvino.Node, limit: float, mode: str = "half_to_even") -> openvino.Node:
    above = ops.maximum(ops.constant(np.float32(-limit)), value)
    return ops.round(ops.minimum(ops.constant(np.float32(limit)), above), mode)


def test_a_plain_row_is_cut_out_whole() -> None:
    parts = cut_exact(row_of())
    assert parts is not None
    assert [layer.kind for layer in parts.row.layers] == [Kind.POINT] * 4
    weights = parts.row.layers[0].weights
    assert weights is not None
    assert (weights[0, 0], weights[0, 1]) == (2047, 1), "as integers, at whatever scale they are stored"


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 1024},
        {"limit": 10.5},
        {"largest": 2048},
        {"largest": 2049},
        {"channels": 24},
        {"entering": 1024},
        {"entering": float(2**20)},
        {"mode": "half_away_from_zero"},
    ],
)
def test_what_the_kernels_do_not_hold_stays(change: dict[str, float]) -> None:
    assert cut_exact(row_of(**change)) is None  # type: ignore[arg-type]


def test_what_enters_must_be_rounded() -> None:
    random = np.random.default_rng(0)
    x = ops.parameter(openvino.PartialShape([1, 16, -1, -1]), np.float32, "x")
    value = ops.minimum(ops.constant(np.float32(9)), ops.maximum(ops.constant(np.float32(-9)), x))
    for _ in range(4):
        weights = random.integers(-99, 100, (16, 16, 1, 1)).astype(np.float32)
        convolved = ops.convolution(value, ops.constant(weights), [1, 1], [0, 0], [0, 0], [1, 1])
        value = rounded(ops.add(convolved, ops.constant(np.zeros((1, 16, 1, 1), np.float32))), 1000)
    parts = cut_exact(openvino.Model([ops.result(value)], [x], "row"))
    assert parts is None
