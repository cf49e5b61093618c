"""float16: where it is, where not, and exact graphs that lose nothing by them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx.numpy_helper
import openvino
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

import glc
from glc.engines.ov_precision import codebook_search, narrow, narrow_exact

RANDOM = np.random.default_rng(0)
CHANNELS = 4
GOLDEN = Path(__file__).parent.parent / "golden" / "tiny.glcb"
LARGEST = np.finfo(np.float32).max
SPATIAL = [f"spatial_prior_{part}" for part in (1, 2, 3)]


def graph(
    nodes: list[NodeProto],
    inputs: list[str],
    outputs: list[str],
    kind: int = TensorProto.FLOAT,
    **stored: NDArray[Any],
) -> openvino.Model:
    """A graph that takes tensors (1, 4, h, w)."""
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(name, kind, [1, CHANNELS, "h", "w"]) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs],
            [onnx.numpy_helper.from_array(values, name) for name, values in stored.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    return openvino.Core().read_model(made.SerializeToString())


def types(model: openvino.Model) -> dict[str, str]:
    """Operation -> element type of what it gives, constants apart."""
    ordered = [node for node in model.get_ordered_ops() if node.get_type_name() != "Constant"]
    return {node.get_friendly_name(): node.get_output_element_type(0).get_type_name() for node in ordered}


def contents(model: openvino.Model) -> list[tuple[str, str, str]]:
    """All that a graph consists of, in order."""
    return [
        (node.get_type_name(), node.get_friendly_name(), str(node.get_output_element_type(0)))
        for node in model.get_ordered_ops()
    ]


def run(model: openvino.Model, **feeds: NDArray[Any]) -> dict[str, NDArray[Any]]:
    found = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "dynamic"})(feeds)
    return {port.any_name: np.array(found[port.any_name]) for port in model.outputs}


def require_float16() -> None:
    if "FP16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("OpenVINO does not compute in f16 on this processor")


KERNEL = RANDOM.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32)


def network(kernel: NDArray[np.float32] = KERNEL, factor: float = 3.1) -> openvino.Model:
    """x -> Conv -> c -> Mul -> m -> Sigmoid -> y; c is a result too."""
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], pads=[1] * 4),
        helper.make_node("Mul", ["c", "factor"], ["m"]),
        helper.make_node("Sigmoid", ["m"], ["y"]),
    ]
    return graph(nodes, ["x"], ["y", "c"], kernel=kernel, factor=np.array(factor, np.float32))


def test_all_but_inputs_results_and_what_is_wide_is_float16() -> None:
    model = network()
    narrow(model, {"m"})
    found = types(model)
    assert (found["x"], found["c"], found["m"], found["y"]) == ("f32", "f16", "f32", "f16")
    assert [(port.any_name, port.get_element_type().get_type_name()) for port in (*model.inputs, *model.outputs)] == [
        ("x", "f32"),
        ("y", "f32"),
        ("c", "f32"),
    ]


def test_a_narrow_network_computes_nearly_the_same() -> None:
    require_float16()
    x = RANDOM.normal(size=(1, CHANNELS, 9, 7)).astype(np.float32)
    model = network()
    expected = run(network(), x=x)
    narrow(model)
    found = run(model, x=x)
    allowed = 2**-9 * np.abs(expected["c"]).max()
    assert 0 < np.abs(found["c"] - expected["c"]).max() < allowed
    assert np.abs(found["y"] - expected["y"]).max() < allowed


def test_what_is_wide_keeps_its_constants() -> None:
    for wide, expected in (({"m"}, np.float32(3.1)), ((), np.float32(np.float16(3.1)))):
        model = network()
        narrow(model, wide)
        (factor,) = (
            value.get_node().get_data()
            for node in model.get_ordered_ops()
            for value in node.input_values()
            if node.get_friendly_name() == "m" and value.get_node().get_type_name() == "Constant"
        )
        assert factor.astype(np.float32) == expected


def test_constants_are_rounded_and_no_larger_than_float16_holds() -> None:
    require_float16()
    values = np.array([1e6, -LARGEST, 1 + 2**-12, 2**-16], np.float32).reshape(1, CHANNELS, 1, 1)
    model = graph([helper.make_node("Add", ["x", "values"], ["y"])], ["x"], ["y"], values=values)
    narrow(model)
    (stored,) = (node for node in model.get_ordered_ops() if node.get_type_name() == "Constant")
    assert stored.get_element_type().get_type_name() == "f16"
    found = run(model, x=np.zeros((1, CHANNELS, 1, 1), np.float32))["y"]
    assert found.reshape(-1).tolist() == [65504, -65504, 1, 2**-16]


def test_pixels_are_widened_to_what_takes_them() -> None:
    """A conversion in the graph is to the type that the operation behind it has, not to float32 and back."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sqrt", ["float"], ["narrow"]),
        helper.make_node("Neg", ["float"], ["wide"]),
    ]
    model = graph(nodes, ["pixels"], ["narrow", "wide"], TensorProto.UINT8)
    narrow(model, {"wide"})
    assert (types(model)["narrow"], types(model)["wide"]) == ("f16", "f32")
    assert Counter(
        (node.get_input_element_type(0).get_type_name(), node.get_output_element_type(0).get_type_name())
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Convert"
    ) == {("u8", "f16"): 1, ("u8", "f32"): 1, ("f16", "f32"): 1}


