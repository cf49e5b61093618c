"""The exported graphs: free sizes, plain operators, and what they compute beside the torch modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from glc.errors import ExportError, FrozenShape
from glc.export import GlcModel
from glc.export.blocks import Codebook
from glc.export.graphs import Analysis, float_graphs, interpolated_row
from glc.export.onnx_graph import GraphInput, require_free_axes, tensor_specs, to_onnx
from glc.export.scale_levels import DEFAULT_GRID
from glc.runtime.bundle import Bundle
from glc.runtime.networks import interpolated_row as runtime_row
from glc.runtime.signatures import signatures

GRAPHS = tuple(signatures(32))


def _graph(bundle: Path, name: str) -> onnx.GraphProto:
    return onnx.load_model(bundle / "graphs" / f"{name}.onnx").graph


@pytest.mark.parametrize("name", GRAPHS)
def test_height_and_width_are_free(mini_bundle: Path, name: str) -> None:
    inputs, outputs = tensor_specs((mini_bundle / "graphs" / f"{name}.onnx").read_bytes())
    expected = signatures(32)[name]
    assert (inputs, outputs) == (expected.inputs, expected.outputs)


@pytest.mark.parametrize("name", GRAPHS)
def test_no_graph_holds_a_loop_or_a_one_hot(mini_bundle: Path, name: str) -> None:
    operators = {node.op_type for node in _graph(mini_bundle, name).node}
    assert not operators & {"Loop", "Scan", "If", "OneHot", "SequenceConstruct"}


def test_no_graph_holds_weights_outside_its_file(mini_bundle: Path) -> None:
    assert {path.suffix for path in mini_bundle.rglob("*") if path.is_file()} == {".onnx", ".json", ".npz"}


def test_weights_are_stored_once(mini_bundle: Path, mini_model: GlcModel) -> None:
    entry = Bundle.open(mini_bundle).manifest.graphs["synthesis"]
    weights = [*mini_model.dec.parameters(), *mini_model.vqgan.generator.parameters()]
    assert entry.parameters == pytest.approx(sum(w.numel() for w in weights), rel=0.02)
    assert entry.file.size_bytes < 1.15 * 4 * entry.parameters


@pytest.mark.parametrize("name", GRAPHS)
def test_no_graph_tells_of_the_machine_that_exported_it(mini_bundle: Path, name: str) -> None:
    content = (mini_bundle / "graphs" / f"{name}.onnx").read_bytes()
    assert b".py" not in content
    assert str(Path.home()).encode() not in content


def test_two_exports_are_the_same_bytes(mini_float_bundle: Path, mini_model: GlcModel) -> None:
    source = next(s for s in float_graphs(mini_model, DEFAULT_GRID) if s.name == "spatial_prior_1")
    again = to_onnx(source.module, source.inputs, source.outputs)
    assert again == (mini_float_bundle / "graphs" / "spatial_prior_1.onnx").read_bytes()


class _FixedWidth(nn.Module):
    """Its width cannot be free."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 2, 8)


def test_a_module_that_needs_a_fixed_size_is_an_error() -> None:
    with pytest.raises((FrozenShape, ExportError)):
        to_onnx(_FixedWidth(), [GraphInput("x", torch.zeros(1, 16), (1,))], ["y"])


@pytest.mark.parametrize(
    ("width_in", "width_out", "message"),
    [
        pytest.param(16, "w", "input x: axis 1 was fixed at 16", id="input"),
        pytest.param("w", 16, r"output y has the fixed shape \[1, 16\]", id="output"),
    ],
)
def test_a_size_that_was_fixed_silently_is_found(width_in: int | str, width_out: int | str, message: str) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "frozen",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, width_in])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, width_out])],
    )
    data = helper.make_model(graph).SerializeToString()
    with pytest.raises(FrozenShape, match=message):
        require_free_axes(data, [GraphInput("x", torch.zeros(1, 16), (1,))])


def test_codebook_search_takes_the_lowest_index_on_ties() -> None:

    codebook = Codebook(4, 4)
    codebook.embedding.weight.data = torch.tensor([[1.0] * 4, [0.0] * 4, [0.0] * 4, [1.0] * 4])
    z = torch.tensor([0.1, 0.9]).reshape(1, 1, 1, 2).expand(1, 4, 1, 2)
    assert codebook.nearest(z).tolist() == [[[1, 0]]]
    assert codebook.nearest(z).dtype == torch.int32


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 63), (130, 7)])
def test_padding_repeats_the_last_row_and_column(mini_model: GlcModel, size: tuple[int, int]) -> None:
    """Padding inside the graph equals replication padding outside it."""
    torch.manual_seed(0)
    image = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    height, width = (-(-n // 64) * 64 for n in size)
    rows = torch.arange(height).clamp(max=size[0] - 1)
    columns = torch.arange(width).clamp(max=size[1] - 1)
    padded = image[:, rows][:, :, columns]
    analysis, q_row = Analysis(mini_model), interpolated_row(mini_model.q_enc, 1)
    with torch.inference_mode():
        for found, expected in zip(analysis(image, q_row), analysis(padded, q_row), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("units", [0, 1, 20, 21, 22, 42, 62, 63])
def test_runtime_and_export_interpolate_alike(mini_model: GlcModel, units: int) -> None:
    rows = mini_model.q_enc
    expected = interpolated_row(rows, units / 21).flatten().numpy()
    np.testing.assert_allclose(runtime_row(rows.detach().numpy()[:, :, 0, 0], units), expected, rtol=1e-6)
