"""What torch's operations are in ONNX: one small function for each that GLC's networks are made of."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glc.errors import ExportError
from glc.export.graph_nodes import GraphNodes

KINDS = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.uint8: onnx.TensorProto.UINT8,
    torch.int32: onnx.TensorProto.INT32,
    torch.int64: onnx.TensorProto.INT64,
}
"""Types of tensors within a graph."""

_LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """A tensor of the graph, or a size that is known when it runs: an int64 tensor of one element."""

    name: str
    examples: tuple[Any, ...]
    """Tensors without data, or ints, of several calls whose free axes differ in size."""

    @property
    def tensor(self) -> Tensor:
        """The first example."""
        if not isinstance(self.examples[0], Tensor):
            raise ExportError(f"{self.name} is a size; expected a tensor")
        return self.examples[0]

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """Of each axis; None where it is free."""
        return tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in self.axes)

    @property
    def axes(self) -> tuple[tuple[int, ...], ...]:
        """Of each axis its size in every example."""
        return tuple(zip(*(tuple(example.shape) for example in self.examples), strict=True))


class TracedNodes(GraphNodes):
    """Nodes that follow a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(dict(module.named_parameters(remove_duplicate=False)))
        self.padded: dict[str, tuple[Traced, tuple[int, int, int, int]]] = {}
        """Name of what zeros were put around -> of what, and how many (left, right, top, bottom)."""

    def operand(self, value: Traced | Tensor | float, dtype: torch.dtype) -> str:
        """What an operation takes: a result, a weight, or a number of the type of the other operand."""
        if isinstance(value, Traced):
            return value.name
        if isinstance(value, Tensor):
            return self.weight(value)
        return self.constant(torch.tensor(value, dtype=dtype).numpy())

    def sizes(self, *values: Traced | int) -> str:
        """Sizes as one int64 tensor."""
        if all(isinstance(value, int) for value in values):
            return self.integers(*values)  # type: ignore[arg-type] # ints, as was asked
        names = [value.name if isinstance(value, Traced) else self.integers(value) for value in values]
        return names[0] if len(names) == 1 else self.add("Concat", *names, axis=0)

    def scalar(self, value: Traced | int) -> str:
        """A size without axes."""
        return (
            self.add("Squeeze", value.name, self.integers(0))
            if isinstance(value, Traced)
            else self.constant(np.array(value, np.int64))
        )


_Operand = Traced | Tensor | float


def _binary(kind: str) -> Callable[[TracedNodes, _Operand, _Operand], str]:
    def add(nodes: TracedNodes, a: _Operand, b: _Operand) -> str:
        first = next(one for one in (a, b) if isinstance(one, Traced))
        if not isinstance(first.examples[0], Tensor):
            return nodes.add(kind, *(nodes.sizes(one) for one in (a, b)))  # type: ignore[arg-type] # sizes, as the other
        return nodes.add(kind, *(nodes.operand(one, first.tensor.dtype) for one in (a, b)))

    return add


def _whole_division(nodes: TracedNodes, a: Traced | int, b: Traced | int) -> str:
    """Of sizes, which are not negative: ONNX divides towards zero."""
    if any(isinstance(one, Traced) and isinstance(one.examples[0], Tensor) for one in (a, b)):
        raise TypeError("a tensor; expected sizes")
    return nodes.add("Div", nodes.sizes(a), nodes.sizes(b))


def _unary(kind: str) -> Callable[[TracedNodes, Traced], str]:
    return lambda nodes, x: nodes.add(kind, x.name)


def _convolution(
    nodes: TracedNodes,
    x: Traced,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    groups: int = 1,
) -> str:
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    pads = [rows, columns, rows, columns]
    if x.name in nodes.padded:
        x, (left, right, top, bottom) = nodes.padded[x.name]
        pads = [rows + top, columns + left, rows + bottom, columns + right]
    return nodes.add(
        "Conv",
        x.name,
        nodes.weight(weight),
        *(() if bias is None else (nodes.weight(bias),)),
        kernel_shape=list(weight.shape[2:]),
        strides=[stride, stride] if isinstance(stride, int) else list(stride),
        pads=pads,
        group=groups,
    )


