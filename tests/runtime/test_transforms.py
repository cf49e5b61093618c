"""Names of encoders and decoders, and a codec that has several."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import invoke
from tests.runtime.bundle_files import add_stand_ins, edit, npz, put_tables, refusal, table_arrays
from tests.runtime.conftest import PHOTO, SMALL

import glc
from glc.errors import BundleAltered, BundleInvalid
from glc.runtime import bounded_networks
from glc.runtime.command import app
from glc.runtime.default_model import default_bundle
from glc.runtime.transforms import beside, further_graphs, is_transform_name, own_name, transforms


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration bundle as a directory, with `restore`, `twin` and `scream`."""
    path = tmp_path_factory.mktemp("transforms") / "demo.glcb"
    with zipfile.ZipFile(default_bundle()) as archive:
        archive.extractall(path)
    add_stand_ins(path)
    return path


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return shutil.copytree(whole, tmp_path / "copy.glcb")


@pytest.fixture(scope="module")
def demo() -> Iterator[glc.Codec]:
    with glc.Codec.open(default_bundle(), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def chosen(whole: Path) -> Iterator[glc.Codec]:
    with glc.Codec.open(whole, threads=1) as opened:
        yield opened


# Names


@pytest.mark.parametrize("name", ["restore", "Scream", "a", "2", "film-noir_3", "a" * 32])
def test_short_plain_names_may_be_used(name: str) -> None:
    assert is_transform_name(name)
    graph = f"analysis.{name}"
    assert transforms(["analysis", graph], "analysis") == {"default": "analysis", name: graph}


@pytest.mark.parametrize(
    "name", ["", "default", "DEFAULT", "-a", "_a", "a b", "a.b", "a/b", "..", "ä", "a\n", "a" * 33]
)
def test_graphs_of_other_names_are_passed_over(name: str) -> None:
    assert not is_transform_name(name)
    graphs = ["analysis", f"analysis.{name}", f"synthesis.{name}"]
    assert transforms(graphs, "analysis") == {"default": "analysis"}
    assert further_graphs(graphs) == ()


def test_what_belongs_to_a_transform_bears_its_name() -> None:
    assert own_name("synthesis.scream") == own_name("synthesis") == "synthesis"
    assert beside("q_dec", "synthesis.scream") == "q_dec.scream"
    assert beside("tile_synthesis_end", "synthesis") == "tile_synthesis_end"
    graphs = ["synthesis.b", "analysis.z", "synthesis", "analysis.a", "hyper_prior", "hyper_prior.x"]
    assert further_graphs(graphs) == ("analysis.a", "analysis.z", "synthesis.b")


# Coding


def test_a_codec_lists_the_models_own_first(demo: glc.Codec, chosen: glc.Codec) -> None:
    assert (demo.encoders, demo.decoders) == (("default",), ("default",))
    assert (chosen.encoders, chosen.decoders) == (("default", "restore", "twin"), ("default", "scream"))


def test_others_leave_the_models_own_streams_and_images_as_they_were(demo: glc.Codec, chosen: glc.Codec) -> None:
    data = demo.encode(SMALL, 2)
    assert data == chosen.encode(SMALL, 2) == chosen.encode(SMALL, 2, encoder="default")
    np.testing.assert_array_equal(chosen.decode(data), demo.decode(data))


def test_an_encoder_that_is_the_models_own_makes_the_same_bytes(chosen: glc.Codec) -> None:
    assert chosen.encode(SMALL, 1, encoder="twin") == chosen.encode(SMALL, 1)


def test_any_decoder_decodes_what_any_encoder_made(demo: glc.Codec, chosen: glc.Codec) -> None:
    own, restored = (chosen.encode(SMALL, 1, encoder=encoder) for encoder in ("default", "restore"))
    assert own != restored
    for data in (own, restored):
        images = [chosen.decode(data, decoder=decoder) for decoder in chosen.decoders]
        assert images[0].shape == images[1].shape == SMALL.shape
        assert (images[0] != images[1]).any()
        np.testing.assert_array_equal(images[0], demo.decode(data))  # a codec that knows of neither


def test_every_way_of_decoding_takes_a_decoder(chosen: glc.Codec) -> None:
    data = chosen.encode(SMALL, 1)
    expected = chosen.decode(data, decoder="scream")
    out = np.empty_like(SMALL)
    assert chosen.decode(data, out=out, decoder="scream") is out
    partial = chosen.decode_partial(data, decoder="scream").image
    cut = chosen.decode(data[:-5], allow_partial=True, decoder="scream")
    for image in (out, partial, *chosen.decode_batch([data, data], workers=2, decoder="scream")):
        np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(cut, chosen.decode_partial(data[:-5], decoder="scream").image)
    rough = chosen.preview(data, decoder="scream")
    assert (rough != chosen.preview(data)).any()

    async def awaited() -> None:
        np.testing.assert_array_equal(await chosen.adecode(data, decoder="scream"), expected)
        np.testing.assert_array_equal((await chosen.adecode_partial(data, decoder="scream")).image, expected)
        np.testing.assert_array_equal(await chosen.apreview(data, decoder="scream"), rough)

    asyncio.run(awaited())


def test_every_way_of_encoding_takes_an_encoder(chosen: glc.Codec) -> None:
    expected = chosen.encode(SMALL, 1, encoder="restore")
    assert chosen.encode_batch([SMALL] * 2, 1, workers=2, encoder="restore") == [expected] * 2
    assert asyncio.run(chosen.aencode(SMALL, 1, encoder="restore")) == expected


def test_an_unknown_name_is_told_with_those_that_are_known(chosen: glc.Codec) -> None:
    data = chosen.encode(SMALL, 1)
    encoders, decoders = "default, restore, twin", "default, scream"
    calls: list[tuple[str, Callable[[str], object]]] = [
        (encoders, lambda name: chosen.encode(SMALL, 1, encoder=name)),
        (encoders, lambda name: chosen.encode_batch([SMALL], 1, encoder=name)),
        (encoders, lambda name: asyncio.run(chosen.aencode(SMALL, 1, encoder=name))),
        (encoders, lambda name: chosen.warm_up(encoder=name)),
        (decoders, lambda name: chosen.decode(data, decoder=name)),
        (decoders, lambda name: chosen.decode_partial(data, decoder=name)),
        (decoders, lambda name: chosen.decode_batch([data], decoder=name)),
        (decoders, lambda name: chosen.preview(data, decoder=name)),
        (decoders, lambda name: asyncio.run(chosen.adecode(data, decoder=name))),
        (decoders, lambda name: chosen.warm_up(decoder=name)),
    ]
    for known, call in calls:
        for name in ("analysis", "Scream", "", "x" * 100_000):
            with pytest.raises(ValueError, match=rf"coder is called '.*'; this bundle has {known}") as caught:
                call(name)
            assert len(str(caught.value)) < 300


def test_what_is_not_used_is_neither_read_nor_loaded(bundle: Path) -> None:
    extra = bundle / "graphs" / "extra.onnx"
    extra.write_bytes(b"never read")

    def change(document: dict[str, Any]) -> None:
        entry = document["graphs"]["analysis.restore"]
        document["graphs"]["analysis.restore"] = {**entry, "file": {**entry["file"], "name": "graphs/extra.onnx"}}

    edit(bundle, change)
    loaded: list[str] = []
    with glc.Codec.open(bundle, threads=1, on_stage=lambda stage, _: loaded.append(stage)) as codec:
        codec.warm_up()
        codec.decode(codec.encode(SMALL, 1))
        assert "load_analysis" in loaded
        assert not [stage for stage in loaded if "." in stage]
        codec.decode(codec.encode(SMALL, 1), decoder="scream")
        assert [stage for stage in loaded if "." in stage] == ["load_synthesis.scream", "synthesis.scream"]
        with pytest.raises(BundleAltered, match=r"extra\.onnx"):
            codec.encode(SMALL, 1, encoder="restore")
        assert codec.encode(SMALL, 1)


def test_a_codec_is_warmed_up_for_what_is_named(whole: Path) -> None:
    loaded: list[str] = []
    with glc.Codec.open(whole, threads=1, on_stage=lambda stage, _: loaded.append(stage)) as codec:
        codec.warm_up(encoder="restore", decoder="scream")
        assert {"load_analysis.restore", "load_synthesis.scream", "load_hyper_prior"} <= set(loaded)
        assert not {"load_analysis", "load_synthesis", "load_analysis.twin"} & set(loaded)
        codec.decode(codec.encode(SMALL, 1, encoder="restore"), decoder="scream")
        assert not {"load_analysis", "load_synthesis", "load_analysis.twin"} & set(loaded)


def test_images_in_tiles_take_encoders_and_decoders_too(
    mini_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_networks, "resident_bytes", lambda: 0)
    path = shutil.copytree(mini_bundle, tmp_path / "tiled.glcb")
    add_stand_ins(path)
    photo = np.tile(PHOTO, (2, 2, 1))
    stages: list[str] = []
    with (
        glc.Codec.open(path, threads=2) as free,
        glc.Codec.open(
            path, threads=2, memory_limit_bytes=200 << 20, on_stage=lambda stage, _: stages.append(stage)
        ) as tiled,
    ):
        data = free.encode(photo, 2, encoder="restore")
        expected = free.decode(data, decoder="scream")
        tiled_data = tiled.encode(photo, 2, encoder="restore")
        assert tiled.tile_plan is not None
        # Rounding may move a symbol, the model's own factors would move all of them.
        assert abs(len(tiled_data) - len(data)) < 20 < abs(len(free.encode(photo, 2)) - len(data))
        found = tiled.decode(data, decoder="scream")
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert np.abs(found.astype(int) - free.decode(data)).max() > 1
    assert {"load_tile_analysis_deepest.restore", "load_tile_synthesis_end.scream"} <= set(stages)
    assert "load_tile_analysis_deepest" not in stages


# Bundles


def _without_rows(bundle: Path) -> None:
    arrays = table_arrays(bundle)
    del arrays["q_dec.scream"]
    put_tables(bundle, npz(arrays))


def _other_rows(bundle: Path) -> None:
    arrays = table_arrays(bundle)
    put_tables(bundle, npz(arrays | {"q_enc.restore": arrays["q_enc"][:, :-1]}))


def _other_inputs(bundle: Path) -> None:
    edit(bundle, lambda document: document["graphs"].update({"analysis.x": document["graphs"]["synthesis"]}))


@pytest.mark.parametrize(
    ("change", "mentioned"),
    [(_without_rows, "q_dec.scream"), (_other_rows, "q_enc.restore"), (_other_inputs, "analysis.x")],
)
def test_a_transform_that_does_not_fit_is_refused(change: Callable[[Path], None], mentioned: str, bundle: Path) -> None:
    change(bundle)
    refusal(bundle, BundleInvalid, mentioned)


@pytest.mark.parametrize("damage", ["missing", "other"])
def test_tiles_of_a_transform_must_be_those_of_the_models_own(damage: str, mini_bundle: Path, tmp_path: Path) -> None:
    path = shutil.copytree(mini_bundle, tmp_path / "tiled.glcb")
    add_stand_ins(path)

    def change(document: dict[str, Any]) -> None:
        tiles = document["tiles"]
        if damage == "missing":
            del tiles["tile_analysis_1_down.restore"]
        else:
            tiles["tile_analysis_1_down.restore"] = tiles["tile_analysis_start"]

    edit(path, change)
    glc.Codec.open(path).close()  # nobody asked for tiles
    with pytest.raises(BundleInvalid, match=r"tile_analysis_1_down\.restore"):
        glc.Codec.open(path, memory_limit_bytes=1 << 30)


# The command


def test_the_command_takes_an_encoder_and_a_decoder(whole: Path, chosen: glc.Codec, tmp_path: Path) -> None:
    Image.fromarray(SMALL).save(tmp_path / "small.png")
    stream, image = tmp_path / "small.glc", tmp_path / "back.png"
    options = ("-b", whole, "--threads", 1)
    assert invoke(app, "encode", tmp_path / "small.png", stream, "--encoder", "restore", *options).exit_code == 0
    data = stream.read_bytes()
    assert data == chosen.encode(SMALL, 1, encoder="restore")
    for command, decode in (("decode", chosen.decode), ("preview", chosen.preview)):
        assert invoke(app, command, stream, image, "--decoder", "scream", *options).exit_code == 0
        with Image.open(image) as opened:
            np.testing.assert_array_equal(np.asarray(opened), decode(data, decoder="scream"))
    told = json.loads(invoke(app, "info", whole, "--json").output)
    assert (told["encoders"], told["decoders"]) == (["default", "restore", "twin"], ["default", "scream"])
    assert "16 graphs are intact" in invoke(app, "verify", whole, "--threads", 1).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("encode", "small.png", "out.glc", "--encoder", "scream"), "--encoder is 'scream'; this bundle has default, "),
        (("decode", "small.glc", "out.png", "--decoder", "twin"), "--decoder is 'twin'; this bundle has default, "),
        (("preview", "small.glc", "out.png", "--decoder", ""), "--decoder is ''; this bundle has default, "),
    ],
)
def test_an_unknown_name_is_a_mistake_in_the_call(
    arguments: tuple[str, ...],
    message: str,
    whole: Path,
    chosen: glc.Codec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(SMALL).save("small.png")
    Path("small.glc").write_bytes(chosen.encode(SMALL, 1))
    result = invoke(app, *arguments, "-b", whole)
    assert result.exit_code == 2
    assert message in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.glc", "small.png"]


def test_verify_reads_what_a_codec_would_load_later(bundle: Path) -> None:
    (bundle / "graphs" / "synthesis.onnx").rename(bundle / "graphs" / "moved.onnx")

    def change(document: dict[str, Any]) -> None:
        document["graphs"]["synthesis"]["file"]["name"] = "graphs/moved.onnx"

    edit(bundle, change)
    done = subprocess.run(
        [sys.executable, "-m", "glc.runtime", "verify", str(bundle)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "synthesis.onnx is missing" in done.stderr
