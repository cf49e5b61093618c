"""FLOPs and bytes of a bundle's graphs at one image size, counted in the ONNX graphs themselves.

    graph, shapes of its inputs -> shape of every tensor -> cost of every node -> GraphCost

Graphs have free sizes, so every shape is found node by node: what follows from sizes alone is computed, as an engine
does when it loads a graph for fixed sizes, and handed to ONNX's shape inference with each node that needs it. A node
whose shape cannot be found, or whose operator is not listed here, raises: nothing is left out silently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference
from onnx.reference import ReferenceEvaluator

from glc.errors import BundleError, GlcError
from glc.export.onnx_graph import weight_count
from glc.runtime.bundle import Bundle
from glc.runtime.manifest import CodecConfig, GraphEntry
from glc.runtime.signatures import signatures

DENSE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators of multiply-adds, which count as two FLOPs each; adding the bias is not counted."""

_VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators that only rename what lies in memory."""

_PICKS = frozenset({"Gather", "Slice"})
"""Operators that read of their first input no more than they write."""

_MOVES = frozenset(
    {"Cast", "Concat", "DepthToSpace", "Expand", "Pad", "Resize", "SpaceToDepth", "Split", "Tile", "Transpose", "Where"}
)
"""Other operators that copy and compute nothing."""

_ELEMENTWISE = frozenset(
    {
        *("Abs", "Add", "Ceil", "Clip", "Div", "Erf", "Exp", "Floor", "Gelu", "LeakyRelu", "Log", "Max", "Min", "Mul"),
        *("Neg", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sqrt", "Sub", "Tanh"),
        *("GroupNormalization", "InstanceNormalization", "LayerNormalization", "Softmax"),
        *("ArgMax", "ArgMin", "ReduceMax", "ReduceMean", "ReduceSum"),
    }
)
"""Operators that count one FLOP an element of their input or output, whichever has more."""

_OPERATORS = DENSE | _VIEWS | _PICKS | _MOVES | _ELEMENTWISE

_MOST_VALUES = 64
"""Tensors with more elements tell no shapes; their values are not followed."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What some nodes cost."""

    nodes: int = 0
    dense_flops: int = 0
    """Of convolutions and matrix products, a multiply-add counted as two."""
    elementwise_flops: int = 0
    """Of everything else that computes, one an element."""
    weight_bytes: int = 0
    """Weights and other floating-point constants that are read."""
    unfused_bytes: int = 0
    """Activations read and written if every node but a view stood alone."""
    fused_bytes: int = 0
    """Activations read and written if only convolutions and matrix products went to memory: each reads its inputs
    and writes its output once. What follows one of them, normalisation included, is computed on the way; where it
    joins the result of another (a residual connection), that is read too."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.nodes + other.nodes,
            self.dense_flops + other.dense_flops,
            self.elementwise_flops + other.elementwise_flops,
            self.weight_bytes + other.weight_bytes,
            self.unfused_bytes + other.unfused_bytes,
            self.fused_bytes + other.fused_bytes,
        )


@dataclass(frozen=True, slots=True)
class GraphCost:
    """What one run of a graph costs."""

    kinds: Mapping[str, Cost]
    """ONNX operator -> cost of its nodes. Nodes that depend on weights and sizes alone cost nothing."""
    total: Cost
    parameters: int
    """Floating-point weights of the graph."""
    float_bytes: int
    """Bytes of a floating-point number that the byte counts assume."""


def bundle_cost(
    bundle: Bundle, height: int, width: int, float_bytes: Mapping[str, int] | None = None
) -> dict[str, GraphCost]:
    """Cost of every network of a bundle for one image.

    Args:
        bundle: exact or float.
        height: of the image in pixels, before padding.
        width: likewise.
        float_bytes: graph -> bytes of a floating-point number in it; 4 where none is named.

    Raises:
        BundleError: a graph cannot be read or counted.
        ValueError: a size is not positive.
    """
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1; got {height}x{width}")
    costs: dict[str, GraphCost] = {}
    for name in signatures(bundle.manifest.config.latent_channels):
        entry, content = bundle.graph(name)
        try:
            sizes = input_sizes(entry, bundle.manifest.config, height, width)
            costs[name] = graph_cost(content, sizes, (float_bytes or {}).get(name, 4))
        except GlcError as error:
            raise BundleError(f"{bundle.path}: {entry.file.name}: {error}") from error
    return costs


def input_sizes(entry: GraphEntry, config: CodecConfig, height: int, width: int) -> dict[str, Shape]:
    """Shapes of a graph's inputs for an image of height x width pixels.

    Raises:
        BundleError: an input that no graph of a bundle has.
    """
    multiple = 4 * config.downsampling
    cells = (math.ceil(height / multiple), math.ceil(width / multiple))
    latent = (4 * cells[0], 4 * cells[1])
    free = {"image": (height, width), "z_indices": cells, "y_hat": latent, "context": latent, "q_row": ()}
    sizes = {}
    for spec in entry.inputs:
        if spec.name not in free or spec.shape.count(None) != len(free[spec.name]):
            raise BundleError(f"no size is known for input {spec}; expected one of {', '.join(free)}")
        values = iter(free[spec.name])
        sizes[spec.name] = tuple(next(values) if n is None else n for n in spec.shape)
    return sizes


def graph_cost(graph: bytes, sizes: Mapping[str, Shape], float_bytes: int = 4) -> GraphCost:
    """Count the operations and the memory traffic of one run.

    Args:
        graph: a serialised ONNX model.
        sizes: input -> its shape.
        float_bytes: bytes of every floating-point number, 2 for half precision; other types have their own.

    Raises:
        BundleError: an operator is not known here, or the shape of a node's output cannot be found.
        ValueError: sizes are not those of the graph's inputs.
    """
    model = onnx.load_model_from_string(graph)
    tensors = _Tensors(model, sizes, float_bytes)
    fusion = _Fusion(sizes)
    kinds: dict[str, Cost] = {}
    for number, node in enumerate(model.graph.node):
        active = fusion.active(node)
        known = node.op_type in _OPERATORS and not node.domain
        if (active and not known) or any(a.HasField("g") or a.graphs for a in node.attribute):
            raise BundleError(f"operator {node.domain or 'ai.onnx'}.{node.op_type} is not known to the cost count")
        tensors.infer(node)
        if active:
            through_memory = fusion.add(number, node, active)
            cost = _node_cost(node, active, tensors, sum(map(tensors.size_bytes, through_memory)))
            kinds[node.op_type] = kinds.get(node.op_type, Cost()) + cost
    return GraphCost(kinds, sum(kinds.values(), Cost()), weight_count(graph), float_bytes)


def _node_cost(node: onnx.NodeProto, active: list[str], tensors: _Tensors, fused_bytes: int) -> Cost:
    elements = max(math.prod(tensors.shape(name)) for name in (active[0], node.output[0]))
    written = sum(map(tensors.size_bytes, filter(None, node.output)))
    read = {name: tensors.size_bytes(name) for name in node.input if name}
    if node.op_type in _PICKS:
        read[node.input[0]] = min(read[node.input[0]], written)
    return Cost(
        nodes=1,
        dense_flops=_dense_flops(node, tensors) if node.op_type in DENSE else 0,
        elementwise_flops=elements if node.op_type in _ELEMENTWISE else 0,
        weight_bytes=sum(size for name, size in read.items() if name not in active and tensors.is_float(name)),
        unfused_bytes=0 if node.op_type in _VIEWS else sum(read[name] for name in active) + written,
        fused_bytes=fused_bytes,
    )


def _dense_flops(node: onnx.NodeProto, tensors: _Tensors) -> int:
    output, first = tensors.shape(node.output[0]), tensors.shape(node.input[0])
    match node.op_type:
        case "Conv":
            return 2 * math.prod(output) * math.prod(tensors.shape(node.input[1])[1:])
        case "ConvTranspose":
            return 2 * math.prod(first) * math.prod(tensors.shape(node.input[1])[1:])
        case "Gemm":
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            return 2 * math.prod(output) * first[0 if transposed else 1]
        case _:
            return 2 * math.prod(output) * first[-1]


class _Fusion:
    """Which tensors go through memory where all that follows a dense node is computed together with it."""

    def __init__(self, inputs: Iterable[str]) -> None:
        # The dense node that a tensor is computed with, by its number; -1 before the first one. What depends on
        # weights and sizes alone is not in it.
        self._group = dict.fromkeys(inputs, -1)
        self._read: dict[int, set[str]] = {}

    def active(self, node: onnx.NodeProto) -> list[str]:
        """Inputs that are computed in every run; none where an engine computes the node when it loads the graph."""
        if node.op_type == "Shape":
            return []
        return [name for name in dict.fromkeys(node.input) if name in self._group]

    def add(self, number: int, node: onnx.NodeProto, active: list[str]) -> list[str]:
        """Tensors that a node reads or writes, and that no node of its group has read before."""
        written = [name for name in node.output if name]
        if node.op_type in DENSE:
            self._group.update(dict.fromkeys(written, number))
            self._read[number] = set(active)
            return [*active, *written]
        group = max(self._group[name] for name in active)
        self._group.update(dict.fromkeys(written, group))
        if group < 0:
            return []  # part of how the first dense node reads its input
        joined = [name for name in active if self._group[name] != group and name not in self._read[group]]
        self._read[group].update(joined)
        return joined


class _Tensors:
    """Types and shapes of a graph's tensors, and the values of those that are small and follow from sizes alone."""

    def __init__(self, model: onnx.ModelProto, sizes: Mapping[str, Shape], float_bytes: int) -> None:
        self._model = model
        self._float_bytes = float_bytes
        self._opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self._types: dict[str, onnx.TypeProto] = {}
        self._values: dict[str, onnx.TensorProto] = {}
        given = {value.name: value.type.tensor_type for value in model.graph.input}
        if given.keys() != sizes.keys():
            raise ValueError(f"expected sizes of the inputs {sorted(given)}; got {sorted(sizes)}")
        for name, kind in given.items():
            fixed = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
            size = sizes[name]
            if len(fixed) != len(size) or any(a not in (None, b) for a, b in zip(fixed, size, strict=True)):
                raise ValueError(f"input {name} has the shape {fixed}; got {list(size)}")
            self._types[name] = onnx.helper.make_tensor_type_proto(kind.elem_type, size)
        for weight in model.graph.initializer:
            self._set(weight)

    def shape(self, name: str) -> Shape:
        return tuple(d.dim_value for d in self._types[name].tensor_type.shape.dim)

    def is_float(self, name: str) -> bool:
        return bool(np.issubdtype(self._dtype(name), np.floating))

    def size_bytes(self, name: str) -> int:
        item = self._float_bytes if self.is_float(name) else self._dtype(name).itemsize
        return math.prod(self.shape(name)) * item

    def infer(self, node: onnx.NodeProto) -> None:
        """Find the types of a node's outputs.

        Raises:
            BundleError: a shape does not follow from what is known.
        """
        names = [name for name in node.input if name]
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset, node.domain)
            types = onnx.shape_inference.infer_node_outputs(
                schema,
                node,
                {name: self._types[name] for name in names},
                {name: self._values[name] for name in names if name in self._values},
                opset_imports=list(self._model.opset_import),
                ir_version=self._model.ir_version,
            )
        except (onnx.shape_inference.InferenceError, onnx.defs.SchemaError) as error:
            raise BundleError(f"the shape of {node.op_type} {node.name} cannot be found: {error}") from error
        for name in filter(None, node.output):
            if name not in types or not _is_known(types[name]):
                raise BundleError(f"the shape of {name}, which {node.op_type} {node.name} makes, cannot be found")
            self._types[name] = types[name]
        self._follow_values(node, names)

    def _follow_values(self, node: onnx.NodeProto, names: list[str]) -> None:
        if any(math.prod(self.shape(name)) > _MOST_VALUES for name in node.output if name):
            return
        if node.op_type == "Shape":
            bounds = {a.name: a.i for a in node.attribute}
            dims = self.shape(node.input[0])[bounds.get("start", 0) : bounds.get("end")]
            self._set(onnx.numpy_helper.from_array(np.asarray(dims, np.int64), node.output[0]))
        elif all(name in self._values for name in names):
            feeds = {name: onnx.numpy_helper.to_array(self._values[name]) for name in names}
            for name, array in zip(node.output, ReferenceEvaluator(node).run(None, feeds), strict=True):
                self._set(onnx.numpy_helper.from_array(np.asarray(array), name))

    def _set(self, value: onnx.TensorProto) -> None:
        self._types[value.name] = onnx.helper.make_tensor_type_proto(value.data_type, value.dims)
        if math.prod(value.dims) <= _MOST_VALUES:
            self._values[value.name] = value

    def _dtype(self, name: str) -> np.dtype[np.generic]:
        dtype: np.dtype[np.generic] = onnx.helper.tensor_dtype_to_np_dtype(self._types[name].tensor_type.elem_type)
        return dtype


def _is_known(kind: onnx.TypeProto) -> bool:
    tensor = kind.tensor_type
    return tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)