def _conv2d_module(nodes: TracedNodes, module: nn.Conv2d, x: Traced) -> str:
    if isinstance(module.padding, str) or module.padding_mode != "zeros" or set(module.dilation) != {1}:
        raise ExportError(f"{module} has no known form in ONNX")
    return _convolution(nodes, x, module.weight, module.bias, module.stride, module.padding, module.groups)


def _group_norm_module(nodes: TracedNodes, module: nn.GroupNorm, x: Traced) -> str:
    """Statistics of groups by InstanceNormalization; GroupNormalization of opset 21 was half as accurate (`OPSET`)."""
    ones, zeros = (np.full(module.num_groups, value, np.float32) for value in (1, 0))
    groups = nodes.add("Reshape", x.name, nodes.sizes(0, module.num_groups, -1))
    normed = nodes.add("InstanceNormalization", groups, nodes.constant(ones), nodes.constant(zeros), epsilon=module.eps)
    whole = nodes.add("Reshape", normed, nodes.add("Shape", x.name))
    scale, shift = (nodes.constant(w.detach().numpy().reshape(-1, 1, 1)) for w in (module.weight, module.bias))
    return nodes.add("Add", nodes.add("Mul", whole, scale), shift)


def _swish(nodes: TracedNodes, x: Traced) -> str:
    return nodes.add("Mul", x.name, nodes.add("Sigmoid", x.name))


def _leaky_relu(nodes: TracedNodes, x: Traced, negative_slope: float = 0.01) -> str:
    return nodes.add("LeakyRelu", x.name, alpha=negative_slope)


def _clamp(nodes: TracedNodes, x: Traced, min: Any = None, max: Any = None) -> str:  # noqa: A002 - torch's names
    def bound(value: Traced | float | None) -> str:
        if value is None:
            return ""
        return nodes.scalar(value) if isinstance(value, Traced) else nodes.operand(value, x.tensor.dtype)

    return nodes.add("Clip", x.name, bound(min), *(() if max is None else (bound(max),)))


def _cast(nodes: TracedNodes, x: Traced, dtype: torch.dtype) -> str:
    return x.name if x.tensor.dtype == dtype else nodes.add("Cast", x.name, to=KINDS[dtype])


def _permute(nodes: TracedNodes, x: Traced, *axes: int) -> str:
    return nodes.add("Transpose", x.name, perm=list(axes))


def _transpose(nodes: TracedNodes, x: Traced, a: int, b: int) -> str:
    axes = list(range(x.tensor.ndim))
    axes[a], axes[b] = axes[b], axes[a]
    return nodes.add("Transpose", x.name, perm=axes)


def _reshape(nodes: TracedNodes, x: Traced, *sizes: Traced | int) -> str:
    return nodes.add("Reshape", x.name, nodes.sizes(*sizes))


def _slice(nodes: TracedNodes, x: Traced, places: tuple[slice, ...]) -> str:
    name = x.name
    for axis, place in enumerate(places):
        if not isinstance(place, slice):
            raise ExportError(f"index {place!r} has no known form in ONNX")
        if place == slice(None):
            continue
        first, end = (
            default if given is None else given for given, default in ((place.start, 0), (place.stop, _LARGEST))
        )
        name = nodes.add("Slice", name, *(nodes.sizes(n) for n in (first, end, axis, place.step or 1)))
    return name


def _chunk(nodes: TracedNodes, x: Traced, chunks: int, dim: int) -> tuple[str, ...]:
    return nodes.add_several("Split", x.name, results=chunks, axis=dim, num_outputs=chunks)


def _cat(nodes: TracedNodes, parts: Sequence[Traced], dim: int) -> str:
    return nodes.add("Concat", *(part.name for part in parts), axis=dim)


