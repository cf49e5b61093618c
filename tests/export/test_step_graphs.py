"""What lies between the networks, as graphs and in NumPy: the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from glc.export.onnx_graph import tensor_specs
from glc.export.step_graphs import step_graphs
from glc.runtime.entropy import MAX_SYMBOL
from glc.runtime.latent_steps import HostSteps
from glc.runtime.signatures import step_signatures

GRAPHS = step_graphs(8)
HOST = HostSteps()
SHAPES = [(2, 2), (6, 10), (40, 26)]


def run(name: str, **feeds: Any) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(GRAPHS[name], providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(None, feeds)]


def normal(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return np.asarray(np.random.default_rng(seed).normal(0, 5, (1, 8, rows, columns)), np.float32)


def test_graphs_have_the_signatures_of_a_bundle() -> None:
    for name, signature in step_signatures(8).items():
        assert tensor_specs(GRAPHS[name]) == (signature.inputs, signature.outputs)


@pytest.mark.parametrize("shape", SHAPES)
def test_split_is_that_of_the_cpu(shape: tuple[int, int]) -> None:
    y, quant_step = normal(*shape), np.abs(normal(*shape, seed=1)) + np.float32(0.5)
    for found, expected in zip(run("split", y=y, quant_step=quant_step), HOST.split(y, quant_step), strict=True):
        assert np.array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("shape", SHAPES)
def test_quantise_is_that_of_the_cpu_and_knows_what_cannot_be_coded(shape: tuple[int, int]) -> None:
    target, means = normal(*shape), normal(*shape, seed=1)
    target[0, 0, 0, :2] = np.nan, -1e30
    (found,) = run("quantise", target=target, means=means)
    assert np.array_equal(found, np.asarray(HOST.quantise(target, means)))
    assert found[0, 0, 0, :2].tolist() == [MAX_SYMBOL, MAX_SYMBOL]


@pytest.mark.parametrize("shape", SHAPES)
def test_assembly_and_dequantisation_are_those_of_the_cpu(shape: tuple[int, int]) -> None:
    rows, columns = shape
    on_device: NDArray[Any] | None = None
    on_cpu: Any = None
    for part in range(4):
        symbols = np.rint(normal(rows // 2, columns // 2, seed=part)).astype(np.int32)
        means = np.rint(8 * normal(rows // 2, columns // 2, seed=part + 9)) / np.float32(8)  # on a grid, as exact ones
        before = {} if on_device is None else {"y_hat": on_device}
        (on_device,) = run(f"assemble_{part}", symbols=symbols, means=means, **before)
        on_cpu = HOST.assemble(part, on_cpu, symbols, means)
        assert np.array_equal(on_device, np.asarray(on_cpu))
    quant_step = np.abs(normal(rows, columns)) + np.float32(0.5)
    assert on_device is not None
    (latent,) = run("dequantise", y_hat=on_device, quant_step=quant_step)
    assert np.array_equal(latent, np.asarray(HOST.dequantise(on_cpu, quant_step)))
