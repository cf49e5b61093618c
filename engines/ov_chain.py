"""Rows of convolutions in an image graph of OpenVINO, cut out of it for `conv_chain`.

    graph --> model (image, padding), chain, model (attention), chain ..., model (transform coding)

What is looked for: residual blocks of GroupNorm, swish and 3x3 convolutions, and single convolutions between them, each
a whole with its bias. What a row gives and what it takes are one tensor each.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from glc.engines.chained import TAKEN
from glc.engines.conv_chain import Convolution, EightBits, GroupNorm, Kind
from glc.engines.ov_constants import constant_behind, with_constant
from glc.engines.ov_cut import needed, split, tensor_key
from glc.engines.ov_eight_bits import QuantisedConvolution, quantised_convolution
from glc.engines.ov_group_norm import found_group_norm
from glc.engines.ov_readers import readers
from glc.engines.ov_upsampling import is_doubling

_MULTIPLE = 32
"""Of the channels within a row."""
_MOST_FIRST = 3
_LEAST_COLUMNS = 16
_LEAST_SWISH = -0.27846455
"""Of x / (1 + e^-x)."""
SHORT, LONG = 2, 8
"""Convolutions of a row that is worth its ends, where they gain much or less beside those of OpenVINO."""


@dataclass(frozen=True, slots=True, eq=False)
class CutGraph:
    """A graph whose chains are missing; what one gives is what the model behind it takes."""

    models: tuple[openvino.Model, ...]
    """One more than chains: what stands before the first one, between them, and behind the last."""
    chains: tuple[tuple[Convolution, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A convolution with its bias and what stands before it; tensors are outputs of nodes."""

    kind: Kind
    source: Any
    result: Any
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    norm: GroupNorm | None
    eight_bits: EightBits | None


def cut(
    model: openvino.Model, activations: type[np.floating], least: int = SHORT, *, eight_bits: bool = False
) -> CutGraph | None:
    """Cut rows of convolutions out.

    Args:
        model: as OpenVINO reads it, not rewritten; not to be used afterwards.
        activations: of the chains, float16 or float32.
        least: convolutions of a row that is cut out.
        eight_bits: whether they multiply integers too, where a graph has them.

    Returns:
        None where so many convolutions never follow each other.
    """
    models, chains = [], []
    behind = model
    while (row := _first_row(behind, least, eight_bits=eight_bits)) is not None:
        is_image = row.convolutions[0].kind == Kind.FIRST
        is_narrow = len(row.convolutions[-1].bias) < _LEAST_COLUMNS
        types = (np.float32 if is_end else activations for is_end in (is_image, is_narrow))
        before, behind = split(behind, row.given, [row.result], *types)
        models.append(before)
        chains.append(tuple(row.convolutions))
    return CutGraph((*models, behind), tuple(chains)) if chains else None


def _first_row(model: openvino.Model, least: int, *, eight_bits: bool) -> _Row | None:
    by_source: dict[tuple[str, int], list[_Found]] = defaultdict(list)
    norms = {
        tensor_key(found.last.output(0)): found
        for node in model.get_ordered_ops()
        if node.get_type_name() == "MVN" and (found := found_group_norm(node)) is not None
    }
    for node in model.get_ordered_ops():
        convolution = (
            _convolution(node, norms, eight_bits=eight_bits) if node.get_type_name() == "Convolution" else None
        )
        if convolution is not None:
            by_source[tensor_key(convolution.source)].append(convolution)
    rows = (_row(convolutions[0].source, by_source) for convolutions in by_source.values())
    return next((row for row in rows if len(row.convolutions) >= least and _parts(model, row)), None)


def _parts(model: openvino.Model, row: _Row) -> bool:
    """Whether all that a chain before gave goes through a row: a model takes from one chain alone."""
    around = needed(model.get_parameters(), model.get_results(), but=row.result.get_node())
    return not any(TAKEN in parameter.output(0).get_names() for parameter in around)