def _pad(nodes: TracedNodes, x: Traced, pads: tuple[Traced | int, ...]) -> str:
    left, right, top, bottom = pads
    name = nodes.add("Pad", x.name, nodes.sizes(0, 0, top, left, 0, 0, bottom, right))
    if all(isinstance(pad, int) for pad in pads):
        nodes.padded[name] = x, (left, right, top, bottom)  # type: ignore[assignment] # ints, as was asked
    return name


def _interpolate(nodes: TracedNodes, x: Traced, scale_factor: float) -> str:
    scales = nodes.constant(np.array([1, 1, scale_factor, scale_factor], np.float32))
    return nodes.add(
        "Resize",
        x.name,
        "",
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _arange(nodes: TracedNodes, end: Traced) -> str:
    return nodes.add("Range", nodes.scalar(0), nodes.scalar(end), nodes.scalar(1))


def _index_select(nodes: TracedNodes, x: Traced, dim: int, index: Traced) -> str:
    return nodes.add("Gather", x.name, index.name, axis=dim)


def _embedding(nodes: TracedNodes, indices: Traced, weight: Tensor) -> str:
    return nodes.add("Gather", nodes.weight(weight), indices.name, axis=0)


def _ones_like(nodes: TracedNodes, x: Traced) -> str:
    return nodes.add("Expand", nodes.operand(1, x.tensor.dtype), nodes.add("Shape", x.name))


def _minimum(nodes: TracedNodes, a: Traced | int, b: Traced | int) -> str:
    return nodes.add("Min", nodes.sizes(a), nodes.sizes(b))


OPERATIONS: dict[Any, Callable[..., str | tuple[str, ...]]] = {
    # Numbers and tensors.
    operator.add: _binary("Add"),
    operator.sub: _binary("Sub"),
    operator.mul: _binary("Mul"),
    operator.truediv: _binary("Div"),
    operator.floordiv: _whole_division,
    operator.matmul: _binary("MatMul"),
    operator.getitem: _slice,
    torch.sym_min: _minimum,
    torch.arange: _arange,
    # Element by element.
    torch.log: _unary("Log"),
    torch.round: _unary("Round"),
    "round": _unary("Round"),
    "clamp": _clamp,
    "to": _cast,
    F.silu: _swish,
    F.leaky_relu: _leaky_relu,
    nn.SiLU: lambda nodes, _, x: _swish(nodes, x),
    nn.LeakyReLU: lambda nodes, module, x: _leaky_relu(nodes, x, module.negative_slope),
    torch.ones_like: _ones_like,
    # Places.
    "permute": _permute,
    "transpose": _transpose,
    "reshape": _reshape,
    "contiguous": lambda _, x: x.name,
    "squeeze": lambda nodes, x, axis: nodes.add("Squeeze", x.name, nodes.sizes(axis)),
    "chunk": _chunk,
    "index_select": _index_select,
    torch.cat: _cat,
    F.pad: _pad,
    F.interpolate: _interpolate,
    F.pixel_shuffle: lambda nodes, x, factor: nodes.add("DepthToSpace", x.name, blocksize=factor, mode="CRD"),
    nn.PixelShuffle: lambda nodes, module, x: nodes.add(
        "DepthToSpace", x.name, blocksize=module.upscale_factor, mode="CRD"
    ),
    # Networks.
    nn.Conv2d: _conv2d_module,
    F.conv2d: _convolution,
    nn.GroupNorm: _group_norm_module,
    nn.Embedding: lambda nodes, module, indices: _embedding(nodes, indices, module.weight),
    F.embedding: _embedding,
    torch.softmax: lambda nodes, x, dim: nodes.add("Softmax", x.name, axis=dim),
    "argmin": lambda nodes, x, dim: nodes.add("ArgMin", x.name, axis=dim, keepdims=0),
}
"""Function, method's name or kind of module -> what adds its nodes, with the arguments that torch takes."""
