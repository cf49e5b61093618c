"""Adding encoders and decoders to a bundle: what stays, what is refused, and that it is all or nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.conftest import DATA, invoke, load_image
from tests.golden.make_streams import BUNDLE, FACTS, STREAMS, TINY, Facts, Reader, golden_model
from torch import Tensor

import glc
from glc.engines import engine_loader
from glc.errors import CheckpointMismatch, ExportError
from glc.export import GlcModel, GraphReport, export_bundle, further_transforms
from glc.export.bundle_writer import require_checkpoint
from glc.export.command import app
from glc.export.config import read_config
from glc.export.further_transforms import TransformFile, add_transforms, load_transforms
from glc.export.transform_weights import weights_of_bundle, weights_of_model
from glc.runtime.bounded_networks import BoundedNetworks

GOLDEN = Path(__file__).parent.parent / "golden"
IMAGE = load_image("chelsea_256x320.png")[:61, :90]


@pytest.fixture(scope="module")
def model() -> GlcModel:
    return golden_model()


@pytest.fixture(scope="module")
def files(model: GlcModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fine-tuned latent encoder and latent decoder alone, in float16, and the whole model with other factors."""
    folder = tmp_path_factory.mktemp("weights")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    paths = {name: folder / f"{name}.safetensors" for name in ("restore", "scream", "whole")}
    save_file({n: (t * 1.25).half() for n, t in state.items() if n.startswith("vqgan.encoder.")}, paths["restore"])
    save_file({n: (t * 1.25).half() for n, t in state.items() if n.startswith("vqgan.generator.")}, paths["scream"])
    save_file(state, paths["whole"])
    return paths


@pytest.fixture(scope="module")
def added(
    model: GlcModel, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[GraphReport]]:
    """The golden bundle with `restore` and `scream`, for which it alone was asked, and `twin`, its own encoder."""
    path = tmp_path_factory.mktemp("added") / BUNDLE
    shutil.copy(GOLDEN / BUNDLE, path)
    reports: list[GraphReport] = []
    first = [TransformFile("analysis.restore", files["restore"]), TransformFile("synthesis.scream", files["scream"])]
    bundle = glc.Bundle.open(path)
    bundle = add_transforms(bundle, load_transforms(first, weights_of_bundle(bundle)), on_graph=reports.append)
    twin = load_transforms([TransformFile("analysis.twin", files["whole"])], weights_of_model(model, "tiny"))
    add_transforms(bundle, twin, on_graph=reports.append)
    return path, reports


@pytest.fixture(scope="module")
def codecs(added: tuple[Path, list[GraphReport]]) -> Iterator[tuple[glc.Codec, glc.Codec]]:
    """One on the golden bundle as it is, one on that to which was added."""
    with glc.Codec.open(GOLDEN / BUNDLE, threads=1) as before, glc.Codec.open(added[0], threads=1) as after:
        yield before, after


def test_all_that_a_bundle_held_stays(added: tuple[Path, list[GraphReport]]) -> None:
    path, reports = added
    assert [report.name for report in reports] == ["analysis.restore", "synthesis.scream", "analysis.twin"]
    before, after = glc.Bundle.open(GOLDEN / BUNDLE), glc.Bundle.open(path)
    assert zipfile.is_zipfile(path)
    after.verify()
    unchanged = ("model_id", "checkpoint_id", "label", "parameters", "config", "conformance", "producers", "targets")
    for name in unchanged:
        assert getattr(after.manifest, name) == getattr(before.manifest, name)
    assert {**after.manifest.graphs, **before.manifest.graphs} == after.manifest.graphs
    for entry in before.manifest.graphs.values():
        assert after.read(entry.file) == before.read(entry.file)
    old, new = before.tables(), after.tables()
    assert new.rows.keys() - old.rows.keys() == {"analysis.restore", "analysis.twin", "synthesis.scream"}
    np.testing.assert_array_equal(new.scales.frequencies[9], old.scales.frequencies[9])
    for graph, rows in new.rows.items():
        np.testing.assert_array_equal(rows, old.rows[graph.partition(".")[0]])  # the files left them as they were


def test_golden_streams_mean_what_they_meant(added: tuple[Path, list[GraphReport]]) -> None:
    reader = Reader(glc.Bundle.open(added[0]), engine_loader("onnxruntime", 1))
    try:
        for name, facts in json.loads((GOLDEN / FACTS).read_text()).items():
            expected = dataclasses.replace(Facts(**facts), channel_means=None)
            assert reader.facts((GOLDEN / STREAMS / name).read_bytes(), expected.form) == expected
    finally:
        reader.close()


