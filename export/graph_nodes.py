"""Nodes and weights of an ONNX graph that is being built: every method gives the name of what it adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor


class GraphNodes:
    """Equal nodes and equal constants are there once."""

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Begin without any.

        Args:
            weights: tensors that keep these names.
        """
        self._weight_names = {id(weight): name for name, weight in (weights or {}).items()}
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[tuple[Any, ...], tuple[str, ...]] = {}
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._constants: dict[tuple[Any, ...], str] = {}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node with one result."""
        return self.add_several(kind, *inputs, results=1, **attributes)[0]

    def add_several(self, kind: str, *inputs: str, results: int, **attributes: Any) -> tuple[str, ...]:
        """A node with several results."""
        key = (kind, inputs, results, tuple((name, str(value)) for name, value in sorted(attributes.items())))
        if key not in self._made:
            name = f"{kind.lower()}_{len(self._nodes)}"
            names = (name,) if results == 1 else tuple(f"{name}_{number}" for number in range(results))
            self._nodes.append(helper.make_node(kind, list(inputs), list(names), name, **attributes))
            self._made[key] = names
        return self._made[key]

    def constant(self, values: NDArray[Any]) -> str:
        """Numbers without a name of their own."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            self._constants[key] = self._initializer(f"constant_{len(self._constants)}", values)
        return self._constants[key]

    def weight(self, values: Tensor) -> str:
        """A tensor, under its name if it has one."""
        name = self._weight_names.get(id(values))
        if name is None:
            return self.constant(values.detach().numpy())
        return name if name in self._initializers else self._initializer(name, values.detach().numpy())

    def integers(self, *values: int) -> str:
        """An int64 tensor, for sizes and axes."""
        return self.constant(np.array(values, np.int64))

    def _initializer(self, name: str, values: NDArray[Any]) -> str:
        self._initializers[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def proto(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Mapping[str, onnx.ValueInfoProto],
        between: Sequence[onnx.ValueInfoProto] = (),
    ) -> onnx.GraphProto:
        """What the outputs need, under their names.

        Args:
            name: of the graph.
            inputs: of the graph.
            outputs: name of a result -> the output that it becomes.
            between: what is known of results; of those that are not needed nothing is kept.
        """
        names = {result: output.name for result, output in outputs.items()}
        needed = set(outputs)
        nodes: list[onnx.NodeProto] = []
        for node in reversed(self._nodes):
            if needed.isdisjoint(node.output):
                continue
            needed.update(node.input)
            for field in (node.input, node.output):
                field[:] = [names.get(value, value) for value in field]
            nodes.append(node)
        weights = [weight for weight in self._initializers.values() if weight.name in needed]
        known = [value for value in between if value.name in needed and value.name not in names]
        return helper.make_graph(nodes[::-1], name, inputs, list(outputs.values()), weights, value_info=known)
