"""What happens to the latent between the networks, as ONNX graphs for engines on a device (docs/bundle.md, "Steps").

The same arithmetic as `glc.runtime.latent_steps.HostSteps`, to the last bit where sums are exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

from glc.export.onnx_graph import onnx_model, onnx_value
from glc.runtime.entropy import MAX_SYMBOL
from glc.runtime.signatures import Signature, step_signatures
from glc.runtime.spatial_walk import PART_OFFSETS, PARTS

_QUARTERS = range(4)


def step_graphs(latent_channels: int) -> Mapping[str, bytes]:
    """Step name -> serialised graph, for a model with N latent channels."""
    return {name: _graph(name, signature) for name, signature in step_signatures(latent_channels).items()}


def _graph(name: str, signature: Signature) -> bytes:
    match name.partition("_"):
        case ("split", _, _):
            nodes = _split()
        case ("quantise", _, _):
            nodes = _quantise()
        case ("assemble", _, part):
            nodes = _assemble(int(part))
        case _:
            nodes = [helper.make_node("Mul", ["y_hat", "quant_step"], ["latent"])]
    constants = [helper.make_tensor("limit", TensorProto.FLOAT, [], [float(MAX_SYMBOL)])] if name == "quantise" else []
    graph = helper.make_graph(
        nodes, name, [onnx_value(s) for s in signature.inputs], [onnx_value(s) for s in signature.outputs], constants
    )
    model = onnx_model(graph)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _split() -> list[onnx.NodeProto]:
    """Y / quant_step -> its four parts: the positions of each 2x2 cell apart, then each quarter of the channels."""
    nodes = [
        helper.make_node("Div", ["y", "quant_step"], ["scaled"]),
        helper.make_node("SpaceToDepth", ["scaled"], ["cells"], blocksize=2),
        helper.make_node(
            "Split", ["cells"], [_piece(p, q) for p in _QUARTERS for q in _QUARTERS], axis=1, num_outputs=16
        ),
    ]
    for part in range(PARTS):
        pieces = [_piece(_position(part, quarter), quarter) for quarter in _QUARTERS]
        nodes.append(helper.make_node("Concat", pieces, [f"target_{part}"], axis=1))
    return nodes


def _quantise() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Sub", ["target", "means"], ["distance"]),
        helper.make_node("Round", ["distance"], ["rounded"]),
        helper.make_node("Abs", ["rounded"], ["magnitude"]),
        helper.make_node("Less", ["magnitude", "limit"], ["codable"]),  # false for NaN too
        helper.make_node("Where", ["codable", "rounded", "limit"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["symbols"], to=TensorProto.INT32),
    ]


def _assemble(part: int) -> list[onnx.NodeProto]:
    """Symbols + means, each quarter of the channels at its position of every 2x2 cell, plus y_hat so far."""
    sums = [
        helper.make_node("Cast", ["symbols"], ["whole"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["whole", "means"], ["values"]),
        helper.make_node("Split", ["values"], [f"quarter_{q}" for q in _QUARTERS], axis=1, num_outputs=4),
        helper.make_node("Shape", ["quarter_0"], ["quarter_shape"]),
        helper.make_node("ConstantOfShape", ["quarter_shape"], ["zeros"]),
    ]
    cells = [f"quarter_{q}" if _position(part, q) == p else "zeros" for p in _QUARTERS for q in _QUARTERS]
    spread = "y_hat_next" if part == 0 else "spread"
    sums += [
        helper.make_node("Concat", cells, ["cells"], axis=1),
        helper.make_node("DepthToSpace", ["cells"], [spread], blocksize=2, mode="DCR"),
    ]
    return sums if part == 0 else [*sums, helper.make_node("Add", ["y_hat", spread], ["y_hat_next"])]


def _position(part: int, quarter: int) -> int:
    """Number of the position, row by row, that a quarter of the channels has in the cells of a part."""
    row, column = PART_OFFSETS[part][quarter]
    return 2 * row + column


def _piece(position: int, quarter: int) -> str:
    return f"position_{position}_quarter_{quarter}"