def test_the_search_of_a_codebook_begins_behind_the_last_convolution() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["first"]),
        helper.make_node("Relu", ["first"], ["between"]),
        helper.make_node("Conv", ["between", "kernel"], ["last"]),
        helper.make_node("Sub", ["last", "entry"], ["apart"]),
        helper.make_node("Mul", ["apart", "apart"], ["distance"]),
        helper.make_node("ArgMin", ["distance"], ["indices"], axis=1),
        helper.make_node("Sigmoid", ["last"], ["other"]),
    ]
    kernel, entry = KERNEL[:, :, :1, :1], np.ones((1, CHANNELS, 1, 1), np.float32)
    model = graph(nodes, ["x"], ["indices", "other"], kernel=kernel, entry=entry)
    names = codebook_search(model)
    assert {"apart", "distance"} <= names
    assert not {"x", "first", "between", "last", "other"} & names
    assert "TopK" in {node.get_type_name() for node in model.get_ordered_ops() if node.get_friendly_name() in names}
    assert codebook_search(network()) == frozenset()


LIMIT = np.array(1023, np.float32)
WEIGHTS = RANDOM.integers(-2047, 2048, (CHANNELS, 2 * CHANNELS, 3, 3)).astype(np.float32)
SIZES = [(2, 2), (12, 8), (34, 22)]
"""Of latents."""
ROUNDED = [
    helper.make_node("Mul", ["y_hat", "unit"], ["units"]),
    helper.make_node("Clip", ["units", "least", "most"], ["clipped"]),
    helper.make_node("Round", ["clipped"], ["integers"]),
]
"""y_hat as its graphs have it, before all else."""
CONTEXT = [
    helper.make_node("Mul", ["context", "one"], ["c"]),
    helper.make_node("Round", ["c"], ["rounded"]),
]


def exact(*further: NodeProto, y_hat: str = "integers", context: str = "rounded", **stored: Any) -> openvino.Model:
    """y_hat and context, rounded -> Concat -> Conv -> Clip -> Round -> y."""
    nodes = [
        *ROUNDED,
        *CONTEXT,
        helper.make_node("Concat", [y_hat, context], ["both"], axis=1),
        helper.make_node("Conv", ["both", "weights", "bias"], ["sums"], pads=[1] * 4),
        helper.make_node("Clip", ["sums", "least", "most"], ["bounded"]),
        helper.make_node("Round", ["bounded"], ["y"]),
        *further,
    ]
    constants: dict[str, NDArray[Any]] = {
        "unit": np.array(2**6, np.float32),
        "one": np.array(1, np.float32),
        "least": np.negative(LIMIT),
        "most": LIMIT,
        "weights": np.ldexp(WEIGHTS, -14),
        "bias": np.array([2047, -2047 * 2**-14, 4094, 0], np.float32),
    }
    outputs = ["y", *(name for node in further for name in node.output)]
    return graph(nodes, ["y_hat", "context"], outputs, **constants | stored)


def test_a_graph_that_float16_holds_is_narrowed_and_keeps_every_bit() -> None:
    require_float16()
    model = exact()
    assert narrow_exact(model)
    found = types(model)
    assert {found[name] for name in ("units", "clipped", "integers", "c", "rounded")} == {"f32"}
    assert {found[name] for name in ("both", "sums", "bounded", "y")} == {"f16"}
    feeds = {
        # Multiples of 2^-12, as y_hat is, at the edges of rounding too, and far beyond float16.
        "y_hat": np.ldexp(RANDOM.integers(-(2**16), 2**16, (1, CHANNELS, 9, 7)), -12).astype(np.float32),
        "context": RANDOM.integers(-1023, 1024, (1, CHANNELS, 9, 7)).astype(np.float32),
    }
    feeds["y_hat"][0, 0] *= 2**17
    feeds["y_hat"][0, 1] = np.ldexp(RANDOM.integers(-1000, 1000, (9, 7)) + 0.5, -6)
    np.testing.assert_array_equal(run(model, **feeds)["y"], run(exact(), **feeds)["y"])


def test_a_bound_that_nothing_reaches_may_be_any() -> None:
    """As Clip has where one bound is left out."""
    relu = helper.make_node("Clip", ["y", "none", "largest"], ["positive"])
    assert narrow_exact(exact(relu, none=np.array(0, np.float32), largest=np.array(LARGEST)))


