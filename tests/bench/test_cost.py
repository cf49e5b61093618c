"""FLOPs and bytes of graphs: small ones by hand, those of a bundle against the layers that GLC.md lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper

import glc
from glc.bench.cost import DENSE, Shape, bundle_cost, graph_cost, input_sizes
from glc.errors import BundleError
from glc.runtime.bundle import Bundle
from glc.runtime.signatures import signatures

DEMO = Path(glc.__file__).parent / "default_model" / "demo.glcb"
"""f = 8, N = 32."""

Layers = list[tuple[int, int, int, int, int]]
"""Input channels of a group, output channels, side of the kernel, output positions, how often."""


def latent_encoder(nf: int, n: int, h: int, w: int) -> Layers:
    """`vqgan.encoder` of the natural configuration: multipliers 1, 1, 2, 2, 4, two blocks a level, h x w latent."""
    p, q, r, s, t = 256 * h * w, 64 * h * w, 16 * h * w, 4 * h * w, h * w
    return [
        (3, nf, 3, p, 1),
        (nf, nf, 3, p, 4),  # level 0: two blocks of two
        (nf, nf, 3, q, 1 + 4),  # downsampling, level 1
        (nf, nf, 3, r, 1),
        (nf, 2 * nf, 3, r, 1),  # level 2
        (2 * nf, 2 * nf, 3, r, 3),
        (nf, 2 * nf, 1, r, 1),
        (2 * nf, 2 * nf, 3, s, 1 + 4),  # level 3
        (2 * nf, 2 * nf, 3, t, 1),
        (2 * nf, 4 * nf, 3, t, 1),  # level 4
        (4 * nf, 4 * nf, 3, t, 3),
        (2 * nf, 4 * nf, 1, t, 1),
        (4 * nf, 4 * nf, 1, t, 2 * 4),  # attention after each of its blocks: q, k, v, proj_out
        (4 * nf, 4 * nf, 3, t, 4),  # middle
        (4 * nf, 4 * nf, 1, t, 4),
        (4 * nf, n, 3, t, 1),
        (n, n, 1, t, 1),  # quant_conv
    ]


def latent_decoder(nf: int, n: int, h: int, w: int) -> Layers:
    """`vqgan.generator` of the natural configuration: three blocks a level."""
    p, q, r, s, t = 256 * h * w, 64 * h * w, 16 * h * w, 4 * h * w, h * w
    return [
        (n, n, 1, t, 1),  # post_quant_conv
        (n, 4 * nf, 3, t, 1),
        (4 * nf, 4 * nf, 3, t, 4),  # middle
        (4 * nf, 4 * nf, 1, t, 4),
        (4 * nf, 4 * nf, 3, t, 6),  # level 4
        (4 * nf, 4 * nf, 1, t, 3 * 4),
        (4 * nf, 4 * nf, 3, s, 1),  # upsampling
        (4 * nf, 2 * nf, 3, s, 1),  # level 3
        (2 * nf, 2 * nf, 3, s, 5),
        (4 * nf, 2 * nf, 1, s, 1),
        (2 * nf, 2 * nf, 3, r, 1 + 6),  # level 2
        (2 * nf, 2 * nf, 3, q, 1),
        (2 * nf, nf, 3, q, 1),  # level 1
        (nf, nf, 3, q, 5),
        (2 * nf, nf, 1, q, 1),
        (nf, nf, 3, p, 1 + 6),  # level 0
        (nf, 3, 3, p, 1),
    ]


def conv_ffn(c: int, t: int) -> Layers:
    return [(c, 4 * c, 1, t, 1), (2 * c, c, 1, t, 1)]


def depth_conv_block(i: int, o: int, t: int) -> Layers:
    adaptor = [(i, o, 1, t, 1)] if i != o else []
    return [(i, i, 1, t, 1), (1, i, 3, t, 1), (i, o, 1, t, 1), *adaptor, *conv_ffn(o, t)]


def quality_transform(n: int, t: int) -> Layers:
    """`enc` or `dec`: four gated blocks, three 1x1 and one depthwise each."""
    return 4 * [(n, n, 1, t, 3), (1, n, 3, t, 1), *conv_ffn(n, t)]


def hyper_analysis(n: int, t: int) -> Layers:
    return [*depth_conv_block(n, n, t), (n, n, 3, t // 4, 1), (n, n, 3, t // 16, 1)]


def hyper_prior(n: int, t: int) -> Layers:
    upsampling = [(n, 4 * n, 1, t // 16, 2), (n, n, 3, t // 4, 1), (n, 4 * n, 1, t // 4, 2), (n, n, 3, t, 1)]
    fusion = [*depth_conv_block(n, 2 * n, t), *depth_conv_block(2 * n, 3 * n, t)]
    return [*upsampling, *depth_conv_block(n, n, t), *fusion, (3 * n, n, 1, t, 1)]


def flops(layers: Layers) -> int:
    return sum(2 * i * o * k * k * positions * times for i, o, k, positions, times in layers)


def natural_convolutions(nf: int, n: int, h: int, w: int) -> dict[str, int]:
    """FLOPs of the convolutions of each graph."""
    t = h * w
    return {
        "analysis": flops([*latent_encoder(nf, n, h, w), *quality_transform(n, t), *hyper_analysis(n, t)]),
        "hyper_prior": flops(hyper_prior(n, t)),
        **{f"spatial_prior_{k}": flops(4 * depth_conv_block(2 * n, 2 * n, t)) for k in (1, 2, 3)},
        "synthesis": flops([*latent_decoder(nf, n, h, w), *quality_transform(n, t)]),
    }


def make_graph(nodes: list[NodeProto], inputs: dict[str, Sequence[int | str]], weights: dict[str, Shape]) -> bytes:
    tensors = [onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        tensors,
    )
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    return data


@pytest.mark.parametrize(
    ("node", "x", "weight", "expected"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]), (1, 3, 8, 10), (5, 3, 3, 3), 80 * 5 * 27),
        (helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2]), (1, 3, 8, 10), (5, 3, 2, 2), 20 * 5 * 12),
        (helper.make_node("Conv", ["x", "w"], ["y"], group=4), (1, 4, 8, 10), (4, 1, 1, 1), 80 * 4),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]), (1, 3, 8, 10), (3, 5, 2, 2), 240 * 20),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (2, 4, 6), (6, 5), 2 * 4 * 5 * 6),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), (4, 6), (6, 5), 4 * 5 * 6),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1), (6, 4), (5, 6), 4 * 5 * 6),
    ],
    ids=["conv", "stride", "depthwise", "transposed", "matmul", "gemm", "gemm of transposed"],
)
def test_a_multiply_add_is_two_flops(node: NodeProto, x: Shape, weight: Shape, expected: int) -> None:
    cost = graph_cost(make_graph([node], {"x": x}, {"w": weight}), {"x": x})
    assert cost.total.dense_flops == 2 * expected
    assert cost.total.elementwise_flops == 0
    assert cost.parameters == math.prod(weight)
    assert cost.total.weight_bytes == 4 * cost.parameters


def residual_block() -> bytes:
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"]),
        helper.make_node("InstanceNormalization", ["a", "scale", "bias"], ["b"]),
        helper.make_node("Sigmoid", ["b"], ["c"]),
        helper.make_node("Mul", ["b", "c"], ["d"]),
        helper.make_node("Conv", ["d", "second"], ["e"]),
        helper.make_node("Add", ["a", "e"], ["f"]),
    ]
    weights: dict[str, Shape] = {"first": (8, 2, 1, 1), "scale": (8,), "bias": (8,), "second": (8, 8, 1, 1)}
    return make_graph(nodes, {"x": (1, 2, "h", "w")}, weights)


def test_traffic_alone_and_fused() -> None:
    cost = graph_cost(residual_block(), {"x": (1, 2, 10, 10)})
    small, large = 4 * 200, 4 * 800
    assert {kind: c.unfused_bytes for kind, c in cost.kinds.items()} == {
        "Conv": small + large + 2 * large,
        "InstanceNormalization": 2 * large,
        "Sigmoid": 2 * large,
        "Mul": 3 * large,
        "Add": 3 * large,
    }
    # Each convolution reads and writes once; the sum reads the other branch and is written by its convolution.
    assert cost.kinds["Conv"].fused_bytes == small + 3 * large
    assert cost.kinds["Add"].fused_bytes == large
    assert cost.total.fused_bytes == small + 4 * large
    assert cost.kinds["Add"].elementwise_flops == cost.kinds["InstanceNormalization"].elementwise_flops == 800
    assert cost.total.nodes == 6


def test_half_precision_halves_every_byte_and_no_flop() -> None:
    single, half = (graph_cost(residual_block(), {"x": (1, 2, 10, 10)}, width).total for width in (4, 2))
    assert (half.dense_flops, half.elementwise_flops) == (single.dense_flops, single.elementwise_flops)
    assert half.weight_bytes == single.weight_bytes / 2
    assert (half.unfused_bytes, half.fused_bytes) == (single.unfused_bytes / 2, single.fused_bytes / 2)


def test_a_shape_that_depends_on_values_raises() -> None:
    nodes = [
        helper.make_node("Cast", ["size"], ["count"], to=TensorProto.INT64),
        helper.make_node("Expand", ["x", "count"], ["wide"]),
        helper.make_node("Conv", ["wide", "w"], ["y"]),
    ]
    graph = make_graph(nodes, {"x": (1, 2, "h", "w"), "size": (4,)}, {"w": (4, 2, 1, 1)})
    with pytest.raises(BundleError, match="the shape of wide, which Expand"):
        graph_cost(graph, {"x": (1, 2, 4, 4), "size": (4,)})


def test_an_operator_that_cannot_be_counted_raises() -> None:
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="ij,jk->ik")
    with pytest.raises(BundleError, match=r"ai\.onnx\.Einsum is not known"):
        graph_cost(make_graph([node], {"x": (4, 4)}, {"w": (4, 4)}), {"x": (4, 4)})


def test_a_branch_raises_even_where_its_condition_is_a_constant() -> None:
    branch = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch)
    graph = make_graph([node], {"x": (1, 2, 4, 4)}, {"condition": (), "w": (4, 2, 1, 1)})
    with pytest.raises(BundleError, match=r"ai\.onnx\.If is not known"):
        graph_cost(graph, {"x": (1, 2, 4, 4)})


@pytest.mark.parametrize("sizes", [{}, {"x": (1, 2, 4)}, {"x": (1, 3, 4, 4)}, {"x": (1, 2, 4, 4), "y": (1,)}])
def test_sizes_of_other_inputs_are_refused(sizes: dict[str, Shape]) -> None:
    with pytest.raises(ValueError, match=r"input.* got"):
        graph_cost(residual_block(), sizes)


def test_twice_the_area_is_twice_the_convolutions() -> None:
    bundle = Bundle.open(DEMO)
    once, twice = bundle_cost(bundle, 256, 256), bundle_cost(bundle, 256, 512)
    assert set(once) == set(twice) == set(signatures(bundle.manifest.config.latent_channels))
    for name, cost in once.items():
        assert twice[name].kinds["Conv"].dense_flops == 2 * cost.kinds["Conv"].dense_flops > 0
        assert twice[name].parameters == cost.parameters == bundle.manifest.graphs[name].parameters
        assert 2 * cost.total.fused_bytes < cost.total.unfused_bytes


def test_an_image_costs_what_its_padded_size_costs() -> None:
    bundle = Bundle.open(DEMO)
    padded, odd = bundle_cost(bundle, 96, 160), bundle_cost(bundle, 70, 130)
    for name, cost in padded.items():
        assert odd[name].total.dense_flops == cost.total.dense_flops


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        bundle_cost(Bundle.open(DEMO), 0, 64)


@pytest.mark.parametrize("name", ["analysis", "hyper_prior", "spatial_prior_2", "synthesis"])
def test_shapes_are_those_that_an_engine_finds(name: str) -> None:
    """More than one attention patch both ways, and no whole number of them."""
    bundle = Bundle.open(DEMO)
    entry, content = bundle.graph(name)
    sizes = input_sizes(entry, bundle.manifest.config, 290, 350)
    model = onnx.load_model_from_string(content)
    dense = [node for node in model.graph.node if node.op_type in DENSE]
    operands = dict.fromkeys(tensor for node in dense for tensor in (*node.input[:2], node.output[0]))
    given = {value.name for value in (*model.graph.initializer, *model.graph.output)}
    model.graph.output.extend(
        helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None) for tensor in operands if tensor not in given
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {spec.name: np.zeros(sizes[spec.name], spec.dtype) for spec in entry.inputs}
    results = session.run(None, feeds)
    shapes: dict[str, Shape] = {output.name: a.shape for output, a in zip(session.get_outputs(), results, strict=True)}
    shapes |= {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    expected = sum(
        2
        * math.prod(shapes[node.output[0]])
        * (math.prod(shapes[node.input[1]][1:]) if node.op_type == "Conv" else shapes[node.input[0]][-1])
        for node in dense
    )
    assert graph_cost(content, sizes).total.dense_flops == expected


def test_mini_convolutions_are_those_of_the_specification(mini_float_bundle: Path) -> None:
    costs = bundle_cost(Bundle.open(mini_float_bundle), 512, 768)
    assert {name: cost.kinds["Conv"].dense_flops for name, cost in costs.items()} == natural_convolutions(
        32, 32, 32, 48
    )


def test_exact_arithmetic_convolves_no_more_than_float(mini_bundle: Path, mini_float_bundle: Path) -> None:
    exact, plain = (bundle_cost(Bundle.open(path), 256, 320) for path in (mini_bundle, mini_float_bundle))
    for name, cost in plain.items():
        assert exact[name].kinds["Conv"].dense_flops == cost.kinds["Conv"].dense_flops


def test_the_hand_count_of_natural_is_the_one_on_record() -> None:
    """0.83 and 1.51 TFLOP at 512x768: the auto-encoder alone, and within 1 % with the transforms."""
    transform = quality_transform(256, 32 * 48)
    for layers, teraflops in ((latent_encoder(128, 256, 32, 48), 0.83), (latent_decoder(128, 256, 32, 48), 1.51)):
        assert round(flops(layers) / 1e12, 2) == teraflops
        assert flops(layers + transform) / 1e12 == pytest.approx(teraflops, rel=0.01)
