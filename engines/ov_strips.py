"""Strips of an image on OpenVINO: graphs that are compiled for the shapes that they are given.

Nearly all strips of a pass have one shape. Where it is fixed, OpenVINO takes features whose channels are last for what
its convolutions use in any case, and leaves out the changes of layout; where sizes are free it makes them all, which is
a quarter of the time (docs/decisions/0010).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops

from glc.engines.ov_constants import constant_behind
from glc.engines.ov_errors import last_line
from glc.engines.protocol import Array, TensorSpec, check_feeds
from glc.errors import EngineFailed

_HALVED = ("features", "residual")
"""Inputs that may be float16 where the graph says float32."""

Form = tuple[tuple[tuple[int, ...], str], ...]
"""Shape and data type of each input."""


class OvStripEngine:
    """A graph that is compiled anew where its inputs have another form than those before.

    One form is kept at a time, with the memory that its runs take: nearly all strips of a pass have the same, and where
    rows are computed through many graphs, each with memory for several forms, a limit was exceeded by a third.
    Features may be float16 where the graph takes float32.
    """

    def __init__(
        self,
        source: openvino.Model,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        compiled: Callable[[openvino.Model], openvino.CompiledModel],
    ) -> None:
        """Prepare.

        Args:
            source: with free sizes; may have further outputs.
            inputs: of it.
            outputs: of it.
            compiled: compiles a model with fixed sizes.
        """
        self._source: openvino.Model | None = source
        self.inputs = inputs
        """See `Engine.inputs`."""
        self.outputs = outputs
        """See `Engine.outputs`."""
        self._compiled = compiled
        self._form: Form | None = None
        self._request: openvino.InferRequest | None = None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs; see `Engine.run`. For one thread at a time."""
        if self._source is None:
            raise EngineFailed("this engine is closed; open the codec again")
        specs = [_as_given(spec, feeds) for spec in self.inputs]
        check_feeds(specs, feeds)
        arrays = [np.ascontiguousarray(feeds[spec.name]) for spec in specs]
        form = tuple((array.shape, spec.dtype) for spec, array in zip(specs, arrays, strict=True))
        try:
            request = self._request_for(self._source, form)
            results = {}
            for number, spec in enumerate(self.outputs):
                tensor = request.get_output_tensor(number)
                # Not the request's own, which its next run writes again.
                results[spec.name] = np.empty(tuple(tensor.shape), spec.dtype)
                request.set_output_tensor(number, openvino.Tensor(results[spec.name], shared_memory=True))
            request.infer(arrays, share_inputs=True)
        except RuntimeError as error:
            raise EngineFailed(f"openvino: {last_line(error)}") from error
        return results

    def _request_for(self, source: openvino.Model, form: Form) -> openvino.InferRequest:
        if self._request is not None and self._form == form:
            return self._request
        self._request = None  # before the next one takes memory
        model = source.clone()
        for parameter, spec, (_, dtype) in zip(model.get_parameters(), self.inputs, form, strict=True):
            if dtype != spec.dtype:
                _take_half(parameter)
        model.reshape({spec.name: list(shape) for spec, (shape, _) in zip(self.inputs, form, strict=True)})
        self._form, self._request = form, self._compiled(model).create_infer_request()
        return self._request

    def close(self) -> None:
        """Free the graph."""
        self._source = self._request = None


def _as_given(spec: TensorSpec, feeds: Mapping[str, Array]) -> TensorSpec:
    """What an input takes: float16 too, where it is features."""
    fed = feeds.get(spec.name)
    half = spec.name in _HALVED and spec.dtype == "float32" and fed is not None and fed.dtype == np.float16
    return replace(spec, dtype="float16") if half else spec


def _take_half(parameter: Any) -> None:
    """Let an input of float32 take float16; behind a conversion all is as before."""
    targets = parameter.output(0).get_target_inputs()
    parameter.set_element_type(openvino.Type.f16)
    parameter.validate_and_infer_types()
    converted = ops.convert(parameter, "f32").output(0)
    for target in targets:
        target.replace_source_output(converted)


def keep_sums_apart(model: openvino.Model) -> None:
    """Let one more result see what a convolution gives before a tensor is added to it.

    OpenVINO would add inside the convolution, in place, and then changes the layout of the sum twice.

    Args:
        model: changed in place: results may come behind its own.
    """
    for add in model.get_ordered_ops():
        if add.get_type_name() != "Add":
            continue
        for value in add.input_values():
            if _is_convolved(value.get_node()) and not _has_constant(add):
                corner = ops.slice(value, _numbers(0, 0, 0, 0), _numbers(1, 1, 1, 1), _numbers(1, 1, 1, 1))
                model.add_results([ops.result(corner)])
                break


def _is_convolved(node: Any) -> bool:
    """Whether a node is a convolution, or one with its bias."""
    if node.get_type_name() == "Add" and _has_constant(node):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Convolution")


def _has_constant(node: Any) -> bool:
    return any(constant_behind(value) is not None for value in node.input_values())


def _numbers(*values: int) -> Any:
    return ops.constant(np.array(values, np.int64))
