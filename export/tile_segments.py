"""Pieces of analysis and synthesis between two GroupNorms, built node by node as ONNX graphs (docs/bundle.md, "Tiles").

Each takes some rows of its input with the neighbours that its convolution needs, and gives the rows that it computes of
them, with two moments of every row. Features have their channels last, so that rows lie in one piece, in memory as for
convolutions in 16 bits. Beyond the image a reader gives any rows, and says so in `inside`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto
from torch import nn

from glc.export.autoencoder import ResidualBlock
from glc.export.graph_nodes import GraphNodes
from glc.export.onnx_graph import onnx_model, onnx_value, serialised
from glc.runtime.signatures import Signature
from glc.runtime.tile_layout import (
    conversion_signature,
    end_signature,
    first_half_signature,
    resampling_signature,
    second_half_signature,
    start_signature,
)

_TO_PLANES, _TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


class _Nodes(GraphNodes):
    """What the pieces have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.results: dict[str, str] = {}
        """Name in the graph -> output that it becomes."""

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def group_norm(self, x: str, norm: nn.GroupNorm) -> str:
        """GroupNorm with the statistics of the inputs `mean` and `inverse_deviation`, one for each group.

        Rows that are not `inside` become zeros, and stay zeros behind swish: what a convolution sees beyond the image.
        """
        by_group = (norm.num_groups, norm.num_channels // norm.num_groups)
        scale = self.add("Mul", self.weight(norm.weight.reshape(by_group)), "inverse_deviation")
        shift = self.add("Sub", self.weight(norm.bias.reshape(by_group)), self.add("Mul", "mean", scale))
        channels, inside = self.integers(1, 1, 1, norm.num_channels), self.inside()
        scales, shifts = (self.add("Mul", self.add("Reshape", one, channels), inside) for one in (scale, shift))
        return self.add("Add", self.add("Mul", x, scales), shifts)

    def inside(self) -> str:
        """Ones for rows of the image, zeros for rows beyond it: (1, rows, 1, 1)."""
        return self.add("Reshape", "inside", self.integers(1, -1, 1, 1))

    def swish(self, x: str) -> str:
        return self.add("Mul", x, self.add("Sigmoid", x))

    def planes(self, x: str) -> str:
        """(1, rows, columns, C) to (1, C, rows, columns)."""
        return self.add("Transpose", x, perm=_TO_PLANES)

    def convolution(self, x: str, convolution: nn.Conv2d, columns: tuple[int, int] | None = None) -> str:
        """Convolve (1, C, rows, columns) to (1, C', rows, columns).

        Args:
            x: with the rows that the kernel sees above and below.
            convolution: weights, strides, and columns of zeros on both sides.
            columns: of zeros on the left and on the right, in place of the module's own.
        """
        if convolution.bias is None:
            raise ValueError("a convolution of GLC has a bias")
        left, right = columns or (int(convolution.padding[1]),) * 2
        return self.add(
            "Conv",
            x,
            self.weight(convolution.weight),
            self.weight(convolution.bias),
            pads=[0, left, 0, right],
            strides=list(convolution.stride),
        )

    def features(self, x: str) -> None:
        """Make (1, C, rows, columns) the result, with mean and Euclidean length of every row of each channel."""
        columns = self.integers(3)
        self.results |= {
            self.add("Transpose", x, perm=_TO_CHANNELS_LAST): "result",
            self.add("ReduceMean", x, columns, keepdims=1): "row_means",
            self.add("ReduceL2", x, columns, keepdims=1): "row_lengths",
        }


def start(name: str, convolution: nn.Conv2d) -> bytes:
    """Pixels to features."""
    nodes = _Nodes()
    pixels = nodes.add("Cast", "image", to=TensorProto.FLOAT)
    x = nodes.add("Sub", nodes.add("Mul", pixels, nodes.number(2 / 255)), nodes.number(1))
    nodes.features(nodes.convolution(nodes.planes(nodes.add("Mul", x, nodes.inside())), convolution))
    return _graph(name, nodes, start_signature(convolution.out_channels))


def first_half(name: str, block: ResidualBlock) -> bytes:
    """GroupNorm, swish, convolution: up to the second GroupNorm of a residual block."""
    nodes = _Nodes()
    x = nodes.swish(nodes.group_norm("features", block.norm1))
    nodes.features(nodes.convolution(nodes.planes(x), block.conv1))
    return _graph(name, nodes, first_half_signature(block.conv1.in_channels, block.conv1.out_channels))


def second_half(name: str, block: ResidualBlock) -> bytes:
    """GroupNorm, swish, convolution, plus identity."""
    nodes = _Nodes()
    x = nodes.swish(nodes.group_norm("features", block.norm2))
    branch = nodes.convolution(nodes.planes(x), block.conv2)
    identity = nodes.planes("residual")
    if block.conv_out is not None:
        identity = nodes.convolution(identity, block.conv_out)
    nodes.features(nodes.add("Add", identity, branch))
    return _graph(name, nodes, second_half_signature(block.conv2.out_channels, block.conv1.in_channels))


def down(name: str, convolution: nn.Conv2d) -> bytes:
    """Halve both sides."""
    nodes = _Nodes()
    nodes.features(nodes.convolution(nodes.planes("features"), convolution, (0, 1)))
    return _graph(name, nodes, resampling_signature(convolution.out_channels))


def up(name: str, convolution: nn.Conv2d) -> bytes:
    """Double both sides."""
    nodes = _Nodes()
    doubled = nodes.add(
        "Resize",
        nodes.planes("features"),
        "",
        nodes.constant(np.array([1, 1, 2, 2], np.float32)),
        coordinate_transformation_mode="asymmetric",
        mode="nearest",
        nearest_mode="floor",
    )
    # Of the rows above and below, doubled too, a convolution sees one.
    bounds = (nodes.integers(n) for n in (1, -1, 2, 1))  # first, end, axis, step
    nodes.features(nodes.convolution(nodes.add("Slice", doubled, *bounds), convolution))
    return _graph(name, nodes, resampling_signature(convolution.out_channels))


def end(name: str, norm: nn.GroupNorm, convolution: nn.Conv2d, swish: Sequence[nn.Module]) -> bytes:
    """Features to pixels; `swish` holds what stands before the last convolution, if anything does."""
    nodes = _Nodes()
    x = nodes.group_norm("features", norm)
    for _ in swish:
        x = nodes.swish(x)
    x = nodes.convolution(nodes.planes(x), convolution)
    bounded = nodes.add("Clip", x, nodes.number(-1), nodes.number(1))
    half = nodes.number(0.5)
    unit = nodes.add("Add", nodes.add("Mul", bounded, half), half)
    pixels = nodes.add("Round", nodes.add("Mul", unit, nodes.number(255)))
    pixels = nodes.add("Cast", nodes.add("Transpose", pixels, perm=_TO_CHANNELS_LAST), to=TensorProto.UINT8)
    nodes.results[pixels] = "image"
    return _graph(name, nodes, end_signature(convolution.in_channels))


def conversion(name: str) -> bytes:
    """`tile_narrow`, `tile_widen`: features to float16 and back."""
    signature = conversion_signature(name)
    nodes = _Nodes()
    kind = onnx_value(signature.outputs[0]).type.tensor_type.elem_type
    nodes.results[nodes.add("Cast", "features", to=kind)] = "result"
    return _graph(name, nodes, signature)


def _graph(name: str, nodes: _Nodes, signature: Signature) -> bytes:
    outputs = {spec.name: onnx_value(spec) for spec in signature.outputs}
    results = {result: outputs[output] for result, output in nodes.results.items()}
    return serialised(onnx_model(nodes.proto(name, [onnx_value(spec) for spec in signature.inputs], results)))
