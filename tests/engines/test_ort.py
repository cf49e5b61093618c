"""ONNX Runtime behind the engine protocol, on graphs of a few nodes."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from glc.engines import ENGINE_NAMES, Engine, EngineLoader, TensorSpec, engine_loader, exact_chain
from glc.engines.chained import ChainedEngine
from glc.engines.ort import OrtEngine, OrtLoader
from glc.errors import EngineFailed, EngineRejectedGraph, EngineUnavailable, GlcError
from glc.runtime.bundle import Bundle
from glc.runtime.default_model import default_bundle

X = np.arange(6, dtype=np.float32).reshape(1, 6)


def _graph(kind: int = TensorProto.FLOAT, operator: str = "Neg", opset: int = 17) -> bytes:
    """One node with the input `x` (1, any) and the output `y` of the same type."""
    shape: list[str | int | None] = [1, "n"]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])],
        "one node",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return bytes(model.SerializeToString())


def _fixed_concat() -> bytes:
    """Fails while it runs, not before: a column of 2 rows is joined to however many rows there are."""
    graph = helper.make_graph(
        [helper.make_node("Concat", ["x", "two"], ["y"], axis=1)],
        "concat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor("two", TensorProto.FLOAT, [2, 1], [1.0, 2.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def loader() -> EngineLoader:
    return engine_loader("onnxruntime", threads=1)


@pytest.fixture
def engine(loader: EngineLoader) -> Engine:
    return loader.load(_graph())


@pytest.mark.parametrize(
    ("kind", "dtype"), [(TensorProto.FLOAT, "float32"), (TensorProto.UINT8, "uint8"), (TensorProto.INT32, "int32")]
)
def test_a_graph_tells_its_inputs_and_outputs(kind: int, dtype: str, loader: EngineLoader) -> None:
    engine = loader.load(_graph(kind, "Identity"))
    assert engine.inputs == (TensorSpec("x", dtype, (1, None)),)
    assert engine.outputs == (TensorSpec("y", dtype, (1, None)),)
    x = X.astype(dtype)
    y = engine.run({"x": x})["y"]
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x)


def test_a_run_computes_every_output_for_any_size(engine: Engine) -> None:
    for x in (X, X[:, :1], X[:, :0], X[:, ::-1], np.asfortranarray(X)):
        results = engine.run({"x": x})
        assert results.keys() == {"y"}
        np.testing.assert_array_equal(results["y"], -x)


def test_feeds_are_not_written_to_and_results_belong_to_the_caller(engine: Engine) -> None:
    x = X.copy()
    x.flags.writeable = False
    first = engine.run({"x": x})["y"]
    first += 1
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(engine.run({"x": x})["y"], -X)


def test_several_threads_may_run_one_engine(engine: Engine) -> None:
    together = threading.Barrier(4)

    def work(k: int) -> bool:
        together.wait()
        return all((engine.run({"x": X + k})["y"] == -(X + k)).all() for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.mark.parametrize(
    "feeds",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"y": X}, id="another name"),
        pytest.param({"x": X, "more": X}, id="one too many"),
        pytest.param({"x": X.astype(np.float64)}, id="float64"),
        pytest.param({"x": X[0]}, id="an axis is missing"),
        pytest.param({"x": np.concatenate([X, X])}, id="a fixed size is another"),
    ],
)
def test_wrong_feeds_say_what_was_expected(feeds: dict[str, np.ndarray], engine: Engine) -> None:
    with pytest.raises(EngineFailed, match=r"expected .*x"):
        engine.run(feeds)


def test_an_error_inside_the_sdk_becomes_one_line(loader: EngineLoader, capfd: pytest.CaptureFixture[str]) -> None:
    engine = loader.load(_fixed_concat())
    assert engine.run({"x": X.T[:2]})["y"].shape == (2, 2)
    with pytest.raises(EngineFailed, match="onnxruntime") as caught:
        engine.run({"x": X.T[:3]})
    assert str(caught.value).isprintable()
    assert engine.run({"x": X.T[:2]})["y"].shape == (2, 2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"garbage" * 99, id="text"),
        pytest.param(np.random.RandomState(0).bytes(4000), id="random bytes"),
        pytest.param(_graph()[:-20], id="truncated"),
        pytest.param(b"\0" + _graph(), id="shifted by a byte"),
        pytest.param(_graph(operator="NoSuchOperator"), id="unknown operator"),
        pytest.param(_graph(opset=999), id="later opset"),
        pytest.param(_graph(TensorProto.DOUBLE), id="float64"),
        pytest.param(_graph(TensorProto.STRING, "Identity"), id="strings"),
        pytest.param(bytes(onnx.ModelProto().SerializeToString()), id="a model without a graph"),
        pytest.param("/etc/passwd", id="a path"),
    ],
)
def test_what_is_no_usable_graph_is_rejected_in_one_line(
    graph: bytes, loader: EngineLoader, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EngineRejectedGraph) as caught:
        loader.load(graph)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert capfd.readouterr() == ("", "")


def test_random_damage_of_a_graph_raises_nothing_but_glc_errors(
    loader: EngineLoader, capfd: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.RandomState(0)
    rejected = 0
    for _ in range(300):
        damaged = bytearray(_graph())
        for at in draw.randint(0, len(damaged), draw.randint(1, 4)):
            damaged[at] = draw.randint(0, 256)
        try:
            loader.load(bytes(damaged)).run({"x": X})
        except GlcError as error:
            rejected += str(error).isprintable()
    assert rejected > 100
    assert capfd.readouterr() == ("", "")  # standard output may be where an image goes


def test_a_closed_engine_says_so_however_often_it_is_closed(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        engine.run({"x": X})
    assert engine.inputs == (TensorSpec("x", "float32", (1, None)),)


def test_engines_are_chosen_by_name() -> None:
    assert "onnxruntime" in ENGINE_NAMES
    assert engine_loader("onnxruntime").name == "onnxruntime"


@pytest.mark.parametrize("name", ["abacus", "", "ONNXRUNTIME", "onnxruntime "], ids=repr)
def test_an_unknown_name_lists_those_that_are_known(name: str) -> None:
    with pytest.raises(EngineUnavailable, match="onnxruntime") as caught:
        engine_loader(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_are_at_least_one(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads.*{threads}"):
        engine_loader("onnxruntime", threads)


def test_a_fingerprint_tells_all_that_float_results_may_depend_on() -> None:
    import onnxruntime

    from glc.engines.processor import processor_name

    fingerprint = engine_loader("onnxruntime", 3).fingerprint
    for part in (f"onnxruntime {onnxruntime.__version__} ", "float32", "3 threads", processor_name()):
        assert part in fingerprint
    assert fingerprint.isprintable()
    assert engine_loader("onnxruntime", 3).fingerprint == fingerprint
    assert engine_loader("onnxruntime", 2).fingerprint != fingerprint


def test_without_a_number_all_threads_are_used_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 8, 9, 11}, raising=False)
    assert ", 5 threads," in engine_loader("onnxruntime").fingerprint


@pytest.mark.parametrize("graph", ["hyper_prior", "spatial_prior_1"])
def test_an_exact_graph_in_parts_gives_every_bit_of_the_whole_one(graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(default_bundle())
    content = bundle.graph(graph)[1]
    monkeypatch.setattr(exact_chain, "best_kernel", lambda: "plain")
    engine = OrtLoader(2).load(content, exact=True)
    whole = OrtLoader(2, optimise=False).load(content, exact=True)
    assert isinstance(engine, ChainedEngine)
    assert isinstance(whole, OrtEngine)
    assert (engine.inputs, engine.outputs) == (whole.inputs, whole.outputs)
    random = np.random.default_rng(0)
    channels = bundle.manifest.config.latent_channels
    if graph == "hyper_prior":
        feeds = {"z_indices": random.integers(0, bundle.manifest.config.codebook_entries, (1, 3, 5)).astype(np.int32)}
    else:
        names = ("y_hat", "context")
        feeds = {name: random.integers(-9, 10, (1, channels, 6, 10)).astype(np.float32) for name in names}
    found, expected = engine.run(feeds), whole.run(feeds)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_exact_graphs_are_whole_where_no_kernel_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_chain, "best_kernel", lambda: None)
    graph = Bundle.open(default_bundle()).graph("spatial_prior_1")[1]
    assert isinstance(OrtLoader(1).load(graph, exact=True), OrtEngine)


def test_kernels_that_were_not_compiled_are_not_needed() -> None:
    program = """
import sys
sys.modules["glc.engines._exact_chain"] = None
from glc.engines.ort import OrtEngine, OrtLoader
from glc.runtime.bundle import Bundle
from glc.runtime.default_model import default_bundle
graph = Bundle.open(default_bundle()).graph("spatial_prior_1")[1]
assert isinstance(OrtLoader(1).load(graph, exact=True), OrtEngine)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
