"""What a manifest says of its tile graphs, read without trust."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from glc.errors import BundleInvalid, TilesMissing
from glc.runtime import Bundle
from glc.runtime.tile_layout import TileLevel, read_layout


def test_levels_are_those_of_the_model(mini_bundle: Path) -> None:
    layout = Bundle.open(mini_bundle).tile_layout()
    assert layout.analysis == (TileLevel(2, 32), TileLevel(2, 32), TileLevel(2, 64), TileLevel(2, 64))
    assert layout.synthesis == (TileLevel(3, 32), TileLevel(3, 64), TileLevel(3, 64), TileLevel(3, 128))


def test_every_graph_is_missed(mini_bundle: Path) -> None:
    manifest = Bundle.open(mini_bundle).manifest
    for name in manifest.tiles:
        rest = {other: entry for other, entry in manifest.tiles.items() if other != name}
        with pytest.raises(BundleInvalid, match="tile"):
            read_layout(rest, manifest.config)


def test_another_transform_has_all_tiles_or_none(mini_bundle: Path) -> None:
    manifest = Bundle.open(mini_bundle).manifest
    own = {name: entry for name, entry in manifest.tiles.items() if name.startswith("tile_synthesis_")}
    others = {f"{name}.scream": entry for name, entry in own.items()}
    layout = read_layout(manifest.tiles, manifest.config)
    assert read_layout(manifest.tiles, manifest.config, ["synthesis.scream"]) == layout
    assert read_layout({**manifest.tiles, **others}, manifest.config, ["synthesis.scream"]) == layout
    for name in others:
        rest = {**manifest.tiles, **others}
        del rest[name]
        with pytest.raises(BundleInvalid, match=rf"no tile graph {name} "):
            read_layout(rest, manifest.config, ["synthesis.scream"])


def test_another_shape_is_refused(mini_bundle: Path) -> None:
    manifest = Bundle.open(mini_bundle).manifest
    entry = manifest.tiles["tile_synthesis_1_1_1"]
    wider = dataclasses.replace(entry.inputs[0], shape=(1, 64, None, None))
    changed = dataclasses.replace(entry, inputs=(wider, *entry.inputs[1:]))
    with pytest.raises(BundleInvalid, match="tile_synthesis_1_1_1"):
        read_layout({**manifest.tiles, "tile_synthesis_1_1_1": changed}, manifest.config)


def test_an_odd_downsampling_has_no_levels(mini_bundle: Path) -> None:
    manifest = Bundle.open(mini_bundle).manifest
    with pytest.raises(BundleInvalid, match="downsampling"):
        read_layout(manifest.tiles, dataclasses.replace(manifest.config, downsampling=12))


def test_a_bundle_without_tiles_says_what_to_do() -> None:
    bundle = Bundle.open(Path(__file__).parents[1] / "golden" / "tiny.glcb")
    with pytest.raises(TilesMissing, match="export it again"):
        bundle.tile_layout()
