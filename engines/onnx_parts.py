"""A serialised ONNX graph by the names of its tensors, and parts of it between the chains that are cut out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glc.engines import onnx_messages as messages
from glc.engines.chained import GIVEN, TAKEN

_CHANNELS_LAST, _CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_SIZES_ALONE = "Shape"
"""Reads a tensor's size, not its data."""
_OUTPUT = "Output"
"""Stands for the operation, among readers of a tensor that the graph gives."""


@dataclass(frozen=True, slots=True)
class Seam:
    """Tensors (1, C, H, W) that a chain is given or gives; on its side they lie side by side, channels last."""

    channels: Mapping[str, int]
    """Of each tensor, by name."""
    dtype: type[np.floating] = np.float32
    """On the chain's side; float32 on the graph's."""


class OnnxGraph:
    """Operations of a graph, who makes tensors and who reads them."""

    def __init__(self, model: bytes) -> None:
        """Read a graph.

        Raises:
            ValueError, IndexError: it is not one.
        """
        self._model = list(messages.fields(memoryview(model)))
        (graph,) = (field.data for field in self._model if field.number == messages.GRAPH)
        self._fields = list(messages.fields(graph))
        self.nodes = [
            messages.node_of(n, field.data) for n, field in enumerate(self._fields) if field.number == messages.NODE
        ]
        self._makers = {name: node for node in self.nodes for name in node.outputs}
        self._stored = {
            messages.text(messages.only(data, messages.TENSOR_NAME)): data for data in self._all(messages.INITIALIZER)
        }
        self.outputs = [messages.text(messages.only(data, 1)) for data in self._all(messages.OUTPUT)]
        self._sums = {frozenset(node.inputs): node.outputs[0] for node in self.nodes if node.op == "Add"}
        self._readers: dict[str, list[str]] = {name: [_OUTPUT] for name in self.outputs}
        for node in self.nodes:
            for name in node.inputs if node.op != _SIZES_ALONE else ():
                self._readers.setdefault(name, []).append(node.op)

    def maker(self, name: str, op: str, inputs: int) -> messages.Node | None:
        """The operation that gives a tensor, if it is this one and takes so many."""
        node = self._makers.get(name)
        return node if node is not None and node.op == op and len(node.inputs) == inputs else None

    def readers(self, name: str) -> list[str]:
        """Names of the operations that take the data of a tensor, not its size alone."""
        return self._readers.get(name, [])

    def constant(self, name: str) -> NDArray[Any] | None:
        """Values of a tensor, if it is a constant."""
        return messages.constant(name, self._stored, self._makers)

    def with_constant(self, name: str, op: str) -> tuple[str, NDArray[Any]] | None:
        """The other operand of an operation on a constant, and that."""
        node = self.maker(name, op, 2)
        for value, other in () if node is None else (node.inputs, node.inputs[::-1]):
            values = self.constant(other)
            if values is not None:
                return value, values
        return None

    def sum_of(self, name: str, other: str) -> str | None:
        """The sum of two tensors, where the graph has it."""
        return self._sums.get(frozenset((name, other)))

    def reached(self, ends: Iterable[str], known: Iterable[str]) -> set[str]:
        """All tensors that lead to some; not beyond those known."""
        return self._needed(ends, set(known))[1]

    def part(self, taken: Seam | None, given: Seam | None) -> bytes:
        """A model of those operations alone that lead from one chain to the next.

        Args:
            taken: what the chain before gave, as input `TAKEN`; None where there is none.
            given: the one tensor that the chain behind takes, as output `GIVEN`; None for what the graph gives.
        """
        ends = self.outputs if given is None else list(given.channels)
        known = set() if taken is None else set(taken.channels)
        start = b"" if taken is None else _taking(taken)
        if given is None:
            end = b"".join(field.whole for field in self._fields if field.number == messages.OUTPUT)
        else:
            end = _giving(given)
        needed, reached = self._needed(ends, known)
        names = {messages.INPUT: 1, messages.INITIALIZER: messages.TENSOR_NAME, messages.VALUE: 1}
        kept: list[bytes | memoryview] = []
        for place, field in enumerate(self._fields):
            if field.number in names:
                if messages.text(messages.only(field.data, names[field.number])) in reached - known:
                    kept.append(field.whole)
            elif field.number != messages.OUTPUT and (field.number != messages.NODE or place in needed):
                kept.append(field.whole)
        graph = messages.written(messages.GRAPH, b"".join(itertools.chain([start], kept, [end])))
        return b"".join(graph if field.number == messages.GRAPH else field.whole for field in self._model)

    def _needed(self, ends: Iterable[str], known: set[str]) -> tuple[set[int], set[str]]:
        """Places of the operations that lead to some tensors, and all tensors on the way; not beyond those known."""
        places: set[int] = set()
        reached: set[str] = set()
        waiting = list(ends)
        while waiting:
            name = waiting.pop()
            if name in reached:
                continue
            reached.add(name)
            node = None if name in known else self._makers.get(name)
            if node is not None:
                places.add(node.place)
                waiting += node.inputs
        return places, reached

    def _all(self, number: int) -> Iterable[memoryview]:
        return (field.data for field in self._fields if field.number == number)


def _taking(seam: Seam) -> bytes:
    """Fields that make a seam's tensors out of `TAKEN`."""
    names, sizes = list(seam.channels), list(seam.channels.values())
    is_narrow, is_one = seam.dtype != np.float32, len(names) == 1
    wide = f"{TAKEN}/wide" if is_narrow else TAKEN
    fields = [messages.operation("Cast", [TAKEN], [wide], to=messages.FLOAT32)] if is_narrow else []
    turned = names if is_one else [f"{TAKEN}/turned"]
    fields.append(messages.operation("Transpose", [wide], turned, perm=_CHANNELS_FIRST))
    if not is_one:
        fields.append(messages.operation("Split", [*turned, f"{TAKEN}/sizes"], names, axis=1))
        fields.append(messages.tensor(f"{TAKEN}/sizes", np.array(sizes, np.int64)))
    fields.append(messages.value(messages.INPUT, TAKEN, (1, "height", "width", sum(sizes)), seam.dtype))
    return b"".join(fields)


def _giving(seam: Seam) -> bytes:
    """Fields that make `GIVEN` out of a seam's one tensor."""
    ((name, channels),) = seam.channels.items()
    is_narrow = seam.dtype != np.float32
    turned = f"{GIVEN}/turned" if is_narrow else GIVEN
    fields = [messages.operation("Transpose", [name], [turned], perm=_CHANNELS_LAST)]
    if is_narrow:
        fields.append(messages.operation("Cast", [turned], [GIVEN], to=messages.FLOAT16))
    fields.append(messages.value(messages.OUTPUT, GIVEN, (1, "height", "width", channels), seam.dtype))
    return b"".join(fields)
