"""Pieces of analysis and synthesis between two GroupNorms, built node by node as ONNX graphs (docs/bundle.md, "Tiles").

Each takes some rows of its input with the neighbours that its convolution needs, and gives the rows `rows[0]` up to
`rows[1]` of what it computes of them, with mean and variance of every channel. Rows at an end that is not the image's
end are wrong, for they saw zeros in place of their neighbours: `rows` leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from glc.export.autoencoder import ResidualBlock
from glc.export.onnx_graph import OPSET, onnx_value, serialised
from glc.runtime.signatures import Signature
from glc.runtime.tile_layout import (
    conversion_signature,
    end_signature,
    first_half_signature,
    resampling_signature,
    second_half_signature,
    start_signature,
)


class _Nodes:
    """Nodes and weights of a graph that is being built; every method gives the name of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, values: Tensor | NDArray[Any]) -> str:
        array = values.detach().numpy() if isinstance(values, Tensor) else values
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, kind: str, *inputs: str, gives: str | None = None, **attributes: Any) -> str:
        name = gives or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def shape(self, *sizes: int) -> str:
        return self.constant(np.array(sizes, np.int64))

    def group_norm(self, x: str, norm: nn.GroupNorm) -> str:
        """GroupNorm with the statistics of the inputs `mean` and `inverse_deviation`, one for each group."""
        by_group = (norm.num_groups, norm.num_channels // norm.num_groups)
        scale = self.add("Mul", self.constant(norm.weight.reshape(by_group)), "inverse_deviation")
        shift = self.add("Sub", self.constant(norm.bias.reshape(by_group)), self.add("Mul", "mean", scale))
        channels = self.shape(1, norm.num_channels, 1, 1)
        scaled = self.add("Mul", x, self.add("Reshape", scale, channels))
        return self.add("Add", scaled, self.add("Reshape", shift, channels))

    def swish(self, x: str) -> str:
        return self.add("Mul", x, self.add("Sigmoid", x))

    def convolution(self, x: str, convolution: nn.Conv2d, pads: Sequence[int] | None = None) -> str:
        """Convolve; `pads` (top, left, bottom, right) take the place of the module's own."""
        if convolution.bias is None:
            raise ValueError("a convolution of GLC has a bias")
        rows, columns = (int(size) for size in convolution.padding)
        return self.add(
            "Conv",
            x,
            self.constant(convolution.weight),
            self.constant(convolution.bias),
            pads=list(pads or (rows, columns, rows, columns)),
            strides=list(convolution.stride),
        )

    def chosen_rows(self, x: str) -> str:
        self.nodes.append(helper.make_node("Split", ["rows"], ["first_row", "end_row"], axis=0, num_outputs=2))
        return self.add("Slice", x, "first_row", "end_row", self.constant(np.array([2], np.int32)))

    def features(self, x: str) -> None:
        """Make the chosen rows of x the results, with mean and variance of each channel."""
        rows = self.chosen_rows(x)
        self.add("Identity", rows, gives="result")
        axes = self.shape(2, 3)
        mean = self.add("ReduceMean", rows, axes, gives="result_mean", keepdims=1)
        # About the mean: the difference of two large sums would lose what float32 holds.
        distance = self.add("Sub", rows, mean)
        self.add("ReduceMean", self.add("Mul", distance, distance), axes, gives="result_variance", keepdims=1)


def start(name: str, convolution: nn.Conv2d) -> bytes:
    """Pixels to features."""
    nodes = _Nodes()
    pixels = nodes.add("Transpose", nodes.add("Cast", "image", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    x = nodes.add("Sub", nodes.add("Mul", pixels, nodes.number(2 / 255)), nodes.number(1))
    nodes.features(nodes.convolution(x, convolution))
    return _graph(name, nodes, start_signature(convolution.out_channels))


def first_half(name: str, block: ResidualBlock) -> bytes:
    """GroupNorm, swish, convolution: up to the second GroupNorm of a residual block."""
    nodes = _Nodes()
    nodes.features(nodes.convolution(nodes.swish(nodes.group_norm("features", block.norm1)), block.conv1))
    return _graph(name, nodes, first_half_signature(block.conv1.in_channels, block.conv1.out_channels))


def second_half(name: str, block: ResidualBlock) -> bytes:
    """GroupNorm, swish, convolution, plus identity."""
    nodes = _Nodes()
    branch = nodes.convolution(nodes.swish(nodes.group_norm("features", block.norm2)), block.conv2)
    identity = "residual" if block.conv_out is None else nodes.convolution("residual", block.conv_out)
    nodes.features(nodes.add("Add", identity, branch))
    return _graph(name, nodes, second_half_signature(block.conv2.out_channels, block.conv1.in_channels))


def down(name: str, convolution: nn.Conv2d) -> bytes:
    """Halve both sides."""
    nodes = _Nodes()
    nodes.features(nodes.convolution("features", convolution, (0, 0, 1, 1)))
    return _graph(name, nodes, resampling_signature(convolution.out_channels))


def up(name: str, convolution: nn.Conv2d) -> bytes:
    """Double both sides."""
    nodes = _Nodes()
    scales = nodes.constant(np.array([1, 1, 2, 2], np.float32))
    doubled = nodes.add(
        "Resize",
        "features",
        "",
        scales,
        coordinate_transformation_mode="asymmetric",
        mode="nearest",
        nearest_mode="floor",
    )
    nodes.features(nodes.convolution(doubled, convolution))
    return _graph(name, nodes, resampling_signature(convolution.out_channels))


def end(name: str, norm: nn.GroupNorm, convolution: nn.Conv2d, swish: Sequence[nn.Module]) -> bytes:
    """Features to pixels; `swish` holds what stands before the last convolution, if anything does."""
    nodes = _Nodes()
    x = nodes.group_norm("features", norm)
    for _ in swish:
        x = nodes.swish(x)
    rows = nodes.chosen_rows(nodes.convolution(x, convolution))
    bounded = nodes.add("Clip", rows, nodes.number(-1), nodes.number(1))
    half = nodes.number(0.5)
    unit = nodes.add("Add", nodes.add("Mul", bounded, half), half)
    pixels = nodes.add("Round", nodes.add("Mul", unit, nodes.number(255)))
    nodes.add("Cast", nodes.add("Transpose", pixels, perm=[0, 2, 3, 1]), gives="image", to=TensorProto.UINT8)
    return _graph(name, nodes, end_signature(convolution.in_channels))


def conversion(name: str) -> bytes:
    """`tile_narrow`, `tile_widen`: features to float16 and back."""
    signature = conversion_signature(name)
    nodes = _Nodes()
    nodes.add("Cast", "features", gives="result", to=onnx_value(signature.outputs[0]).type.tensor_type.elem_type)
    return _graph(name, nodes, signature)


def _graph(name: str, nodes: _Nodes, signature: Signature) -> bytes:
    graph = helper.make_graph(
        nodes.nodes,
        name,
        [onnx_value(s) for s in signature.inputs],
        [onnx_value(s) for s in signature.outputs],
        nodes.weights,
    )
    return serialised(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10))
