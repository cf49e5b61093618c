"""An encoder and a decoder in 8 bits: what of the graphs becomes 8 bits, what it costs in pictures, what is refused."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.conftest import invoke, load_image

import glc
from glc.errors import ExportError, MemoryLimitTooSmall
from glc.export.command import app
from glc.export.int8_transforms import INT8, INT8_STEPS, Int8Report, add_int8
from glc.runtime.bounded_networks import BoundedNetworks
from glc.runtime.default_model import default_bundle, packaged_photos
from glc.runtime.demo import psnr_db
from glc.runtime.images import read_image
from glc.runtime.transforms import OWN

GOLDEN = Path(__file__).parent.parent / "golden" / "tiny.glcb"
PHOTO = load_image("chelsea_256x320.png")


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Int8Report]:
    """The demonstration with both, calibrated on a photograph that is not `PHOTO`."""
    path = Path(shutil.copy(default_bundle(), tmp_path_factory.mktemp("int8") / "demo.glcb"))
    steps: list[str] = []
    coffee = next(photo for photo in packaged_photos() if photo.stem == "coffee")
    _, report = add_int8(glc.Bundle.open(path), [read_image(coffee, 1 << 24).pixels], on_step=steps.append)
    assert len(steps) == INT8_STEPS
    return path, report


def test_all_that_the_bundle_held_stays(added: tuple[Path, Int8Report]) -> None:
    before, after = glc.Bundle.open(default_bundle()), glc.Bundle.open(added[0])
    after.verify()
    for name in ("model_id", "checkpoint_id", "label", "arithmetic", "parameters", "config", "conformance", "tiles"):
        assert getattr(after.manifest, name) == getattr(before.manifest, name)
    assert {**after.manifest.graphs, **before.manifest.graphs} == after.manifest.graphs
    for own in ("analysis", "synthesis"):
        np.testing.assert_array_equal(after.tables().rows[f"{own}.{INT8}"], before.tables().rows[own])


@pytest.mark.parametrize(("own", "blocks"), [("analysis", 6), ("synthesis", 6)])
def test_residual_blocks_and_no_others_are_in_8_bits(own: str, blocks: int, added: tuple[Path, Int8Report]) -> None:
    graph = onnx.load_model_from_string(glc.Bundle.open(added[0]).graph(f"{own}.{INT8}")[1]).graph
    made = {output: node for node in graph.node for output in node.output}
    kinds = Counter[tuple[str, ...]]()
    for node in graph.node:
        if node.op_type == "Conv":
            kinds[tuple(made[name].op_type if name in made else "stored" for name in node.input[:2])] += 1
    quantised = {kind: count for kind, count in kinds.items() if "DequantizeLinear" in kind}
    assert quantised == {("DequantizeLinear", "DequantizeLinear"): 2 * blocks}
    stored = {weight.name: weight.data_type for weight in graph.initializer}
    weights = [made[n.input[1]].input[0] for n in graph.node if n.op_type == "Conv" and
               made.get(n.input[1], n).op_type == "DequantizeLinear"]  # fmt: skip
    assert {stored[name] for name in weights} == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_pictures_and_sizes_hardly_change(engine: str, added: tuple[Path, Int8Report]) -> None:
    with glc.Codec.open(added[0], engine=engine, precision="f32", threads=2) as codec:
        assert codec.encoders == codec.decoders == (OWN, INT8)
        for quality in range(codec.qualities):
            own, int8 = (codec.encode(PHOTO, quality, encoder=name) for name in codec.encoders)
            assert len(int8) == pytest.approx(len(own), rel=0.02)
            expected, found = codec.decode(own), codec.decode(own, decoder=INT8)
            assert (found != expected).any()
            assert psnr_db(expected, found) > 48
            assert psnr_db(PHOTO, codec.decode(int8, decoder=INT8)) == pytest.approx(psnr_db(PHOTO, expected), abs=0.1)


def test_the_report_says_what_was_measured(added: tuple[Path, Int8Report]) -> None:
    report = added[1]
    assert report.images == 1
    assert report.bytes_int8 == pytest.approx(report.bytes_own, rel=0.02)
    assert report.psnr_int8_db == pytest.approx(report.psnr_own_db, abs=0.1)
    assert (report.bytes_int8, report.psnr_int8_db) != (report.bytes_own, report.psnr_own_db)


def test_any_size_is_taken(added: tuple[Path, Int8Report]) -> None:
    with glc.Codec.open(added[0], threads=2) as codec:
        for height, width in ((1, 1), (33, 97)):
            image = PHOTO[:height, :width]
            assert codec.decode(codec.encode(image, 1, encoder=INT8), decoder=INT8).shape == image.shape


def test_an_image_in_tiles_is_refused(mini_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mini.glcb"
    shutil.copytree(mini_bundle, path)
    bundle, _ = add_int8(glc.Bundle.open(path), [PHOTO[:64, :64]])
    assert bundle.tile_layout() == glc.Bundle.open(mini_bundle).tile_layout()
    with glc.Codec.open(path, threads=2, memory_limit_bytes=64 << 30) as codec:
        image = PHOTO[:128, :128]
        data = codec.encode(image, 2, encoder=INT8)  # fits in one piece
        monkeypatch.setattr(BoundedNetworks, "fits", lambda _, graph, needed: not graph.startswith("synthesis"))
        assert codec.decode(data).shape == image.shape
        assert codec.tile_plan is not None
        with pytest.raises(MemoryLimitTooSmall, match=r"in one piece, since .* no tile graphs of synthesis\.int8"):
            codec.decode(data, decoder=INT8)


def test_nncf_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(shutil.copy(GOLDEN, tmp_path / "tiny.glcb"))
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match=r"pip install 'glc-deploy\[int8\]'"):
        add_int8(glc.Bundle.open(path), [PHOTO])
    assert path.read_bytes() == GOLDEN.read_bytes()


def test_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        add_int8(glc.Bundle.open(GOLDEN), [])


# The command


def test_the_command_adds_both_once(tmp_path: Path) -> None:
    path = Path(shutil.copy(GOLDEN, tmp_path / "tiny.glcb"))
    result = invoke(app, "--into", path, "--int8")
    assert result.exit_code == 0, result.output
    assert "encoder and decoder int8; on the 3 images of calibration" in result.stdout
    assert len(result.stdout.splitlines()) == 1  # NNCF draws on stdout too
    whole = path.read_bytes()
    again = invoke(app, "--into", path, "--int8")
    assert isinstance(again.exception, ExportError)
    assert "already has the encoder int8" in str(again.exception)
    assert path.read_bytes() == whole