def test_streams_are_the_same_before_and_after(codecs: tuple[glc.Codec, glc.Codec]) -> None:
    before, after = codecs
    for quality in (0, 1.5, 3):
        data = before.encode(IMAGE, quality)
        assert after.encode(IMAGE, quality) == data == after.encode(IMAGE, quality, encoder="twin")
        np.testing.assert_array_equal(after.decode(data), before.decode(data))


def test_encoders_and_decoders_can_be_combined(codecs: tuple[glc.Codec, glc.Codec]) -> None:
    before, after = codecs
    own, restored = after.encode(IMAGE, 2), after.encode(IMAGE, 2, encoder="restore")
    assert own != restored
    np.testing.assert_array_equal(after.decode(restored), before.decode(restored))
    for data in (own, restored):
        assert (after.decode(data, decoder="scream") != after.decode(data)).any()


def test_the_graphs_of_a_bundle_hold_all_weights_but_those_of_group_norms(model: GlcModel) -> None:
    known, state = weights_of_bundle(glc.Bundle.open(GOLDEN / BUNDLE)), model.state_dict()
    assert known.config == TINY
    mine = ("vqgan.", "enc.", "dec.", "hyper_enc.", "q_enc", "q_dec", "z_vq.")
    missing = [name for name in state if name.startswith(mine) and name not in known.tensors]
    norms = {f"{name}.{part}" for name, module in model.named_modules() for part in ("weight", "bias")
             if isinstance(module, torch.nn.GroupNorm)}  # fmt: skip
    assert set(missing) == norms
    for name in known.tensors.keys() & state.keys():
        assert torch.equal(known.tensors[name], state[name]), name


@pytest.mark.parametrize("name", ["natural", "facial", "mini"])
def test_a_configuration_can_be_read_without_group_norms(name: str) -> None:
    document = json.loads((DATA / f"state_dict_{name}.json").read_text())
    shapes = {tensor: tuple(shape) for tensor, shape in document["inference"].items()}
    whole = read_config(shapes)
    for auto_encoder in ("encoder", "generator"):
        norms = [n for n, s in shapes.items() if n.startswith(f"vqgan.{auto_encoder}") and len(s) == 1 and
                 len(shapes.get(n.rpartition(".")[0] + ".weight", ())) == 1]  # fmt: skip
        assert norms
        shapes = {n: s for n, s in shapes.items() if n not in norms}
    assert read_config(shapes) == whole


# What is refused


