"""ONNX graphs as serialised: protocol buffers read and written, as the runtime does without the onnx package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Numbers of fields in ONNX's protocol buffers.
GRAPH = 7
NODE, INITIALIZER, INPUT, OUTPUT, VALUE = 1, 5, 11, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 4, 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_INT32S, TENSOR_NAME, _TENSOR_RAW = 1, 2, 4, 5, 8, 9
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_BYTES, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = (
    1,
    2,
    3,
    4,
    8,
    20,
)
_IS_INT, _IS_INTS = 2, 7
FLOAT32, FLOAT16 = 1, 10
_UINT8, _INT8, _INT64 = 2, 3, 7
_TYPES: dict[int, type[np.generic]] = {
    FLOAT32: np.float32,
    FLOAT16: np.float16,
    _UINT8: np.uint8,
    _INT8: np.int8,
    _INT64: np.int64,
}
_VARINT, _BYTES = 0, 2


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message."""

    number: int
    data: memoryview
    """Its content; of a number of fixed size too, empty where it is a varint."""
    value: int
    """Its number; 0 where it is no varint."""
    whole: memoryview
    """With its key."""


@dataclass(frozen=True, slots=True)
class Node:
    """An operation, and the place of its field in the graph."""

    place: int
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    data: memoryview

    def attributes(self) -> dict[str, Any]:
        """Its attributes by name: numbers, bytes and lists of integers."""
        found: dict[str, Any] = {}
        for attribute in all_of(self.data, _NODE_ATTRIBUTE):
            about = list(fields(attribute))
            name = next((text(field.data) for field in about if field.number == _ATTRIBUTE_NAME), "")
            found[name] = _integers(about, _ATTRIBUTE_INTS)
            for field in about:
                if field.number == _ATTRIBUTE_FLOAT:
                    found[name] = np.frombuffer(field.data, np.float32).item()
                elif field.number == _ATTRIBUTE_INT:
                    found[name] = field.value
                elif field.number == _ATTRIBUTE_BYTES:
                    found[name] = bytes(field.data)
        return found


def fields(data: memoryview) -> Iterator[Field]:
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
                content = data[at : at + 8]
                at += 8
            case 2:
                size, at = _varint(data, at)
                content = data[at : at + size]
                at += size
            case 5:
                content = data[at : at + 4]
                at += 4
            case other:
                raise ValueError(f"a field of type {other}")
        if at > len(data):
            raise IndexError("the message ends within a field")
        yield Field(key >> 3, content, value, data[start:at])


def all_of(data: memoryview, number: int) -> Iterator[memoryview]:
    """Contents of all fields of a number."""
    return (field.data for field in fields(data) if field.number == number)


def only(data: memoryview, number: int) -> memoryview:
    """Content of the first field of a number; empty where there is none."""
    return next(all_of(data, number), memoryview(b""))


def text(data: memoryview) -> str:
    """A name."""
    return bytes(data).decode()


def node_of(place: int, data: memoryview) -> Node:
    """Read an operation."""
    inputs, outputs, op = [], [], ""
    for field in fields(data):
        if field.number == _NODE_INPUT:
            inputs.append(text(field.data))
        elif field.number == _NODE_OUTPUT:
            outputs.append(text(field.data))
        elif field.number == _NODE_OP:
            op = text(field.data)
    return Node(place, op, tuple(inputs), tuple(outputs), data)


def constant(name: str, stored: Mapping[str, memoryview], makers: Mapping[str, Node]) -> NDArray[Any] | None:
    """Values of a constant, in float32 where it is stored in 16 bits and cast; None where it cannot be read."""
    cast = makers.get(name)
    if cast is not None and cast.op == "Cast":
        name = cast.inputs[0]
    if name not in stored:
        return None
    tensor = list(fields(stored[name]))
    kind = next((field.value for field in tensor if field.number == _TENSOR_TYPE), 0)
    if kind not in _TYPES:
        return None
    values = _values(tensor, kind)
    shape = _integers(tensor, _TENSOR_DIMS)
    if values.size != np.prod(shape):
        return None
    return values.reshape(shape).astype(np.float32) if kind == FLOAT16 else values.reshape(shape)


