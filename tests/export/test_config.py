"""Reading a configuration from tensor shapes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from tests.conftest import DATA

from glc.errors import CheckpointMismatch
from glc.export.config import ModelConfig, Shape, read_config
from glc.export.model import GlcModel
from glc.export.synthetic import CONFIGS


def shapes_of(config: ModelConfig) -> dict[str, Shape]:
    with torch.device("meta"):
        model = GlcModel(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["natural", "facial", "mini"])
def test_a_released_state_dict_gives_its_configuration(name: str) -> None:
    listed = json.loads((DATA / f"state_dict_{name}.json").read_text())["inference"]
    assert read_config({key: tuple(shape) for key, shape in listed.items()}) == CONFIGS[name]


@pytest.mark.parametrize("name", ["natural", "facial", "mini"])
def test_the_model_has_the_released_names_and_shapes(name: str) -> None:
    listed = json.loads((DATA / f"state_dict_{name}.json").read_text())["inference"]
    assert shapes_of(CONFIGS[name]) == {key: tuple(shape) for key, shape in listed.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_survives_the_way_through_its_shapes(name: str) -> None:
    assert read_config(shapes_of(CONFIGS[name])) == CONFIGS[name]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"channel_multipliers": (1, 2, 4), "attention_levels": (2,)}, id="three levels"),
        pytest.param({"attention_levels": (0, 2, 4)}, id="attention at shallow levels"),
        pytest.param({"attention_levels": ()}, id="attention in the middle alone"),
        pytest.param({"channel_multipliers": (2,), "attention_levels": (0,)}, id="one level"),
        pytest.param({"encoder_blocks": 1, "decoder_blocks": 1}, id="one block"),
        pytest.param({"qualities": 64}, id="64 qualities"),
        pytest.param({"quant_conv": False}, id="no 1x1 convolutions"),
    ],
)
def test_other_architectures_are_read_too(changes: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIGS["mini"], **changes)
    assert read_config(shapes_of(config)) == config


def test_downsampling_follows_from_the_levels() -> None:
    assert {name: config.downsampling for name, config in CONFIGS.items()} == {
        "natural": 16,
        "facial": 32,
        "mini": 16,
        "f8": 8,
    }


@pytest.mark.parametrize("name", ["z_vq.embedding.weight", "q_enc", "vqgan.encoder.blocks.0.weight"])
def test_a_missing_tensor_that_tells_the_configuration_is_named(name: str) -> None:
    shapes = shapes_of(CONFIGS["mini"])
    del shapes[name]
    with pytest.raises(CheckpointMismatch, match=f"missing tensor {name}"):
        read_config(shapes)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vqgan.encoder.blocks.0.weight", (40, 3, 3, 3)),
        ("vqgan.encoder.blocks.0.weight", (32,)),
        ("z_vq.embedding.weight", (256, 30)),
        ("z_vq.embedding.weight", (0, 32)),
        ("vqgan.encoder.blocks.2.conv2.weight", (33, 32, 3, 3)),
    ],
)
def test_an_impossible_shape_is_named(name: str, shape: Shape) -> None:
    with pytest.raises(CheckpointMismatch):
        read_config(shapes_of(CONFIGS["mini"]) | {name: shape})


def test_other_state_dicts_are_no_glc_checkpoint() -> None:
    with pytest.raises(CheckpointMismatch):
        read_config({"layer1.0.weight": (64, 3, 7, 7)})