def _saved(tensors: dict[str, Tensor], path: Path) -> Path:
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("change", "of_bundle", "message"),
    [
        pytest.param(
            lambda s: s | {"vqgan.encoder.blocks.99.weight": torch.zeros(1)},
            False,
            r"has no tensor vqgan\.encoder\.blocks\.99\.weight",
            id="unknown",
        ),
        pytest.param(
            lambda s: s | {"q_enc": torch.ones(5, 8, 1, 1)},
            False,
            r"q_enc has shape \[5, 8, 1, 1\]; .* it has \[4, 8, 1, 1\]",
            id="mis-shaped",
        ),
        pytest.param(
            lambda s: s | {"z_vq.embedding.weight": s["z_vq.embedding.weight"] + 1},
            False,
            r"z_vq\.embedding\.weight differs from that of tiny; .*keep only what an encoder replaces \(vqgan\.enc",
            id="other codebook",
        ),
        pytest.param(
            lambda s: s | {"hyper_dec.2.block.0.conv2.bias": s["hyper_dec.2.block.0.conv2.bias"] + 1e-6},
            False,
            r"hyper_dec\.2\.block\.0\.conv2\.bias differs",
            id="other prior",
        ),
        pytest.param(lambda s: s, True, r"holds hyper_dec\.\S+ of the entropy part, which .* --ckpt", id="no priors"),
        pytest.param(
            lambda s: {"q_enc": s["q_enc"]}, True, r"lacks vqgan\.encoder\.\S*norm\S*, which .* --ckpt", id="no norms"
        ),
        pytest.param(
            lambda s: {"q_dec": s["q_dec"]}, False, r"no tensor that an encoder replaces", id="of a decoder only"
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    of_bundle: bool,
    message: str,
    model: GlcModel,
    tmp_path: Path,
) -> None:
    file = _saved(change(dict(model.state_dict())), tmp_path / "restore.safetensors")
    known = weights_of_bundle(glc.Bundle.open(GOLDEN / BUNDLE)) if of_bundle else weights_of_model(model, "tiny")
    with pytest.raises(CheckpointMismatch, match=message) as caught:
        load_transforms([TransformFile("analysis.restore", file)], known)
    assert "\n" not in str(caught.value)


def test_what_a_decoder_replaces_may_lie_beside(model: GlcModel, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    file = _saved(state | {"q_dec": 2 * state["q_dec"]}, tmp_path / "both.safetensors")
    wanted = [TransformFile("analysis.x", file), TransformFile("synthesis.x", file)]
    encoder, decoder = load_transforms(wanted, weights_of_model(model, "tiny"))
    np.testing.assert_array_equal(encoder.rows()["q_enc.x"], state["q_enc"][..., 0, 0])
    np.testing.assert_array_equal(decoder.rows()["q_dec.x"], 2 * state["q_dec"][..., 0, 0])


@pytest.mark.parametrize("name", ["restore", "RESTORE"])
def test_a_name_that_is_taken_is_refused(name: str, added: tuple[Path, list[GraphReport]], model: GlcModel,
                                         files: dict[str, Path]) -> None:  # fmt: skip
    before = added[0].read_bytes()
    again = load_transforms([TransformFile(f"analysis.{name}", files["restore"])], weights_of_model(model, "tiny"))
    with pytest.raises(ExportError, match=rf"already has the encoder {name}: choose another name"):
        add_transforms(glc.Bundle.open(added[0]), again)
    assert added[0].read_bytes() == before


def test_another_checkpoint_is_refused(mini_model: GlcModel) -> None:
    with pytest.raises(CheckpointMismatch, match=r"mini is checkpoint \w{8}; .* was exported from b48b6a6e"):
        require_checkpoint(glc.Bundle.open(GOLDEN / BUNDLE), mini_model, "mini")


@pytest.mark.parametrize("container", ["directory", "zip"])
def test_an_interrupt_leaves_the_bundle_as_it_was(
    container: str, model: GlcModel, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "place" / BUNDLE
    path.parent.mkdir()
    if container == "zip":
        shutil.copy(GOLDEN / BUNDLE, path)
    else:
        zipfile.ZipFile(GOLDEN / BUNDLE).extractall(path)
    before = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    there: list[Path] = []

    def interrupt(*_: object) -> None:
        there.extend(path.parent.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(further_transforms, "write_graph", interrupt)
    transforms = load_transforms([TransformFile("analysis.x", files["restore"])], weights_of_model(model, "tiny"))
    with pytest.raises(KeyboardInterrupt):
        add_transforms(glc.Bundle.open(path), transforms)
    assert path in there
    assert {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()} == before
    assert list(path.parent.iterdir()) == [path]


# The command


def test_the_command_adds_to_a_directory(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "tiny.glcb"
    zipfile.ZipFile(GOLDEN / BUNDLE).extractall(path)
    result = invoke(app, "--into", path, "--decoder", f"scream={files['scream']}")
    assert result.exit_code == 0, result.output
    assert "synthesis.scream" in result.output
    assert "decoders default, scream" in result.output
    assert path.is_dir()
    glc.Bundle.open(path).verify()
    again = invoke(app, "--into", path, "--decoder", f"scream={files['scream']}")
    assert again.exit_code == 1
    assert isinstance(again.exception, ExportError)


@pytest.mark.slow
def test_an_export_writes_them_with_their_tiles(
    model: GlcModel, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [TransformFile("synthesis.scream", files["scream"])]
    further = load_transforms(wanted, weights_of_model(model, "tiny"))
    bundle = export_bundle(model, tmp_path / "tiny.glcb", arithmetic="float", further=further)
    tiles = bundle.manifest.tiles
    own = {tile for tile in tiles if tile.startswith("tile_synthesis_") and "." not in tile}
    assert {tile for tile in tiles if "." in tile} == {f"{tile}.scream" for tile in own}
    bundle.verify()
    monkeypatch.setattr(BoundedNetworks, "fits", lambda _, graph, needed: not graph.startswith("synthesis"))
    with (
        glc.Codec.open(bundle.path, threads=2) as free,
        glc.Codec.open(bundle.path, threads=2, memory_limit_bytes=64 << 30) as tiled,
    ):
        data = free.encode(IMAGE, 2)
        found = tiled.decode(data, decoder="scream")
        assert tiled.tile_plan is not None
        assert np.abs(found.astype(int) - free.decode(data, decoder="scream")).max() <= 1