def _values(tensor: Iterable[Field], kind: int) -> NDArray[Any]:
    """Values of a constant: as bytes, or as numbers of the protocol's own."""
    if kind == FLOAT32:
        raw = [field.data for field in tensor if field.number in (_TENSOR_RAW, _TENSOR_FLOATS)]
        return np.frombuffer(b"".join(raw), np.float32)
    raw = [field.data for field in tensor if field.number == _TENSOR_RAW]
    if raw or kind not in (_UINT8, _INT8):
        return np.frombuffer(b"".join(raw), _TYPES[kind])
    codes = _integers(tensor, _TENSOR_INT32S)  # the last eight bits, as negative ones have 64
    return np.array([code & 255 for code in codes], np.uint8).view(_TYPES[kind])


def convolution_attributes(convolution: Node) -> dict[str, Any]:
    """Attributes of a Conv on images, with the defaults of those that are not given."""
    about = {"group": 1, "pads": (), "strides": (1, 1), "dilations": (1, 1), "auto_pad": b"NOTSET"}
    about |= convolution.attributes()
    return about | {"pads": about["pads"] or (0, 0, 0, 0)}


def channels_of(value: memoryview) -> tuple[str, int]:
    """Name and number of channels of a value with four axes; 0 of any other, or where it is not known."""
    name, count = "", 0
    for field in fields(value):
        if field.number == 1:
            name = text(field.data)
        elif field.number == 2:  # its type -> of a tensor -> its shape -> axes -> size
            axes = [
                axis.data
                for tensor in all_of(field.data, 1)
                for shape in all_of(tensor, 2)
                for axis in fields(shape)
                if axis.number == 1
            ]
            if len(axes) == 4:
                count = next((size.value for size in fields(axes[1]) if size.number == 1), 0)
    return name, count


def written(number: int, data: bytes | str) -> bytes:
    """A field of bytes."""
    content = data.encode() if isinstance(data, str) else data
    return b"".join((_number(number << 3 | _BYTES), _number(len(content)), content))


def operation(op: str, inputs: Iterable[str], outputs: Iterable[str], **attributes: int | list[int]) -> bytes:
    """A node's field."""
    return written(
        NODE,
        b"".join(
            (
                *(written(_NODE_INPUT, name) for name in inputs),
                *(written(_NODE_OUTPUT, name) for name in outputs),
                written(_NODE_OP, op),
                *(written(_NODE_ATTRIBUTE, _attribute(name, value)) for name, value in attributes.items()),
            )
        ),
    )


def tensor(name: str, values: NDArray[np.float32] | NDArray[np.int64]) -> bytes:
    """A constant: an initializer's field."""
    dims = b"".join(_integer(_TENSOR_DIMS, size) for size in values.shape)
    kind = _integer(_TENSOR_TYPE, FLOAT32 if values.dtype == np.float32 else _INT64)
    return written(INITIALIZER, dims + kind + written(TENSOR_NAME, name) + written(_TENSOR_RAW, values.tobytes()))


def value(number: int, name: str, shape: Iterable[int | str], dtype: type[np.floating] = np.float32) -> bytes:
    """A value of this shape, sizes that are free by a name, float32 or float16: an input's or output's field."""
    axes = (_integer(1, size) if isinstance(size, int) else written(2, size) for size in shape)
    sizes = b"".join(written(1, axis) for axis in axes)
    kind = _integer(1, FLOAT32 if dtype == np.float32 else FLOAT16)
    return written(number, written(1, name) + written(2, written(1, kind + written(2, sizes))))


def _attribute(name: str, value: int | list[int]) -> bytes:
    if isinstance(value, int):
        return written(_ATTRIBUTE_NAME, name) + _integer(_ATTRIBUTE_INT, value) + _integer(_ATTRIBUTE_TYPE, _IS_INT)
    values = b"".join(_integer(_ATTRIBUTE_INTS, each) for each in value)
    return written(_ATTRIBUTE_NAME, name) + values + _integer(_ATTRIBUTE_TYPE, _IS_INTS)


def _integers(message: Iterable[Field], number: int) -> tuple[int, ...]:
    """All of a number, which may be written one by one or as one packed field."""
    found: list[int] = []
    for field in message:
        if field.number != number:
            continue
        if not field.data:
            found.append(field.value)
        at = 0
        while at < len(field.data):
            size, at = _varint(field.data, at)
            found.append(size)
    return tuple(found)


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


def _integer(number: int, value: int) -> bytes:
    return _number(number << 3 | _VARINT) + _number(value)
