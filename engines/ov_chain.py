"""The longest row of convolutions in an image graph of OpenVINO, cut out of it for `conv_chain`.

    graph --> before (image, padding), Convolution ..., behind (attention, transform coding)

What is looked for: residual blocks of GroupNorm, swish and 3x3 convolutions, and single convolutions between them, each
a whole with its bias. What the row gives and what it takes are one tensor each.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from glc.engines.conv_chain import Convolution, GroupNorm, Kind
from glc.engines.ov_constants import constant_behind
from glc.engines.ov_group_norm import found_group_norm
from glc.engines.ov_readers import readers
from glc.engines.ov_upsampling import is_doubling

_MULTIPLE = 32
"""Of the channels within a row."""
_MOST_FIRST = 3
_LEAST_COLUMNS = 16

GIVEN = "chain_given"
"""Output of what stands before, (1, H, W, C) float32."""
TAKEN = "chain_taken"
"""Input of what stands behind, (1, h, w, O) float32."""


@dataclass(frozen=True, slots=True, eq=False)
class CutGraph:
    """A graph in three."""

    before: openvino.Model
    convolutions: tuple[Convolution, ...]
    behind: openvino.Model


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A convolution with its bias and what stands before it; tensors are outputs of nodes."""

    kind: Kind
    source: Any
    result: Any
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    norm: GroupNorm | None


def cut(model: openvino.Model) -> CutGraph | None:
    """Cut the row with the most convolutions out.

    Args:
        model: as OpenVINO reads it, not rewritten; not to be used afterwards.

    Returns:
        None where no two convolutions follow each other so.
    """
    by_source: dict[tuple[str, int], list[_Found]] = defaultdict(list)
    norms = {
        _key(found.last.output(0)): found
        for node in model.get_ordered_ops()
        if node.get_type_name() == "MVN" and (found := found_group_norm(node)) is not None
    }
    for node in model.get_ordered_ops():
        convolution = _convolution(node, norms) if node.get_type_name() == "Convolution" else None
        if convolution is not None:
            by_source[_key(convolution.source)].append(convolution)
    rows = [_row(convolutions[0].source, by_source) for convolutions in by_source.values()]
    row = max(rows, key=lambda row: len(row.convolutions), default=None)
    if row is None or len(row.convolutions) < 2:
        return None
    return _split(model, row)


class _Row:
    """Convolutions from a tensor on, with numbers for the tensors between."""

    def __init__(self, given: Any) -> None:
        self.given = self.result = given
        self.convolutions: list[Convolution] = []
        self._number, self._level = 0, 0
        self._made = 0
        self._free: dict[tuple[int, int], list[int]] = defaultdict(list)

    def single(self, found: _Found) -> None:
        """Go on by one convolution."""
        level = self._level + {Kind.DOWN: 1, Kind.UP: -1}.get(found.kind, 0)
        target = self._take(level, len(found.weights))
        self.convolutions.append(_link(found, self._number, target))
        self._leave(found.weights.shape[1])
        self._number, self._level, self.result = target, level, found.result

    def block(self, first: _Found, second: _Found, shortcut: _Found | None, result: Any) -> None:
        """Go on by a residual block."""
        source, channels = self._number, len(second.weights)
        between = self._take(self._level, len(first.weights))
        self.convolutions.append(_link(first, source, between))
        residual = target = source
        if shortcut is not None:
            residual = target = self._take(self._level, channels)
            self.convolutions.append(_link(shortcut, source, target))
        elif source == 0:  # what is given is not written to
            target = self._take(self._level, channels)
        self.convolutions.append(replace(_link(second, between, target), residual=residual))
        self._free[self._level, len(first.weights)].append(between)
        if target != source:
            self._leave(first.weights.shape[1])
        self._number, self.result = target, result

    def _take(self, level: int, channels: int) -> int:
        free = self._free[level, channels]
        if free:
            return free.pop()
        self._made += 1
        return self._made

    def _leave(self, channels: int) -> None:
        if self._number != 0:
            self._free[self._level, channels].append(self._number)


def _row(given: Any, by_source: dict[tuple[str, int], list[_Found]]) -> _Row:
    """Follow the only way from a tensor as far as it is known."""
    row = _Row(given)
    while True:
        here, ends = by_source.get(_key(row.result), []), readers(row.result)
        if row.convolutions and row.result.get_partial_shape()[1].get_length() % _MULTIPLE:
            return row
        if len(here) == 1 and len(ends) == 1:
            row.single(here[0])
            continue
        block = _block(row.result, here, by_source) if len(ends) == 2 else None
        if block is None:
            return row
        row.block(*block)


def _block(
    given: Any, here: list[_Found], by_source: dict[tuple[str, int], list[_Found]]
) -> tuple[_Found, _Found, _Found | None, Any] | None:
    """The residual block behind a tensor: its convolutions, that of its shortcut, its result."""
    branches = [found for found in here if found.kind == Kind.DENSE and found.norm is not None]
    shortcuts = [found for found in here if found.kind == Kind.POINT and found.norm is None]
    if len(branches) != 1 or len(branches) + len(shortcuts) != len(here):
        return None
    first = branches[0]
    behind = by_source.get(_key(first.result), [])
    if len(behind) != 1 or len(readers(first.result)) != 1 or behind[0].kind != Kind.DENSE:
        return None
    second = behind[0]
    ends = readers(second.result)
    if len(ends) != 1 or ends[0].get_node().get_type_name() != "Add":
        return None
    total = ends[0].get_node()
    operands = {_key(value) for value in total.input_values()}
    identity = shortcuts[0].result if shortcuts else given
    if operands != {_key(second.result), _key(identity)} or (shortcuts and len(readers(identity)) != 1):
        return None
    return first, second, shortcuts[0] if shortcuts else None, total.output(0)


