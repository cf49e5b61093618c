"""Exact graphs with their rounding in a form that ONNX Runtime's CPU provider keeps in its blocked layout.

The provider convolves in a layout by blocks of channels, which it leaves for every `Round` and enters anew behind it. A
convolution of each channel by itself stays within. Two of them round: adding 1.5 * 2^23 in float32 rounds to an
integer, ties to even, and subtracting it gives that integer. It holds wherever the result is below 2^22, and what is
larger is clamped. Results are the same to the last bit, but for the sign of zero.

Other engines must not see this form: products of fewer bits than float32's, as TF32's, would not round the same.
Graphs are edited as serialised, since the runtime does without the onnx package.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MAGIC = 1.5 * 2.0**23
"""Float32 has no fractions next to it, for 2^22 to either side."""
_BLOCK = 16
"""Channels of the largest block; convolutions whose channels fill no block stay out of the layout."""
_MOST_CHANNELS = 1 << 16
_SOURCES = ("Conv", "LeakyRelu", "Add", "Mul")
"""What exact graphs round."""

# Numbers of fields in ONNX's protocol buffers.
_GRAPH = 7
_NODE, _INITIALIZER, _OUTPUT, _VALUE = 1, 5, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 4, 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_FLOAT32, _FLOAT16 = 1, 10
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TYPE = 1, 3, 20
_ATTRIBUTE_IS_INT = 2
_VARINT, _BYTES = 0, 2


def rounding_in_blocks(graph: bytes) -> bytes:
    """Write each `Round` behind a clamp as two convolutions.

    Args:
        graph: a serialised ONNX graph of exact arithmetic (docs/exact-arithmetic.md).

    Returns:
        The graph edited; as it is where it cannot be read, for ONNX Runtime to say what is wrong.
    """
    try:
        fields = list(_fields(memoryview(graph)))
        whole = [field for field in fields if field.number == _GRAPH]
        if len(whole) != 1:
            return graph
        edited = _field(_GRAPH, _edited(whole[0].data))
    except (ValueError, IndexError):
        return graph
    return b"".join(edited if field.number == _GRAPH else field.whole for field in fields)


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message."""

    number: int
    data: memoryview
    """Its content; empty where it is a number."""
    value: int
    """Its number; 0 where it is not one."""
    whole: memoryview
    """With its key."""


@dataclass(frozen=True, slots=True)
class _Node:
    """An operation, and the place of its field in the graph."""

    place: int
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def _edited(graph: memoryview) -> bytes:
    fields = list(_fields(graph))
    nodes = [_node(place, field.data) for place, field in enumerate(fields) if field.number == _NODE]
    makers = {name: node for node in nodes for name in node.outputs}
    uses = Counter(name for node in nodes for name in node.inputs)
    stored = {_text(_only(f.data, _TENSOR_NAME)): f.data for f in fields if f.number == _INITIALIZER}
    channels = dict(_channels(field.data) for field in fields if field.number in (_OUTPUT, _VALUE))
    # What a graph gives out is used once more.
    uses.update(_text(_only(field.data, 1)) for field in fields if field.number == _OUTPUT)

    replaced: dict[int, bytes] = {}
    constants: dict[str, NDArray[np.float32]] = {}
    for node in nodes:
        clamp = makers.get(node.inputs[0]) if node.op == "Round" else None
        source = makers.get(clamp.inputs[0]) if clamp is not None and clamp.op == "Clip" else None
        count = channels.get(node.outputs[0], 0) if node.outputs else 0
        if clamp is None or source is None or source.op not in _SOURCES:
            continue
        if count % _BLOCK or not 0 < count <= _MOST_CHANNELS:
            continue
        result = node.outputs[0]
        x, out = node.inputs[0], result
        scale, name = np.ones(count, np.float32), f"glc.round.one.{count}"
        moves = source.op != "Conv" and uses[clamp.outputs[0]] == 1
        if moves:  # only a convolution takes the clamp in, so that it goes behind the second one
            x, out = clamp.inputs[0], f"{result}/glc.rounded"
            replaced[clamp.place] = b""
            factor = _factor(source, stored, makers, count)
            if factor is not None and uses[x] == 1:
                x, scale, name = source.inputs[0], factor, f"{result}/glc.factor"
                replaced[source.place] = b""
        whole = f"{result}/glc.shifted"
        constants[name] = scale.reshape(-1, 1, 1, 1)
        constants |= _shared(count)
        replaced[node.place] = b"".join(
            (
                _convolution(x, name, f"glc.round.up.{count}", whole, count),
                _convolution(whole, f"glc.round.one.{count}", f"glc.round.down.{count}", out, count),
                _field(_NODE, _operation("Clip", (out, *clamp.inputs[1:]), result)) if moves else b"",
            )
        )
    kept = [replaced.get(place, field.whole) for place, field in enumerate(fields)]
    return b"".join(itertools.chain(kept, (_tensor(name, values) for name, values in constants.items())))


def _shared(count: int) -> dict[str, NDArray[np.float32]]:
    """Constants of all rounding of so many channels."""
    return {
        f"glc.round.one.{count}": np.ones((count, 1, 1, 1), np.float32),
        f"glc.round.up.{count}": np.full(count, _MAGIC, np.float32),
        f"glc.round.down.{count}": np.full(count, -_MAGIC, np.float32),
    }


