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
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from glc.engines import onnx_messages as messages

_MAGIC = 1.5 * 2.0**23
"""Float32 has no fractions next to it, for 2^22 to either side."""
_BLOCK = 16
"""Channels of the largest block; convolutions whose channels fill no block stay out of the layout."""
_MOST_CHANNELS = 1 << 16
_SOURCES = ("Conv", "LeakyRelu", "Add", "Mul")
"""What exact graphs round."""


def rounding_in_blocks(graph: bytes) -> bytes:
    """Write each `Round` behind a clamp as two convolutions.

    Args:
        graph: a serialised ONNX graph of exact arithmetic (docs/exact-arithmetic.md).

    Returns:
        The graph edited; as it is where it cannot be read, for ONNX Runtime to say what is wrong.
    """
    try:
        fields = list(messages.fields(memoryview(graph)))
        whole = [field for field in fields if field.number == messages.GRAPH]
        if len(whole) != 1:
            return graph
        edited = messages.written(messages.GRAPH, _edited(whole[0].data))
    except (ValueError, IndexError):
        return graph
    return b"".join(edited if field.number == messages.GRAPH else field.whole for field in fields)


def _edited(graph: memoryview) -> bytes:
    fields = list(messages.fields(graph))
    nodes = [messages.node_of(place, field.data) for place, field in enumerate(fields) if field.number == messages.NODE]
    makers = {name: node for node in nodes for name in node.outputs}
    uses = Counter(name for node in nodes for name in node.inputs)
    stored = {
        messages.text(messages.only(f.data, messages.TENSOR_NAME)): f.data
        for f in fields
        if f.number == messages.INITIALIZER
    }
    channels = dict(
        messages.channels_of(field.data) for field in fields if field.number in (messages.OUTPUT, messages.VALUE)
    )
    # What a graph gives out is used once more.
    uses.update(messages.text(messages.only(field.data, 1)) for field in fields if field.number == messages.OUTPUT)

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
                messages.operation("Clip", (out, *clamp.inputs[1:]), [result]) if moves else b"",
            )
        )
    kept = [replaced.get(place, field.whole) for place, field in enumerate(fields)]
    return b"".join(itertools.chain(kept, (messages.tensor(name, values) for name, values in constants.items())))


def _shared(count: int) -> dict[str, NDArray[np.float32]]:
    """Constants of all rounding of so many channels."""
    return {
        f"glc.round.one.{count}": np.ones((count, 1, 1, 1), np.float32),
        f"glc.round.up.{count}": np.full(count, _MAGIC, np.float32),
        f"glc.round.down.{count}": np.full(count, -_MAGIC, np.float32),
    }


def _factor(
    node: messages.Node, stored: Mapping[str, memoryview], makers: Mapping[str, messages.Node], count: int
) -> NDArray[np.float32] | None:
    """Factor (C,) of a multiplication by a constant for each channel, a power of two; None where it is none."""
    values = messages.constant(node.inputs[1], stored, makers) if node.op == "Mul" else None
    if values is None or values.shape != (1, count, 1, 1) or (np.frexp(values)[0] != 0.5).any():
        return None
    return values.ravel()


def _convolution(x: str, weight: str, bias: str, output: str, channels: int) -> bytes:
    """Each channel by itself, 1x1: a node's field."""
    return messages.operation("Conv", (x, weight, bias), [output], group=channels)