def _convolution(node: Any, norms: dict[tuple[str, int], Any]) -> _Found | None:
    weights, ends = constant_behind(node.input_value(1)), readers(node.output(0))
    if weights is None or len(ends) != 1 or ends[0].get_node().get_type_name() != "Add":
        return None
    added = ends[0].get_node()
    biases = [found for found in map(constant_behind, added.input_values()) if found is not None]
    outputs, inputs = weights.shape[:2]
    if len(biases) != 1 or biases[0].size != outputs or (outputs % _LEAST_COLUMNS and outputs >= _LEAST_COLUMNS):
        return None
    kind, source = _kind(node, weights)
    if kind is None or (inputs % _MULTIPLE and kind != Kind.FIRST):
        return None
    source, norm = (source, None) if kind in (Kind.UP, Kind.DOWN) else _normalised(source, norms)
    return _Found(kind, source, added.output(0), weights.astype(np.float32), biases[0].astype(np.float32).ravel(), norm)


def _kind(node: Any, weights: NDArray[Any]) -> tuple[Kind | None, Any]:
    """Kind of a convolution, and the tensor that it takes, before it is padded or repeated."""
    kind, source = node.get_attributes(), node.input_value(0)
    form = (weights.shape[2:], kind["strides"], kind["pads_begin"], kind["pads_end"])
    if kind["dilations"] != [1, 1] or kind["auto_pad"] != "explicit":
        return None, source
    if form == ((1, 1), [1, 1], [0, 0], [0, 0]):
        return Kind.POINT, source
    if form == ((3, 3), [2, 2], [0, 0], [1, 1]):
        return Kind.DOWN, source
    if form == ((3, 3), [2, 2], [0, 0], [0, 0]) and _pads_behind(source.get_node()):
        return Kind.DOWN, source.get_node().input_value(0)
    if form != ((3, 3), [1, 1], [1, 1], [1, 1]):
        return None, source
    if is_doubling(source.get_node()):
        return Kind.UP, source.get_node().input_value(0)
    return (Kind.FIRST if weights.shape[1] <= _MOST_FIRST else Kind.DENSE), source


def _pads_behind(node: Any) -> bool:
    """Whether a node adds one row of zeros below and one column to the right of (N, C, h, w)."""
    if node.get_type_name() != "Pad" or node.get_attributes()["pad_mode"] != "constant":
        return False
    bounds = [constant_behind(value) for value in node.input_values()[1:]]
    if any(bound is None for bound in bounds):
        return False
    begin, end, *value = ([] if bound is None else bound.ravel().tolist() for bound in bounds)
    return (begin, end) == ([0, 0, 0, 0], [0, 0, 1, 1]) and not any(map(any, value))


def _normalised(source: Any, norms: dict[tuple[str, int], Any]) -> tuple[Any, GroupNorm | None]:
    """What stands before a GroupNorm and swish, and these; the tensor itself where there is no GroupNorm."""
    node, normed = source.get_node(), source
    if node.get_type_name() == "Multiply":
        for value, other in (node.input_values(), reversed(node.input_values())):
            gate = other.get_node()
            if gate.get_type_name() == "Sigmoid" and _key(gate.input_value(0)) == _key(value):
                normed = value
    found = norms.get(_key(normed))
    # Nothing else may read what is no longer computed.
    expected = 1 if normed is source else 2
    if found is None or len(readers(normed)) != expected or len(readers(source)) != 1:
        return source, None
    swish = normed is not source
    return found.x, GroupNorm(found.groups, found.epsilon, found.scale, found.shift, swish)


def _link(found: _Found, source: int, target: int) -> Convolution:
    return Convolution(found.kind, source, target, found.weights, found.bias, found.norm)


def _key(tensor: Any) -> tuple[str, int]:
    return tensor.get_node().get_friendly_name(), tensor.get_index()


def _split(model: openvino.Model, row: _Row) -> CutGraph:
    channels_last, channels_first = (ops.constant(np.array(order, np.int64)) for order in ((0, 2, 3, 1), (0, 3, 1, 2)))
    parameters = model.get_parameters()
    given = ops.result(ops.transpose(row.given, channels_last))
    given.output(0).set_names({GIVEN})
    before = openvino.Model([given], _needed(parameters, [given]), "before")
    channels = row.result.get_partial_shape()[1].get_length()
    taken = ops.parameter(openvino.PartialShape([1, -1, -1, channels]), np.float32, TAKEN)
    taken.output(0).set_names({TAKEN})
    turned = ops.transpose(taken, channels_first)
    for end in row.result.get_target_inputs():
        end.replace_source_output(turned.output(0))
    results = model.get_results()
    behind = openvino.Model(results, _needed([*parameters, taken], results), "behind")
    return CutGraph(before, tuple(row.convolutions), behind)


def _needed(parameters: list[Any], ends: list[Any]) -> list[Any]:
    """Those inputs of a graph that results depend on."""
    seen: set[str] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in seen:
            seen.add(node.get_friendly_name())
            waiting += [value.get_node() for value in node.input_values()]
    return [parameter for parameter in parameters if parameter.get_friendly_name() in seen]