def _factor(
    node: _Node, stored: Mapping[str, memoryview], makers: Mapping[str, _Node], count: int
) -> NDArray[np.float32] | None:
    """Factor (C,) of a multiplication by a constant for each channel, a power of two; None where it is none."""
    if node.op != "Mul":
        return None
    name = node.inputs[1]
    cast = makers.get(name)
    if cast is not None and cast.op == "Cast":  # of a constant that is stored in 16 bits
        name = cast.inputs[0]
    if name not in stored:
        return None
    tensor = list(_fields(stored[name]))
    kind = next((f.value for f in tensor if f.number == _TENSOR_TYPE), 0)
    raw = next((f.data for f in tensor if f.number == _TENSOR_RAW), None)
    if raw is None or kind not in (_FLOAT32, _FLOAT16):
        return None
    values = np.frombuffer(raw, np.float32 if kind == _FLOAT32 else np.float16).astype(np.float32)
    shape = _shape_of(tensor)
    if shape != (1, count, 1, 1) or len(values) != count or (np.frexp(values)[0] != 0.5).any():
        return None
    return values


def _shape_of(tensor: Iterable[_Field]) -> tuple[int, ...]:
    """Sizes of a tensor, which may be written one by one or as one packed field."""
    sizes: list[int] = []
    for field in tensor:
        if field.number != _TENSOR_DIMS:
            continue
        if not field.data:
            sizes.append(field.value)
        at = 0
        while at < len(field.data):
            size, at = _varint(field.data, at)
            sizes.append(size)
    return tuple(sizes)


def _node(place: int, data: memoryview) -> _Node:
    inputs, outputs, op = [], [], ""
    for field in _fields(data):
        if field.number == _NODE_INPUT:
            inputs.append(_text(field.data))
        elif field.number == _NODE_OUTPUT:
            outputs.append(_text(field.data))
        elif field.number == _NODE_OP:
            op = _text(field.data)
    return _Node(place, op, tuple(inputs), tuple(outputs))


def _channels(value: memoryview) -> tuple[str, int]:
    """Name and number of channels of a value with four axes; 0 of any other, or where it is not known."""
    name, count = "", 0
    for field in _fields(value):
        if field.number == 1:
            name = _text(field.data)
        elif field.number == 2:  # its type -> of a tensor -> its shape -> axes -> size
            axes = [
                axis.data
                for tensor in _all(field.data, 1)
                for shape in _all(tensor, 2)
                for axis in _fields(shape)
                if axis.number == 1
            ]
            if len(axes) == 4:
                count = next((size.value for size in _fields(axes[1]) if size.number == 1), 0)
    return name, count


def _all(data: memoryview, number: int) -> Iterator[memoryview]:
    return (field.data for field in _fields(data) if field.number == number)


def _only(data: memoryview, number: int) -> memoryview:
    return next(_all(data, number), memoryview(b""))


def _text(data: memoryview) -> str:
    return bytes(data).decode()


def _fields(data: memoryview) -> Iterator[_Field]:
    """Fields of a message, in order.

    Raises:
        IndexError: it ends within one.
        ValueError: a type that ONNX does not use.
    """
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        content, value = data[:0], 0
        match key & 7:
            case 0:
                value, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(data, at)
                content = data[at : at + size]
                at += size
            case 5:
                at += 4
            case other:
                raise ValueError(f"a field of type {other}")
        if at > len(data):
            raise IndexError("the message ends within a field")
        yield _Field(key >> 3, content, value, data[start:at])


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, data: bytes | str) -> bytes:
    content = data.encode() if isinstance(data, str) else data
    return b"".join((_number(number << 3 | _BYTES), _number(len(content)), content))


def _integer(number: int, value: int) -> bytes:
    return _number(number << 3 | _VARINT) + _number(value)


def _operation(op: str, inputs: Iterable[str], output: str, attributes: bytes = b"") -> bytes:
    return b"".join(
        (
            *(_field(_NODE_INPUT, name) for name in inputs),
            _field(_NODE_OUTPUT, output),
            _field(_NODE_OP, op),
            attributes,
        )
    )


def _convolution(x: str, weight: str, bias: str, output: str, channels: int) -> bytes:
    """Each channel by itself, 1x1: a node's field."""
    group = _field(_ATTRIBUTE_NAME, "group") + _integer(_ATTRIBUTE_INT, channels)
    group += _integer(_ATTRIBUTE_TYPE, _ATTRIBUTE_IS_INT)
    return _field(_NODE, _operation("Conv", (x, weight, bias), output, _field(_NODE_ATTRIBUTE, group)))


def _tensor(name: str, values: NDArray[np.float32]) -> bytes:
    """A constant: an initializer's field."""
    dims = b"".join(_integer(_TENSOR_DIMS, size) for size in values.shape)
    kind = _integer(_TENSOR_TYPE, _FLOAT32)
    return _field(_INITIALIZER, dims + kind + _field(_TENSOR_NAME, name) + _field(_TENSOR_RAW, values.tobytes()))
