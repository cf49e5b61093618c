"""Torch module -> ONNX graph, by torch.fx.

A trace holds no sizes. What a module does with `x.shape` becomes nodes, so that no example can freeze it; examples of
several sizes, without data, tell types, which axes are always of one size, and which always of the same.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
import torch.fx
from onnx import helper
from torch import Tensor, nn

from glc.errors import ExportError
from glc.export.onnx_forms import KINDS, OPERATIONS, Traced, TracedNodes
from glc.runtime.messages import one_line


class TracedGraph:
    """A module on its way to a graph."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._nodes = TracedNodes(module)
        self._calls = 0
        self._results: dict[str, Traced] = {}
        self._size_names: dict[tuple[int, ...], str] = {}

    def run(self, inputs: Sequence[Traced]) -> tuple[Traced, ...]:
        """Follow the module.

        Raises:
            ExportError: it cannot be traced, or does something that has no function here.
        """
        try:
            trace = torch.fx.Tracer().trace(self._module)
        except (torch.fx.proxy.TraceError, TypeError) as error:
            raise ExportError(f"{type(self._module).__name__} cannot be traced: {one_line(error)}") from error
        self._calls = len(inputs[0].examples)
        values: dict[torch.fx.Node, Any] = {}
        given = iter(inputs)
        for node in trace.nodes:
            if node.op == "placeholder":
                values[node] = next(given)
                continue
            arguments, keywords = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "output":
                results = arguments[0]
                return results if isinstance(results, tuple) else (results,)
            if node.op == "get_attr":
                values[node] = operator.attrgetter(node.target)(self._module)
                continue
            function = self._module.get_submodule(node.target) if node.op == "call_module" else node.target
            values[node] = self._call(function, arguments, keywords)
        raise ExportError(f"{type(self._module).__name__} gives nothing")

    def _call(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Compute now what depends on no input; else add nodes."""
        if function is operator.getitem and isinstance(arguments[0], tuple):
            return arguments[0][arguments[1]]
        if not _depends((arguments, keywords)):
            return _plain(function)(*arguments, **keywords)
        if function is getattr:
            return self._attribute(*arguments)
        module = (function,) if isinstance(function, nn.Module) else ()
        key = type(function) if module else function
        where = f"{type(self._module).__name__}: {_told(function)}"
        if key not in OPERATIONS:
            raise ExportError(f"{where} has no known form in ONNX")
        try:
            examples = tuple(_example(function, arguments, keywords, n) for n in range(self._calls))
            names = OPERATIONS[key](self._nodes, *module, *arguments, **_without_defaults(function, keywords))
        except (TypeError, RuntimeError) as error:  # arguments that have no form here; sizes that torch refuses
            raise ExportError(f"{where} cannot be exported: {one_line(error)}") from error
        if isinstance(names, str):
            return self._result(names, examples)
        return tuple(self._result(name, pair) for name, pair in zip(names, zip(*examples, strict=True), strict=True))

    def _result(self, name: str, examples: tuple[Any, ...]) -> Traced:
        self._results[name] = Traced(name, examples)
        return self._results[name]

    def _attribute(self, x: Traced, name: str) -> Any:
        if name == "dtype":
            return x.tensor.dtype
        if name != "shape":
            raise ExportError(f"{type(self._module).__name__}: a tensor's {name} has no known form in ONNX")
        return tuple(self._size(x, axis) if size is None else size for axis, size in enumerate(x.sizes))

    def _size(self, x: Traced, axis: int) -> Traced:
        name = self._nodes.add("Shape", x.name, start=axis, end=axis + 1)
        return Traced(name, tuple(example.shape[axis] for example in x.examples))

    def proto(self, inputs: Sequence[Traced], outputs: Mapping[str, Traced]) -> onnx.GraphProto:
        """The graph, which states type and sizes of every tensor that torch has, too.

        Args:
            inputs: that it was run with.
            outputs: name -> result.
        """
        between = [self._info(value) for value in self._results.values() if isinstance(value.examples[0], Tensor)]
        given = [self._info(value) for value in inputs]
        results = {value.name: self._info(value, name) for name, value in outputs.items()}
        return self._nodes.proto(type(self._module).__name__, given, results, between)

    def _info(self, value: Traced, name: str | None = None) -> onnx.ValueInfoProto:
        """Free sizes that are equal in all examples bear one name: ONNX Runtime adds more in one go for it."""
        sizes = [size or self._named_size(axis) for size, axis in zip(value.sizes, value.axes, strict=True)]
        return helper.make_tensor_value_info(name or value.name, KINDS[value.tensor.dtype], sizes)

    def _named_size(self, sizes: tuple[int, ...]) -> str:
        return self._size_names.setdefault(sizes, f"size_{len(self._size_names)}")


def _mapped(values: Any, change: Callable[[Any], Any]) -> Any:
    """Arguments as they are nested, each changed."""
    if isinstance(values, tuple | list):
        return type(values)(_mapped(value, change) for value in values)
    if isinstance(values, dict):
        return {name: _mapped(value, change) for name, value in values.items()}
    if isinstance(values, slice):
        return slice(*(_mapped(value, change) for value in (values.start, values.stop, values.step)))
    return change(values)


def _depends(values: Any) -> bool:
    found: list[Any] = []
    _mapped(values, found.append)
    return any(isinstance(value, Traced) for value in found)


def _plain(function: Any) -> Callable[..., Any]:
    """The torch function of a method's name, too."""
    return getattr(Tensor, function) if isinstance(function, str) else function  # type: ignore[no-any-return]


def _example(function: Any, arguments: Any, keywords: Any, number: int) -> Any:
    """What torch gives for an example, without data."""

    def taken(value: Any) -> Any:
        if isinstance(value, Traced):
            return value.examples[number]
        return value.to("meta") if isinstance(value, Tensor) else value

    arguments, keywords = _mapped((arguments, keywords), taken)
    if isinstance(function, nn.Module):
        weights = {name: weight.to("meta") for name, weight in function.named_parameters()}
        result = torch.func.functional_call(function, weights, arguments, keywords)
    else:
        result = _plain(function)(*arguments, **keywords)
    if isinstance(result, tuple | list):
        return tuple(result)
    return result.to("meta") if isinstance(result, Tensor) else result


def _without_defaults(function: Any, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Of torch.nn.functional a trace states every argument."""
    if not inspect.isfunction(function):
        return dict(keywords)
    parameters = inspect.signature(function).parameters
    return {
        name: value
        for name, value in keywords.items()
        if isinstance(value, Traced | Tensor) or name not in parameters or parameters[name].default != value
    }


def _told(function: Any) -> str:
    if isinstance(function, nn.Module):
        return type(function).__name__
    return str(getattr(function, "__name__", function))
