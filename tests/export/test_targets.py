"""Compiling a bundle for GPUs that are not at hand, with the real TensorRT for RTX."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer.testing
from tests.conftest import load_image
from tests.runtime.conftest import edited

import glc
from glc.engines import TargetKey, trt_sdk
from glc.engines.trt_builder import Profile, build_engine, builder_for
from glc.errors import BuilderUnavailable, BuildFailed, ExportError, TargetMissing
from glc.export import targets
from glc.export.command import app
from glc.export.targets import EngineReport, ImageSizes, compile_target, profiles
from glc.runtime.command import app as runtime_app
from glc.runtime.manifest import CodecConfig
from glc.runtime.signatures import signatures, step_signatures

RTX = trt_sdk.TENSORRT_RTX
CONFIG = CodecConfig(latent_channels=32, downsampling=16, codebook_entries=256, qualities=4, attention_patch=32)
KEY = TargetKey(RTX, trt_sdk.version(RTX), "sm80", "f16")


@pytest.fixture(scope="module")
def sm80(mini_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[EngineReport]]:
    path = tmp_path_factory.mktemp("sm80") / "mini.glcb"
    shutil.copytree(mini_bundle, path)
    reports: list[EngineReport] = []
    compile_target(glc.Bundle.open(path), "sm80", on_engine=reports.append)
    return path, reports


@pytest.mark.slow
def test_every_graph_is_compiled_and_the_bundle_still_decodes(
    sm80: tuple[Path, list[EngineReport]], codec: glc.Codec, mini_bundle: Path
) -> None:
    path, reports = sm80
    bundle = glc.Bundle.open(path)
    names = {*signatures(32), *step_signatures(32)}
    assert {report.graph for report in reports} == names == bundle.manifest.graphs.keys()
    compiled = bundle.manifest.targets["sm80-tensorrt_rtx-f16"]
    assert (compiled.key, compiled.largest, set(compiled.engines)) == (KEY, (2048, 2048), names)
    for report in reports:
        engine = report.engine
        assert bundle.graph(report.graph, KEY)[1] == engine.data
        assert engine.layers > 0
        assert engine.weights_bytes is not None
        assert engine.activation_bytes is not None
    assert bundle.verify() > glc.Bundle.open(mini_bundle).verify()
    image = load_image("coffee_200x300.png")
    with glc.Codec.open(path, threads=2) as other:
        assert other.encode(image) == codec.encode(image)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm86", "sm120"])  # sm89 in the test of the command
def test_other_cards_compile_too_and_are_kept_beside_each_other(
    target: str, sm80: tuple[Path, list[EngineReport]]
) -> None:
    path, _ = sm80
    compile_target(glc.Bundle.open(path), target)
    bundle = glc.Bundle.open(path)
    assert {"sm80-tensorrt_rtx-f16", f"{target}-tensorrt_rtx-f16"} <= bundle.manifest.targets.keys()
    bundle.verify()


@pytest.mark.slow
def test_engines_are_keyed_by_library_version_card_and_precision(sm80: tuple[Path, list[EngineReport]]) -> None:
    bundle = glc.Bundle.open(sm80[0])
    for other in (
        TargetKey("tensorrt", KEY.version, "sm80", "f16"),
        TargetKey(RTX, "1.7.2", "sm80", "f16"),
        TargetKey(RTX, KEY.version, "sm90", "f16"),
        TargetKey(RTX, KEY.version, "sm80", "f32"),
    ):
        with pytest.raises(TargetMissing, match=r"it holds .*sm80 with tensorrt_rtx"):
            bundle.graph("analysis", other)


def test_profiles_reach_from_one_pixel_to_the_largest_image() -> None:
    sizes = ImageSizes(typical=(512, 768), largest=(2048, 1000))
    graphs = signatures(32) | step_signatures(32)
    found = {name: profiles(CONFIG, signature.inputs, sizes) for name, signature in graphs.items()}
    assert found["analysis"] == {"image": Profile((1, 1, 1, 3), (1, 512, 768, 3), (1, 2048, 1000, 3))}
    assert found["hyper_prior"] == {"z_indices": Profile((1, 1, 1), (1, 8, 12), (1, 32, 16))}
    whole = Profile((1, 32, 4, 4), (1, 32, 32, 48), (1, 32, 128, 64))
    part = Profile((1, 32, 2, 2), (1, 32, 16, 24), (1, 32, 64, 32))
    assert found["synthesis"] == {"y_hat": whole}
    assert found["assemble_2"] == {"symbols": part, "means": part, "y_hat": whole}
    for name, signature in graphs.items():
        assert found[name].keys() == {spec.name for spec in signature.inputs if None in spec.shape}


@pytest.mark.parametrize(
    ("target", "library", "message"),
    [
        ("sm90", RTX, r"tensorrt_rtx 1\.\S+ builds for .*sm80.*sm89"),
        ("a100", None, "name a compute capability, such as sm80 for A100"),
        ("sm80", trt_sdk.TENSORRT, "tensorrt is not installed .*pip install tensorrt|GPU at hand|NVIDIA driver"),
    ],
)
def test_what_cannot_be_built_here_says_why(target: str, library: str | None, message: str) -> None:
    with pytest.raises(BuilderUnavailable, match=message):
        builder_for(target, library)


def test_garbage_is_refused_by_the_parser() -> None:
    with pytest.raises(BuildFailed, match="tensorrt_rtx cannot parse the graph: "):
        build_engine(RTX, "sm80", b"\x08\x0agarbage", {}, tf32=False)


def test_a_failed_compilation_leaves_the_bundle_as_it_was(
    mini_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mini.glcb"
    shutil.copytree(mini_bundle, path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def fail(name: str, target: str, graph: bytes, profiles: object, *, tf32: bool) -> None:
        raise BuildFailed("no")

    monkeypatch.setattr(targets, "build_engine", fail)
    with pytest.raises(BuildFailed, match="graph analysis: no"):
        compile_target(glc.Bundle.open(path), "sm80")
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["mini.glcb"]


def test_a_bundle_without_steps_must_be_exported_again(mini_bundle: Path, tmp_path: Path) -> None:
    path = edited(mini_bundle, tmp_path / "old.glcb", lambda document: document["graphs"].pop("quantise"))
    with pytest.raises(ExportError, match="lacks the graphs quantise: export it again"):
        compile_target(glc.Bundle.open(path), "sm80")


def test_a_malformed_target_in_a_manifest_is_refused(mini_bundle: Path, tmp_path: Path) -> None:
    def change(document: dict[str, object]) -> None:
        document["targets"] = {"x": {"key": {"library": "a b"}, "largest": [1, 1], "engines": {}}}

    with pytest.raises(glc.errors.BundleInvalid, match="library"):
        glc.Bundle.open(edited(mini_bundle, tmp_path / "bad.glcb", change))


@pytest.mark.slow
def test_the_command_compiles_an_existing_bundle_and_prints_a_table(mini_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "mini.glcb"
    shutil.copytree(mini_bundle, path)
    arguments = ["--bundle", str(path), "--target", "sm89", "--typical", "256x256", "--largest", "512x512"]
    result = typer.testing.CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "spatial_prior_3" in result.output
    assert "images up to 512x512" in result.output
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["targets"]["sm89-tensorrt_rtx-f16"]["largest"] == [512, 512]
    told = typer.testing.CliRunner().invoke(runtime_app, ["info", str(path), "--json"])
    assert json.loads(told.output)["targets"] == [f"sm89 with tensorrt_rtx {KEY.version} at f16"]
