"""A float16 graph on a CPU without float16: float32 arithmetic, and every result rounded to what float16 holds.

That is what a GPU's tensor cores do, which multiply float16 and sum in float32. ONNX Runtime alone does not: it casts
around the nodes that it has no float16 kernel for, then takes out the casts between two of them, and so the rounding.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def emulated(graph: bytes) -> bytes:
    """Turn a serialised graph into one of the same inputs and outputs that rounds wherever the given one is float16."""
    model = onnx.load_model_from_string(graph)
    weights = {w.name for w in model.graph.initializer if w.data_type == _HALF}
    for weight in model.graph.initializer:
        if weight.name in weights:
            values = onnx.numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    half = set(weights)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        target = next((a.i for a in node.attribute if a.name == "to"), None) if node.op_type == "Cast" else None
        if target == _FLOAT and node.input[0] in half:
            nodes.append(onnx.helper.make_node("Identity", node.input, node.output))
        elif target == _HALF:
            half.update(node.output)
            nodes += _rounded(node.input[0], node.output[0])
        elif node.op_type not in ("Cast", "Shape") and node.input and node.input[0] in half:
            exact = onnx.NodeProto()
            exact.CopyFrom(node)
            for position, name in enumerate(node.output):
                exact.output[position] = f"{name}.exact"
            nodes.append(exact)
            for name in node.output:
                half.add(name)
                nodes += _rounded(f"{name}.exact", name)
        else:
            nodes.append(node)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.ClearField("node")
    made.graph.ClearField("value_info")
    made.graph.node.extend(nodes)
    data: bytes = made.SerializeToString()
    return data


def _rounded(source: str, name: str) -> list[onnx.NodeProto]:
    return [
        onnx.helper.make_node("Cast", [source], [f"{name}.half"], to=_HALF),
        onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=_FLOAT),
    ]
