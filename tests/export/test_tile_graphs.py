"""Tile graphs: every plan computes what the torch model computes of the whole image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from glc.engines import Array, Engine, HostLoader, engine_loader
from glc.errors import ExportError
from glc.export import GlcModel, synthetic_model
from glc.export.config import GLOBAL_ATTENTION, ModelConfig
from glc.export.graphs import Analysis, Synthesis, interpolated_row
from glc.export.model import with_attention_patch
from glc.export.onnx_graph import tensor_specs
from glc.export.parity import test_image
from glc.export.synthetic import F8, FACIAL, MINI
from glc.export.tile_graphs import can_be_tiled, tile_graphs
from glc.runtime.manifest import CodecConfig, FileEntry, GraphEntry
from glc.runtime.tile_layout import TileLayout, read_layout
from glc.runtime.tile_plan import Kept, TilePlan
from glc.runtime.tiled_transforms import TiledTransforms

SMALL_FACIAL = replace(
    FACIAL, latent_channels=32, base_channels=32, channel_multipliers=(1, 2, 2), attention_levels=(2,)
)
"""Without swish before the last convolution and without 1x1 convolutions, as the facial model."""

IMAGE = test_image(150, 210)
STRIP_BYTES = 1 << 18


class Tiles:
    """Tile graphs of a model on an engine."""

    def __init__(self, model: GlcModel, engine: str = "onnxruntime") -> None:
        config = model.config
        loader = engine_loader(engine, 2)
        assert isinstance(loader, HostLoader)
        graphs = dict(tile_graphs(model))
        entries = {n: GraphEntry(FileEntry(n, "0", 1), 0, *tensor_specs(data)) for n, data in graphs.items()}
        self.layout: TileLayout = read_layout(
            entries,
            CodecConfig(config.latent_channels, config.downsampling, config.codebook_entries, config.qualities, 32),
        )
        self.engines: Mapping[str, Engine] = {name: loader.load_strips(data) for name, data in graphs.items()}

    def run(self, graph: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self.engines[graph].run(feeds)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def mini_tiles(mini_model: GlcModel, request: pytest.FixtureRequest) -> Tiles:
    return Tiles(mini_model, request.param)


def distances(model: GlcModel, tiles: Tiles, plan: TilePlan) -> tuple[float, int, float]:
    """Largest difference of y as a part of its range, z indices that differ, and largest difference of pixels."""
    multiple = model.config.padding_multiple
    height, width = (-(-side // multiple) * multiple for side in IMAGE.shape[:2])
    rows = interpolated_row(model.q_enc, 1), interpolated_row(model.q_dec, 1)
    with torch.inference_mode():
        y, z_indices = (tensor.numpy() for tensor in Analysis(model)(torch.from_numpy(IMAGE)[None], rows[0]))
        y_hat = np.rint(y)
        image = Synthesis(model)(torch.from_numpy(y_hat), rows[1]).numpy()
    tiled = TiledTransforms(tiles.layout, plan, tiles.run, lambda: None, None)
    found, found_indices = tiled.analysis(IMAGE[None], rows[0].numpy(), height, width)
    pixels = np.empty_like(image[:, : IMAGE.shape[0], : IMAGE.shape[1]])
    tiled.synthesis(y_hat, rows[1].numpy(), pixels)
    return (
        float(np.abs(found - y).max() / np.abs(y).max()),
        int((found_indices != z_indices).sum()),
        float(np.abs(pixels.astype(int) - image[:, : IMAGE.shape[0], : IMAGE.shape[1]]).max()),
    )


ALL = Kept(1, 1, "float32")
HALVED, HALF, FEATURES = (Kept(1, within, "float16") for within in (1, 0.5, 0))
SOME, NOTHING = Kept(0.6, 0, "float16"), Kept(0, 0, "float32")


@pytest.mark.parametrize(
    ("finest", "others", "largest"),
    [
        (ALL, ALL, 1e-5),
        (NOTHING, ALL, 1e-5),
        (HALVED, HALVED, 3e-3),
        (HALVED, ALL, 3e-3),
        (HALF, HALF, 3e-3),
        (SOME, FEATURES, 3e-3),
        (SOME, ALL, 3e-3),
        (NOTHING, FEATURES, 3e-3),
    ],
)
def test_every_plan_gives_the_whole_image(
    mini_model: GlcModel, mini_tiles: Tiles, finest: Kept, others: Kept, largest: float
) -> None:
    plan = TilePlan((finest, others, others, others), STRIP_BYTES)
    of_y, indices, of_pixels = distances(mini_model, mini_tiles, plan)
    assert of_y < largest
    assert indices == 0
    assert of_pixels <= 1


@pytest.mark.parametrize("config", [F8, SMALL_FACIAL], ids=["f8", "facial"])
def test_other_configurations_are_tiled_too(config: ModelConfig) -> None:
    model = synthetic_model(config)
    levels = len(config.channel_multipliers) - 1
    plan = TilePlan((ALL,) * levels, STRIP_BYTES)
    of_y, indices, of_pixels = distances(model, Tiles(model), plan)
    assert of_y < 1e-5
    assert indices == 0
    assert of_pixels <= 1


def test_attention_above_the_deepest_level_cannot_be_tiled() -> None:
    config = replace(MINI, attention_levels=(3, 4))
    assert not can_be_tiled(config)
    with torch.device("meta"):
        model = GlcModel(config)
    with pytest.raises(ExportError, match="deepest level"):
        next(tile_graphs(model))


@pytest.mark.parametrize(("patch", "same_as_whole"), [(4, False), (GLOBAL_ATTENTION, True)])
def test_another_attention_patch_changes_the_latent(mini_model: GlcModel, patch: int, same_as_whole: bool) -> None:
    changed = with_attention_patch(mini_model, patch)
    assert changed.config.attention_patch == patch
    image = torch.from_numpy(IMAGE)[None]
    with torch.inference_mode():
        before, after = (Analysis(model).latent(image) for model in (mini_model, changed))
    # The latent has 12x16 positions: one patch of 32, several of 4.
    assert torch.equal(before, after) == same_as_whole