def one_weight(value: float) -> NDArray[np.float32]:
    weights = np.ldexp(WEIGHTS, -14)
    weights[1, 2, 0, 1] = value
    return weights


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: exact(weights=one_weight(2049 * 2**-14)), id="weights of 12 bits"),
        pytest.param(lambda: exact(weights=one_weight(70000)), id="weights beyond float16"),
        pytest.param(lambda: exact(weights=one_weight(2**-15)), id="weights below 2^-14"),
        pytest.param(lambda: exact(bias=np.array([0, 0, 2049, 0], np.float32)), id="biases of 12 bits"),
        pytest.param(lambda: exact(bias=np.array([0, 0, 131072, 0], np.float32)), id="biases beyond float16"),
        pytest.param(
            lambda: exact(helper.make_node("Mul", ["y", "by"], ["z"]), by=np.array(1 / 3, np.float32)), id="factors"
        ),
        pytest.param(lambda: exact(y_hat="y_hat"), id="a concatenation takes y_hat"),
        pytest.param(lambda: exact(y_hat="units"), id="a concatenation takes y_hat in units"),
        pytest.param(lambda: exact(context="context"), id="a concatenation takes context"),
        pytest.param(
            lambda: exact(helper.make_node("Conv", ["y_hat", "small"], ["z"]), small=np.ones((1, 4, 1, 1), np.float32)),
            id="a convolution takes y_hat",
        ),
        pytest.param(lambda: exact(helper.make_node("Sigmoid", ["units"], ["z"])), id="a second way"),
        pytest.param(lambda: exact(helper.make_node("Identity", ["clipped"], ["z"])), id="a result is not rounded"),
        pytest.param(
            lambda: exact(
                helper.make_node("Conv", ["y", "small"], ["z"], group=2),
                small=np.full((CHANNELS, 2, 1, 1), 2**-15, np.float32),
            ),
            id="weights of groups below 2^-14",
        ),
    ],
)
def test_what_float16_would_change_stays_as_it_is(model: Any) -> None:
    found = model()
    before = contents(found)
    assert not narrow_exact(found)
    assert contents(found) == before


def agrees(model: openvino.Model, case: dict[str, NDArray[Any]]) -> None:
    """A model gives what a conformance case says, to the bit."""
    found = run(model, **{port.any_name: case[port.any_name] for port in model.inputs})
    for name, values in found.items():
        np.testing.assert_array_equal(values, case[name], err_msg=name)


@pytest.mark.parametrize("name", ["hyper_prior", *SPATIAL])
def test_exported_graphs_are_narrowed_and_pass_their_cases(name: str, mini_bundle: Path) -> None:
    require_float16()
    bundle = glc.Bundle.open(mini_bundle)
    case = bundle.conformance(name)
    assert case is not None
    model = openvino.Core().read_model(bundle.graph(name)[1])
    assert narrow_exact(model)
    assert Counter(types(model).values())["f16"] > 20
    agrees(model, case)


@pytest.mark.parametrize("name", SPATIAL)
def test_y_hat_beyond_float16_changes_no_bit(name: str, mini_bundle: Path) -> None:
    require_float16()
    plain, model = (openvino.Core().read_model(glc.Bundle.open(mini_bundle).graph(name)[1]) for _ in range(2))
    assert narrow_exact(model)
    channels = model.input("y_hat").get_partial_shape()[1].get_length()
    for size in SIZES:
        shape = (1, channels, *size)
        y_hat = np.ldexp(RANDOM.integers(-(2**14), 2**14, shape), -12).astype(np.float32)
        y_hat[0, ::3] *= 2**15  # up to 131072
        feeds = {"y_hat": y_hat, "context": RANDOM.integers(-1023, 1024, shape).astype(np.float32)}
        assert np.abs(y_hat).max() > np.finfo(np.float16).max
        usual = y_hat[np.abs(y_hat) < 4]
        assert (usual.astype(np.float16).astype(np.float32) != usual).any()
        expected = run(plain, **feeds)
        for output, values in run(model, **feeds).items():
            np.testing.assert_array_equal(values, expected[output], err_msg=f"{output} {size}")


@pytest.mark.parametrize("name", ["hyper_prior", *SPATIAL])
def test_a_bundle_that_was_made_earlier_stays_as_it_is_or_exact(name: str) -> None:
    bundle = glc.Bundle.open(GOLDEN)
    case = bundle.conformance(name)
    assert case is not None
    model = openvino.Core().read_model(bundle.graph(name)[1])
    before = contents(model)
    if narrow_exact(model):
        require_float16()
        agrees(model, case)
    else:
        assert contents(model) == before
    # Their y_hat met the context before it was rounded.
    assert name == "hyper_prior" or contents(model) == before
