"""Torch module -> ONNX bytes with free height and width, and proof that no size was frozen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import torch
from torch import Tensor, nn

from glc.engines.protocol import TensorSpec
from glc.errors import ExportError, FrozenShape
from glc.export.onnx_forms import Traced
from glc.export.traced_graph import TracedGraph

OPSET = 20
"""GroupNorm becomes InstanceNormalization here; as opset 21's GroupNormalization it was half as accurate in ORT."""

_IR_VERSION = 10

_SMALLEST_HALF = 256
"""Smaller weights are not worth a node."""

_DTYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.FLOAT16: "float16",
}


@dataclass(frozen=True, slots=True)
class GraphInput:
    """One input of a graph, by an example."""

    name: str
    example: Tensor
    free_axes: tuple[int, ...] = ()
    """Axes that must accept any size."""


def to_onnx(module: nn.Module, inputs: Sequence[GraphInput], outputs: Sequence[str]) -> bytes:
    """Trace a module and write it as one self-contained ONNX file.

    Args:
        module: in evaluation mode.
        inputs: in the order of the module's arguments.
        outputs: names of the module's results, in order.

    Returns:
        The serialised graph.

    Raises:
        FrozenShape: an axis that was asked to be free is a constant in the graph.
        ExportError: it cannot be traced, or does what no ONNX form is known of.
    """
    graph = TracedGraph(module)
    given = [_traced(one) for one in inputs]
    results = graph.run(given)
    if len({value.name for value in (*given, *results)}) < len(given) + len(results):
        raise ExportError(f"{type(module).__name__} gives a tensor twice, or one that it takes")
    data = serialised(onnx_model(graph.proto(given, dict(zip(outputs, results, strict=True)))))
    require_free_axes(data, inputs)
    return data


def onnx_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """A graph with the versions that are written here."""
    opset = onnx.helper.make_opsetid("", OPSET)
    model: onnx.ModelProto = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    return model


def serialised(model: onnx.ModelProto) -> bytes:
    """A graph as it is written to a file: weights in 16 bits where that loses nothing, no notes of its making.

    Args:
        model: changed in place.
    """
    _store_in_half(model.graph)
    return _without_origins(model)


def with_plain_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Undo the storage in 16 bits of `serialised`: weights behind a cast become float32 weights of its name.

    Args:
        model: changed in place, and returned.
    """
    graph = model.graph
    stored = {w.name: w for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT16}
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:
            weight = stored[node.input[0]]
            values = onnx.numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, node.output[0]))
        else:
            nodes.append(node)
    graph.ClearField("node")
    graph.node.extend(nodes)
    return model


def onnx_value(spec: TensorSpec) -> onnx.ValueInfoProto:
    """A value whose free axes bear names; equal names would promise equal sizes, of which there are none to promise."""
    axes = [f"{spec.name}_{axis}" if size is None else size for axis, size in enumerate(spec.shape)]
    kind = next(kind for kind, dtype in _DTYPES.items() if dtype == spec.dtype)
    return onnx.helper.make_tensor_value_info(spec.name, kind, axes)


def tensor_specs(data: bytes) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a serialised graph.

    Raises:
        ExportError: a data type that engines do not exchange.
    """
    graph = onnx.load_model_from_string(data).graph
    return tuple(map(_spec, graph.input)), tuple(map(_spec, graph.output))


def weight_count(data: bytes) -> int:
    """Number of floating-point weights of a serialised graph, whatever the type that they are stored in."""
    stored = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    initializers = onnx.load_model_from_string(data).graph.initializer
    return sum(math.prod(w.dims) for w in initializers if w.data_type in stored)


def _store_in_half(graph: onnx.GraphProto) -> None:
    """Store in 16 bits, followed by a cast, every weight that loses nothing by it.

    A checkpoint in float16 then takes half of the space. Engines fold the cast when they load the graph.
    """
    casts = []
    for weight in graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or math.prod(weight.dims) < _SMALLEST_HALF:
            continue
        values = onnx.numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = weight.name
        weight.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [weight.name], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _without_origins(model: onnx.ModelProto) -> bytes:
    """Serialise without notes of those who made it: they may hold paths of the machine."""
    for item in (model, model.graph, *model.graph.node, *model.graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    if tensor.elem_type not in _DTYPES:
        raise ExportError(f"{value.name} has ONNX data type {tensor.elem_type}; expected one of {_DTYPES}")
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return TensorSpec(value.name, _DTYPES[tensor.elem_type], shape)


def require_free_axes(data: bytes, inputs: Sequence[GraphInput]) -> None:
    """Check a graph against what was asked.

    Raises:
        FrozenShape: an axis that was asked to be free is a constant, or no output depends on any.
    """
    specs, results = tensor_specs(data)
    for spec, asked in zip(specs, inputs, strict=True):
        for axis in asked.free_axes:
            if spec.shape[axis] is not None:
                raise FrozenShape(
                    f"input {spec.name}: axis {axis} was fixed at {spec.shape[axis]}; expected a free axis"
                )
    if any(i.free_axes for i in inputs):
        for spec in results:
            if all(isinstance(size, int) for size in spec.shape):
                raise FrozenShape(f"output {spec.name} has the fixed shape {list(spec.shape)}; expected free axes")


def _traced(given: GraphInput) -> Traced:
    """The example without data, and others with smaller and larger free axes."""
    whole = given.example.to("meta")
    examples = []
    for changes in _EXAMPLES:
        sizes = list(whole.shape)
        for axis, change in zip(given.free_axes, changes, strict=False):
            sizes[axis] = change(sizes[axis])
        examples.append(torch.empty(sizes, dtype=whole.dtype, device="meta"))
    return Traced(given.name, tuple(examples))


def _halved(size: int) -> int:
    """As often a multiple of 2 and 4 as the size."""
    multiple = math.gcd(size, 4)
    return max(size // 2 // multiple, 1) * multiple


def _kept(size: int) -> int:
    return size


def _more(size: int) -> int:
    return size + 4


_EXAMPLES = ((_kept, _kept), (_halved, _halved), (_kept, _halved), (_halved, _kept), (_more, _more))
"""Height and width of the examples that a module is followed with: what two sizes have in common is no accident."""
