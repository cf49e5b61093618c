"""Image graphs in float16 for engines that compute in the precision of the file, such as TensorRT's.

    float32 graph -> which nodes are computed in float16 -> casts where precision changes -> float16 graph

Between the first and the last convolution everything is float16, save for what loses by it: the statistics of
GroupNorm (inside of its node), softmax, and whatever stands before the first convolution (8-bit pixels, of which
float16 would be a sixteenth of a step off) or behind the last (the codebook search, whose candidates lie close
together; the rounding to 8 bits). Inputs and outputs keep their types.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference

from glc.errors import ExportError
from glc.export.group_norm import with_group_norms
from glc.export.onnx_graph import with_plain_weights

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16

KEPT_OPERATORS = frozenset({"InstanceNormalization", "Softmax"})
"""Computed in float32 wherever they stand: their sums run over thousands of elements."""

_NOT_DATA = {"Resize": (1, 2)}
"""Operator -> inputs that are float32 by its definition, whatever its data is."""


def half_precision(graph: bytes) -> bytes:
    """Convert a serialised float32 graph.

    Returns:
        A graph with the same inputs and outputs.

    Raises:
        ExportError: a weight is too large for float16, or the type of a tensor cannot be found.
    """
    model = _Conversion(with_group_norms(with_plain_weights(onnx.load_model_from_string(graph)))).model()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the graph in float16 is malformed: {error}") from error
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class _Conversion:
    """One float32 graph on its way to float16."""

    def __init__(self, source: onnx.ModelProto) -> None:
        self._source = source
        self._floats = _float_tensors(source)
        self._weights = {w.name: w for w in source.graph.initializer}
        self._half_nodes = self._chosen()
        self._half_tensors = {out for node in self._half_nodes.values() for out in node.output}
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[str, str] = {}
        """Name in the other precision -> the tensor that it is made of."""
        self._constants: dict[str, onnx.TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        for number, node in enumerate(self._source.graph.node):
            self._add(node, half=number in self._half_nodes)
        made = onnx.ModelProto()
        made.CopyFrom(self._source)
        graph = made.graph
        for field in ("node", "initializer", "value_info"):
            graph.ClearField(field)
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._constants.values())
        return made

    def _chosen(self) -> dict[int, onnx.NodeProto]:
        """Convolutions and what lies between them, by number; never what makes an output, which stays float32."""
        nodes = self._source.graph.node
        results = {value.name for value in self._source.graph.output}
        behind: set[str] = set()
        for node in nodes:
            if node.op_type == "Conv" or behind.intersection(node.input):
                behind.update(self._floats.intersection(node.output))
        before: set[str] = set()
        for node in reversed(nodes):
            if node.op_type == "Conv" or before.intersection(node.output):
                before.update(self._floats.intersection(node.input))
        return {
            number: node
            for number, node in enumerate(nodes)
            if not results.intersection(node.output)
            and node.op_type not in KEPT_OPERATORS
            and self._floats.intersection(node.output)
            and (node.op_type == "Conv" or (behind.intersection(node.input) and before.intersection(node.output)))
        }

    def _add(self, node: onnx.NodeProto, *, half: bool) -> None:
        fixed = _NOT_DATA.get(node.op_type, ())
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for position, name in enumerate(node.input):
            if name in self._floats:
                copy.input[position] = self._in_precision(name, half=half and position not in fixed)
            elif name in self._weights:
                self._constants[name] = self._weights[name]
        self._nodes.append(copy)

    def _in_precision(self, name: str, *, half: bool) -> str:
        """Name of a tensor in the precision that is wanted, made once."""
        if name in self._weights:
            return self._weight(name, half=half)
        if (name in self._half_tensors) == half:
            return name
        wanted = f"{name}.{'half' if half else 'float'}"
        if wanted not in self._made:
            self._made[wanted] = name
            kind = _HALF if half else _FLOAT
            self._nodes.append(onnx.helper.make_node("Cast", [name], [wanted], f"{wanted}.cast", to=kind))
        return wanted

    def _weight(self, name: str, *, half: bool) -> str:
        if not half:
            self._constants[name] = self._weights[name]
            return name
        wanted = f"{name}.half"
        if wanted not in self._constants:
            values = onnx.numpy_helper.to_array(self._weights[name])
            with np.errstate(over="ignore"):
                halves = values.astype(np.float16)
            if not np.isfinite(halves).all():
                raise ExportError(
                    f"{name} reaches {np.abs(values).max():.4g}, beyond float16's 65504: compile with --precision f32"
                )
            self._constants[wanted] = onnx.numpy_helper.from_array(halves, wanted)
        return wanted


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 tensors, weights included."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    for node in graph.node:
        for name in node.output:
            if name and not types.get(name):
                raise ExportError(f"the type of {name}, made by {node.op_type}, cannot be found")
    return {name for name, kind in types.items() if kind == _FLOAT}
