"""Torch modules as ONNX nodes: what they compute at any size, what is kept, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glc.engines import engine_loader
from glc.errors import ExportError, FrozenShape
from glc.export.autoencoder import Downsample, PatchAttention, Upsample
from glc.export.onnx_graph import GraphInput, to_onnx

X = GraphInput("x", torch.zeros(1, 32, 12, 20), (2, 3))
SIZES = [(1, 2), (3, 8), (8, 8), (9, 7), (16, 30)]


class Does(nn.Module):
    """What a function does, with a weight."""

    def __init__(self, does: Callable[[Tensor, nn.Parameter], Any]) -> None:
        super().__init__()
        self.does = does
        self.weight = nn.Parameter(torch.linspace(-1, 1, 32).reshape(1, 32, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.does(x, self.weight)


def require_alike(module: nn.Module, size: tuple[int, int]) -> bytes:
    """The module's graph, which gives what torch does for an image of this size."""
    graph = to_onnx(module.eval().requires_grad_(requires_grad=False), [X], ["y"])
    x = torch.randn(1, 32, *size, generator=torch.Generator().manual_seed(0))
    found = engine_loader("onnxruntime", 1).load(graph).run({"x": x.numpy()})["y"]
    np.testing.assert_allclose(found, module(x).numpy(), atol=1e-5)
    return graph


def padded_to_fours(x: Tensor, _: nn.Parameter) -> Tensor:
    height, width = x.shape[2:]
    rows, columns = ((size + 3) // 4 * 4 for size in (height, width))
    return F.pad(x, (0, columns - width, 0, rows - height)).reshape(1, 32, rows // 4, 4, columns).permute(0, 1, 2, 4, 3)


def repeated(x: Tensor, _: nn.Parameter) -> Tensor:
    last = x.shape[3] - 1
    return x.index_select(3, torch.arange(x.shape[3] * 2).clamp(max=last))


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(PatchAttention(32, 8), id="attention"),
        pytest.param(Upsample(32), id="upsample"),
        pytest.param(nn.Sequential(nn.GroupNorm(8, 32), nn.SiLU()), id="norm"),
        pytest.param(Does(padded_to_fours), id="padded"),
        pytest.param(Does(repeated), id="repeated"),
        pytest.param(Does(lambda x, w: (2 - x) / w.square().sum() * torch.ones_like(x[:, 1:9:8])), id="numbers"),
        pytest.param(Does(lambda x, _: F.pixel_shuffle(x[:, :, ::2].clamp(-1), 2).round()), id="places"),
    ],
)
@pytest.mark.parametrize("size", SIZES)
def test_a_graph_computes_what_its_module_does_at_any_size(module: nn.Module, size: tuple[int, int]) -> None:
    require_alike(module, size)


def test_a_graph_holds_what_its_results_need_once_and_weights_under_their_names() -> None:
    def does(x: Tensor, weight: nn.Parameter) -> Tensor:
        torch.softmax(x, 1)
        return F.silu(x * weight) + F.silu(x * weight)

    graph = onnx.load_model_from_string(to_onnx(Does(does), [X], ["y"])).graph
    assert Counter(node.op_type for node in graph.node) == {"Mul": 2, "Sigmoid": 1, "Add": 1}
    assert [weight.name for weight in graph.initializer] == ["weight"]


def test_zeros_around_what_is_convolved_are_of_the_convolution() -> None:
    graph = require_alike(Downsample(32), (4, 6))
    (node,) = onnx.load_model_from_string(graph).graph.node
    assert node.op_type == "Conv"
    assert {a.name: list(a.ints) for a in node.attribute if a.name == "pads"} == {"pads": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("does", "message"),
    [
        pytest.param(lambda x, _: x.cumsum(1), "Does: cumsum has no known form in ONNX", id="operation"),
        pytest.param(
            lambda x, _: F.pad(x, (1, 1, 1, 1), "replicate"), "pad cannot be exported: .*'mode'", id="argument"
        ),
        pytest.param(lambda x, _: x[:, 0], "index 0 has no known form", id="index"),
        pytest.param(lambda x, _: x * 2 if x.shape[2] > 4 else x, "Does cannot be traced: ", id="choice by size"),
        pytest.param(lambda x, _: x.reshape(1, 32, 240), "reshape cannot be exported: ", id="fixed size"),
        pytest.param(lambda x, _: x // 2, "floordiv cannot be exported: a tensor; expected sizes", id="whole division"),
        pytest.param(lambda x, _: x.data, "a tensor's data has no known form", id="attribute"),
    ],
)
def test_what_has_no_form_is_told_in_a_line(does: Callable[[Tensor, nn.Parameter], Tensor], message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        to_onnx(Does(does), [X], ["y"])
    assert "\n" not in str(caught.value)


def test_sizes_that_are_always_equal_bear_one_name_and_others_do_not() -> None:
    def does(x: Tensor, weight: nn.Parameter) -> tuple[Tensor, Tensor]:
        return padded_to_fours(x, weight), F.silu(x) * weight

    ragged = GraphInput("x", torch.zeros(1, 32, 13, 22), (2, 3))
    graph = onnx.load_model_from_string(to_onnx(Does(does), [ragged], ["padded", "same"])).graph
    x, padded, same = (
        [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    )
    assert same == x
    assert len({*x[2:], padded[2], padded[3]}) == 4
    assert padded[:2] + padded[4:] == [1, 32, 4]


@pytest.mark.parametrize("does", [lambda x, _: x, lambda x, _: (x * 2, x * 2)])
def test_a_result_has_one_name(does: Callable[[Tensor, nn.Parameter], Tensor]) -> None:
    with pytest.raises(ExportError, match="Does gives a tensor twice, or one that it takes"):
        to_onnx(Does(does), [X], ["y", "z"])


def test_a_result_that_is_always_of_one_size_is_refused() -> None:
    with pytest.raises(FrozenShape, match="output y has the fixed shape"):
        to_onnx(Does(lambda x, _: x[:, :, :1, :1]), [X], ["y"])
