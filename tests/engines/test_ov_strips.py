"""Strips on OpenVINO: graphs that are compiled for what they are given compute what the graph says."""

from __future__ import annotations

import numpy as np
import openvino
import pytest
from torch import nn

from glc.engines import Array, Engine, HostLoader, engine_loader
from glc.engines.ov_strips import keep_sums_apart
from glc.engines.ov_upsampling import merge_upsampling
from glc.errors import EngineFailed
from glc.export.autoencoder import ResidualBlock
from glc.export.tile_segments import first_half, second_half, up
from glc.runtime.memory_limit import give_back, resident_bytes

RANDOM = np.random.default_rng(0)


def loader(name: str = "openvino") -> HostLoader:
    made = engine_loader(name, 2)
    assert isinstance(made, HostLoader)
    return made


def feeds(rows: int, columns: int = 6, channels: int = 32) -> dict[str, Array]:
    return {
        "features": RANDOM.normal(size=(1, rows + 2, columns, channels)).astype(np.float32),
        "residual": RANDOM.normal(size=(1, rows, columns, channels)).astype(np.float32),
        "mean": RANDOM.normal(size=(32, 1)).astype(np.float32),
        "inverse_deviation": RANDOM.random((32, 1), np.float32),
        "inside": np.array([0] + [1] * (rows + 1), np.float32),
    }


@pytest.fixture(scope="module")
def graph() -> bytes:
    return second_half("half", ResidualBlock(32, 32))


@pytest.fixture
def engine(graph: bytes) -> Engine:
    return loader().load_strips(graph)


def largest_difference(found: dict[str, Array], expected: dict[str, Array]) -> float:
    assert found.keys() == expected.keys()
    assert all(found[name].shape == expected[name].shape for name in expected)
    return max(float(np.abs(found[name] - expected[name]).max()) for name in expected)


def test_every_size_gives_what_onnx_runtime_gives_and_keeps_it(graph: bytes, engine: Engine) -> None:
    reference = loader("onnxruntime").load_strips(graph)
    given = [feeds(rows, columns) for rows, columns in ((4, 6), (4, 6), (5, 6), (1, 9), (2, 2), (4, 6))]
    found = [engine.run(one) for one in given]  # a later run must not write into the results of an earlier one
    for one, results in zip(given, found, strict=True):
        assert largest_difference(results, reference.run(one)) < 1e-5


def test_features_of_float16_are_taken_as_they_are(engine: Engine) -> None:
    half = {name: array.astype(np.float16) if array.ndim == 4 else array for name, array in feeds(4).items()}
    wide = {name: array.astype(np.float32) for name, array in half.items()}
    found, expected = engine.run(half), engine.run(wide)
    assert all(array.dtype == np.float32 for array in found.values())
    assert largest_difference(found, expected) < 1e-5


def test_memory_is_kept_for_the_last_size_alone(engine: Engine) -> None:
    large = feeds(96, 4096)  # 51 MB: larger than what glibc keeps, and than what a test run holds elsewhere
    engine.run(feeds(4))
    give_back()
    before = resident_bytes()
    for rows in (96, 95, 94, 93, 4):
        given = {name: array[:, : rows + 2 * (name == "features")] for name, array in large.items() if array.ndim == 4}
        engine.run({**large, **given, "inside": large["inside"][: rows + 2]})
    del given
    give_back()
    # One size takes twice its features for convolved and normalised rows alone.
    assert resident_bytes() - before < large["features"].nbytes


def test_statistics_of_float16_are_refused(engine: Engine) -> None:
    given = feeds(4)
    with pytest.raises(EngineFailed, match="mean float32"):
        engine.run({**given, "mean": given["mean"].astype(np.float16)})


def test_a_closed_engine_says_so(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        engine.run(feeds(4))


def test_shapes_that_do_not_fit_together_are_the_engines_error(engine: Engine) -> None:
    with pytest.raises(EngineFailed, match="openvino"):
        engine.run({**feeds(4), "residual": feeds(9)["residual"]})


def kinds(graph: bytes, rows: int, columns: int) -> list[str]:
    """Layers that OpenVINO executes on strips of one size, constants apart."""
    core = openvino.Core()
    model = core.read_model(graph)
    keep_sums_apart(model)
    sizes = {"features": rows + 2, "residual": rows}
    model.reshape({i.any_name: [1, sizes[i.any_name], columns, 32] for i in model.inputs if i.any_name in sizes})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [str(node.get_rt_info()["layerType"].astype(str)) for node in compiled.get_runtime_model().get_ordered_ops()]


@pytest.mark.parametrize("half", [first_half, second_half])
def test_features_are_not_laid_out_anew(half: object) -> None:
    assert callable(half)
    assert "Transpose" not in kinds(half("half", ResidualBlock(32, 32)), 8, 64)


def test_upsampling_is_merged_in_strips_too() -> None:
    graph = up("up", nn.Conv2d(32, 32, 3, padding=1))
    assert merge_upsampling(openvino.Core().read_model(graph)) == 1
    given = {"features": feeds(4)["features"]}
    found = loader().load_strips(graph).run(given)
    assert largest_difference(found, loader("onnxruntime").load(graph).run(given)) < 1e-5
    assert found["result"].shape == (1, 8, 12, 32)
