"""Exporting a bundle: what it reports, what it refuses, and that it is all or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import ToldExport

from glc.engines import Array
from glc.errors import GraphMismatch, OutputNotWritable
from glc.export import GlcModel, GraphReport, export_bundle, synthetic_model
from glc.export import bundle_writer as writer_module
from glc.export.bundle_writer import EXPORT_STEPS, checkpoint_id, model_id
from glc.export.graphs import GraphSource, float_graphs
from glc.export.scale_levels import DEFAULT_GRID, build_scale_table
from glc.export.synthetic import MINI
from glc.runtime import Bundle
from glc.runtime.scale_table import ScaleGrid
from glc.runtime.signatures import signatures

TABLE = build_scale_table(DEFAULT_GRID)


def test_every_graph_is_reported_and_close_to_torch(mini_float_export: ToldExport) -> None:
    assert [report.name for report in mini_float_export.reports] == list(signatures(32))
    assert len(mini_float_export.steps) == EXPORT_STEPS - 2  # float arithmetic has no ranges to choose, nor rounding
    for report in mini_float_export.reports:
        assert report.difference.largest < 1e-4
        assert report.size_bytes == (mini_float_export.path / "graphs" / f"{report.name}.onnx").stat().st_size


def test_the_manifest_tells_the_model(mini_bundle: Path, mini_model: GlcModel) -> None:
    manifest = Bundle.open(mini_bundle).manifest
    assert manifest.label == "mini for tests"
    assert manifest.arithmetic == "exact"
    assert manifest.checkpoint_id == checkpoint_id(mini_model)
    assert manifest.parameters == 4_896_355
    assert (manifest.config.downsampling, manifest.config.latent_channels) == (16, 32)
    assert set(manifest.producers) == {"glc-deploy", "torch", "onnx"}


def test_the_float_manifest_has_no_cases(mini_float_bundle: Path, mini_model: GlcModel) -> None:
    manifest = Bundle.open(mini_float_bundle).manifest
    assert manifest.arithmetic == "float"
    assert manifest.conformance is None
    assert manifest.model_id == model_id(mini_model, TABLE)


def test_tables_hold_the_rows_of_the_checkpoint(mini_bundle: Path, mini_model: GlcModel) -> None:
    tables = Bundle.open(mini_bundle).tables()
    np.testing.assert_array_equal(tables.rows["analysis"], mini_model.q_enc[:, :, 0, 0].numpy())
    np.testing.assert_array_equal(tables.rows["synthesis"], mini_model.q_dec[:, :, 0, 0].numpy())


def test_model_id_follows_what_decoding_depends_on_alone(mini_model: GlcModel) -> None:
    same = model_id(synthetic_model(MINI), TABLE)
    assert same == model_id(mini_model, TABLE)
    changed = synthetic_model(MINI)
    state = changed.state_dict()
    state["vqgan.generator.blocks.0.bias"].add_(1)
    state["q_dec"].add_(1)
    assert model_id(changed, TABLE) == same
    state["y_spatial_prior_adaptor_3.block.1.conv_out.bias"][0] += 1e-6
    assert model_id(changed, TABLE) != same
    assert model_id(mini_model, build_scale_table(ScaleGrid(0.11, 1.1, 64))) != same


@pytest.fixture
def one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports one small graph instead of six, for tests of what happens around them."""

    def reduced(model: GlcModel, grid: ScaleGrid) -> tuple[GraphSource, ...]:
        return tuple(source for source in float_graphs(model, grid) if source.name == "spatial_prior_1")

    def runs(
        sources: tuple[GraphSource, ...], image: Array, rows: object
    ) -> dict[str, tuple[dict[str, Array], dict[str, Array]]]:
        (source,) = sources
        feeds = {i.name: np.zeros((1, 32, 4, 4), np.float32) for i in source.inputs}
        results = source.module(*map(torch.from_numpy, feeds.values()))
        return {source.name: (feeds, {n: r.numpy() for n, r in zip(source.outputs, results, strict=True)})}

    monkeypatch.setattr(writer_module, "float_graphs", reduced)
    monkeypatch.setattr(writer_module, "expected_runs", runs)


@pytest.mark.usefixtures("one_graph")
def test_a_graph_that_differs_leaves_no_bundle(
    mini_model: GlcModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = vars(writer_module)["expected_runs"]

    def dishonest(*arguments: object) -> dict[str, tuple[dict[str, Array], dict[str, Array]]]:
        runs: dict[str, tuple[dict[str, Array], dict[str, Array]]] = honest(*arguments)
        runs["spatial_prior_1"][1]["means"] += 1
        return runs

    monkeypatch.setattr(writer_module, "expected_runs", dishonest)
    with pytest.raises(GraphMismatch, match="spatial_prior_1, output means"):
        export_bundle(mini_model, tmp_path / "model.glcb", arithmetic="float")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("one_graph")
@pytest.mark.parametrize("container", ["directory", "zip"])
def test_an_interrupt_leaves_the_old_bundle(
    mini_model: GlcModel, mini_bundle: Path, tmp_path: Path, container: str
) -> None:
    target = tmp_path / "model.glcb"
    target.mkdir()
    shutil.copy(mini_bundle / "manifest.json", target)
    before = (target / "manifest.json").read_bytes()

    def interrupt(_: GraphReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(mini_model, target, arithmetic="float", container=container, on_graph=interrupt)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["model.glcb"]
    assert (target / "manifest.json").read_bytes() == before


def test_a_folder_with_other_files_is_not_replaced(mini_model: GlcModel, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputNotWritable, match="not a bundle"):
        export_bundle(mini_model, tmp_path)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("content", [b"weights", b'{"format": "something else"}'], ids=["file", "manifest"])
def test_what_is_no_bundle_is_not_replaced(mini_model: GlcModel, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension" / "manifest.json").write_bytes(content)
    for target in (tmp_path / "model.pth", tmp_path / "extension"):
        with pytest.raises(OutputNotWritable, match="not a bundle"):
            export_bundle(mini_model, target)
    assert (tmp_path / "model.pth").read_bytes() == content


def test_a_missing_folder_is_told_before_the_work(mini_model: GlcModel, tmp_path: Path) -> None:
    with pytest.raises(OutputNotWritable, match="no folder"):
        export_bundle(mini_model, tmp_path / "nowhere" / "model.glcb")


def test_unknown_choices_are_refused(mini_model: GlcModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="arithmetic"):
        export_bundle(mini_model, tmp_path / "m", arithmetic="bf16")  # type: ignore[arg-type]
