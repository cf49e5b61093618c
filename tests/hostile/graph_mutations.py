"""Seeded damage to ONNX graphs: bytes, or nodes, attributes, weights and signatures that are still a protobuf."""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx
from onnx import helper
from tests.hostile.member_mutations import mutated_bytes

Draw = random.Random

_OPERATORS = (
    *("Add", "Cast", "Concat", "ConstantOfShape", "Conv", "ConvTranspose", "DepthToSpace", "Div", "Einsum", "Expand"),
    *("Gather", "GatherND", "Identity", "If", "Loop", "MatMul", "Mod", "NonZero", "Pad", "Range", "Reshape", "Resize"),
    *("ScatterND", "Shape", "Slice", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze", "Where", "Nothing"),
)
_INTEGERS = (0, 1, -1, 2, 3, 7, 32, 1024, 1 << 20, 1 << 31, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63))
_NAMES = ("", "x" * 100_000, "\x1b[31m", "a\nb", "y_hat", "no such tensor")


def mutated_graph(content: bytes, draw: Draw) -> tuple[str, bytes]:
    """Name of the change, and the graph after 1 to 3 of it."""
    name = draw.choice(("bytes", "output", *_CHANGES))
    if name == "bytes":
        return name, mutated_bytes(content, draw)
    model = onnx.load_model_from_string(content)
    for _ in range(draw.choice((1, 1, 3)) if name != "output" else 1):
        _CHANGES[name](model, draw)
    return name, model.SerializeToString()


def _attribute(model: onnx.ModelProto, draw: Draw) -> None:
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    attribute = draw.choice(attributes)
    if draw.random() < 0.1:
        attribute.type = draw.choice((0, 1, 2, 3, 6, 7))
    if attribute.ints:
        attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(_INTEGERS)
        if draw.random() < 0.2:
            attribute.ints.extend(attribute.ints)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = draw.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = draw.choice((b"", b"SAME_UPPER", b"\xff\xfe", b"nearest"))
    else:
        attribute.i = draw.choice(_INTEGERS)


def _operator(model: onnx.ModelProto, draw: Draw) -> None:
    node = draw.choice(model.graph.node)
    node.op_type = draw.choice((*_OPERATORS, draw.choice(model.graph.node).op_type))
    if draw.random() < 0.1:
        node.domain = draw.choice(("com.microsoft", "ai.onnx.ml", "nowhere"))


def _wiring(model: onnx.ModelProto, draw: Draw) -> None:
    nodes = model.graph.node
    names = [name for node in nodes for name in node.output] + [weight.name for weight in model.graph.initializer]
    node = draw.choice([node for node in nodes if node.input])
    action = draw.randrange(4)
    if action == 0:
        nodes.remove(node)
    elif action == 1:
        node.output[0] = draw.choice((*_NAMES, draw.choice(names)))
    elif action == 2:
        node.input.append(draw.choice(names))
    else:
        node.input[draw.randrange(len(node.input))] = draw.choice((*_NAMES, draw.choice(names), draw.choice(names)))


def _weight(model: onnx.ModelProto, draw: Draw) -> None:
    weights = model.graph.initializer
    # Shapes, axes and paddings are small and of integers; they steer what the others do not.
    steering = [weight for weight in weights if weight.data_type == onnx.TensorProto.INT64]
    weight = draw.choice(steering if steering and draw.random() < 0.5 else weights)
    action = draw.randrange(6)
    if action == 0 and weight.dims:
        weight.dims[draw.randrange(len(weight.dims))] = draw.choice(_INTEGERS)
    elif action == 1:
        weight.data_type = draw.choice((0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 16, 99))
    elif action == 2:
        weight.raw_data = weight.raw_data[: draw.randrange(len(weight.raw_data) + 1)]
    elif action == 3:
        weight.data_location = onnx.TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", draw.choice(("/etc/passwd", "../manifest.json", "nowhere", "/dev/zero"))
    elif weight.data_type == onnx.TensorProto.INT64:
        at = 8 * draw.randrange(max(1, len(weight.raw_data) // 8))
        value = draw.choice(_INTEGERS).to_bytes(8, "little", signed=True)
        weight.raw_data = weight.raw_data[:at] + value + weight.raw_data[at + 8 :]
    else:
        weight.raw_data = mutated_bytes(weight.raw_data, draw) if weight.raw_data else b"\0"


def _signature(model: onnx.ModelProto, draw: Draw) -> None:
    values = [*model.graph.input, *model.graph.output]
    value = draw.choice(values)
    tensor = value.type.tensor_type
    action = draw.randrange(4)
    if action == 0:
        tensor.elem_type = draw.choice((0, 1, 2, 6, 7, 8, 11, 99))
    elif action == 1:
        value.name = draw.choice(_NAMES)
    elif action == 2 and tensor.shape.dim:
        tensor.shape.dim[draw.randrange(len(tensor.shape.dim))].dim_value = draw.choice(_INTEGERS)
    else:
        draw.choice((model.graph.input, model.graph.output)).append(draw.choice(values))


def _versions(model: onnx.ModelProto, draw: Draw) -> None:
    if draw.random() < 0.5:
        model.ir_version = draw.choice((0, 1, 3, 99, 1 << 40))
    else:
        model.opset_import[0].version = draw.choice((0, -1, 1, 7, 11, 99, 1 << 40))


def _output(model: onnx.ModelProto, draw: Draw) -> None:
    """Put an operation behind an output: another size than the right one, or values that are none."""
    name = draw.choice(model.graph.output).name
    was = f"{name} before"
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place in [place for place, used in enumerate(names) if used == name]:
                names[place] = was
    if draw.random() < 0.5:
        axis = draw.randrange(4)
        bounds = [
            (f"{name} start", draw.choice((0, 1))),
            (f"{name} end", draw.choice((0, 1, 3, 99))),
            (f"{name} axis", axis),
        ]
        operator = "Slice"
        weights = [helper.make_tensor(bound, onnx.TensorProto.INT64, [1], [value]) for bound, value in bounds]
    else:
        value = draw.choice((0.0, -1.0, 3e38, float("nan"), float("inf"), 0.5))
        operator = draw.choice(("Mul", "Add", "Pow"))
        weights = [helper.make_tensor(f"{name} factor", onnx.TensorProto.FLOAT, [], [value])]
    model.graph.initializer.extend(weights)
    model.graph.node.append(helper.make_node(operator, [was, *(weight.name for weight in weights)], [name]))


_CHANGES: dict[str, Callable[[onnx.ModelProto, Draw], None]] = {
    "attribute": _attribute,
    "operator": _operator,
    "wiring": _wiring,
    "weight": _weight,
    "signature": _signature,
    "versions": _versions,
    "output": _output,
}