class _Row:
    """Convolutions from a tensor on, with numbers for the tensors between."""

    def __init__(self, given: Any) -> None:
        self.given = self.result = given
        self.convolutions: list[Convolution] = []
        self._number = self._made = 0

    def single(self, found: _Found) -> None:
        """Go on by one convolution."""
        target = self._new()
        self.convolutions.append(_link(found, self._number, target))
        self._number, self.result = target, found.result

    def block(self, first: _Found, second: _Found, shortcut: _Found | None, result: Any) -> None:
        """Go on by a residual block, in place where that may be: what is given is not written to."""
        source, between = self._number, self._new()
        self.convolutions.append(_link(first, source, between))
        residual = target = source
        if shortcut is not None:
            residual = target = self._new()
            self.convolutions.append(_link(shortcut, source, target))
        elif source == 0:
            target = self._new()
        self.convolutions.append(replace(_link(second, between, target), residual=residual))
        self._number, self.result = target, result

    def _new(self) -> int:
        self._made += 1
        return self._made


def _row(given: Any, by_source: dict[tuple[str, int], list[_Found]]) -> _Row:
    """Follow the only way from a tensor as far as it is known."""
    row = _Row(given)
    while True:
        here, ends = by_source.get(tensor_key(row.result), []), readers(row.result)
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
    behind = by_source.get(tensor_key(first.result), [])
    if len(behind) != 1 or len(readers(first.result)) != 1 or behind[0].kind != Kind.DENSE:
        return None
    second = behind[0]
    ends = readers(second.result)
    if len(ends) != 1 or ends[0].get_node().get_type_name() != "Add":
        return None
    total = ends[0].get_node()
    operands = {tensor_key(value) for value in total.input_values()}
    identity = shortcuts[0].result if shortcuts else given
    if operands != {tensor_key(second.result), tensor_key(identity)} or (shortcuts and len(readers(identity)) != 1):
        return None
    return first, second, shortcuts[0] if shortcuts else None, total.output(0)


def _convolution(node: Any, norms: dict[tuple[str, int], Any], *, eight_bits: bool) -> _Found | None:
    quantised = quantised_convolution(node) if eight_bits else None
    weights = constant_behind(node.input_value(1)) if quantised is None else quantised.weights
    ends = readers(node.output(0))
    if weights is None or len(ends) != 1:
        return None
    added = ends[0].get_node().output(0)
    biased = with_constant(added, "Add")
    outputs, inputs = weights.shape[:2]
    if biased is None or biased[1].size != outputs or (outputs % _LEAST_COLUMNS and outputs >= _LEAST_COLUMNS):
        return None
    kind, source = _kind(node, weights)
    if kind is None or (inputs % _MULTIPLE and kind != Kind.FIRST):
        return None
    if quantised is not None:
        if kind != Kind.DENSE:
            return None
        source = quantised.source
    source, norm = (source, None) if kind in (Kind.UP, Kind.DOWN) else _normalised(source, norms)
    bits = None if quantised is None else _integers(quantised, norm)
    bias = biased[1].astype(np.float32).ravel()
    return _Found(kind, source, added, weights.astype(np.float32), bias, norm, bits)


def _integers(quantised: QuantisedConvolution, norm: GroupNorm | None) -> EightBits:
    # Codes of what never comes would be lost: half of them, where they are symmetric.
    bound = _LEAST_SWISH if norm is not None and norm.swish else -np.inf
    return EightBits(max(quantised.least, bound), quantised.largest, quantised.weight_steps)


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
            if gate.get_type_name() == "Sigmoid" and tensor_key(gate.input_value(0)) == tensor_key(value):
                normed = value
    found = norms.get(tensor_key(normed))
    # Nothing else may read what is no longer computed.
    expected = 1 if normed is source else 2
    if found is None or len(readers(normed)) != expected or len(readers(source)) != 1:
        return source, None
    swish = normed is not source
    return found.x, GroupNorm(found.groups, found.epsilon, found.scale, found.shift, swish)


def _link(found: _Found, source: int, target: int) -> Convolution:
    return Convolution(found.kind, source, target, found.weights, found.bias, found.norm, eight_bits=found.eight_bits)
