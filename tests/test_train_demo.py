"""The training script's parts against the model's, and a run that stops and goes on."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from examples.train_demo.fast_norm import use_fast_norms
from examples.train_demo.initialise import fit_ends, new_model, rotate_latent
from examples.train_demo.metrics import ms_ssim
from examples.train_demo.recipe import DEMO, Recipe, StageSettings, parse_plan
from examples.train_demo.stages import Stages
from examples.train_demo.trainer import Trainer
from examples.train_demo.walk import part_masks, walk
from PIL import Image
from torch import nn

import glc
from glc.export import load_checkpoint
from glc.export.bundle_writer import checkpoint_id
from glc.export.reference import _four_parts
from glc.export.synthetic import MINI, synthetic_model

DEFAULT_MODEL = Path(glc.__file__).parent / "default_model"

SMALL = replace(DEMO, latent_channels=8, channel_multipliers=(2, 1, 3), attention_levels=(2,), codebook_entries=16)


def test_the_walk_is_the_models() -> None:
    torch.manual_seed(0)
    model = synthetic_model(MINI)
    params, y = torch.randn(1, 96, 8, 12), 2 * torch.randn(1, 32, 8, 12)
    expected, _, _ = _four_parts(model, params, y)
    assert torch.equal(walk(model, params, y, part_masks(32, 8, 12)).y_hat, expected)


def test_the_fast_norm_is_torchs() -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(32, 96, eps=1e-6)
    nn.init.normal_(norm.weight)
    fast = copy.deepcopy(norm)
    use_fast_norms(nn.Sequential(fast))
    x = 2 * torch.randn(2, 96, 6, 10) + 1
    gradient = torch.randn_like(x)
    plain, last = x.clone().requires_grad_(), x.contiguous(memory_format=torch.channels_last).requires_grad_()
    norm(plain).backward(gradient)
    fast(last).backward(gradient)
    assert plain.grad is not None
    assert last.grad is not None
    torch.testing.assert_close(last.grad, plain.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fast.weight.grad, norm.weight.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(fast.bias.grad, norm.bias.grad, rtol=1e-4, atol=1e-3)


def test_the_rotation_leaves_the_picture() -> None:
    torch.manual_seed(0)
    model = new_model(SMALL)
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    fit_ends(model, x)
    with torch.no_grad():
        before = model.vqgan.generator(model.vqgan.encoder(x))
    rotate_latent(model, [x])
    with torch.no_grad():
        latent = model.vqgan.encoder(x)
        after = model.vqgan.generator(latent)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    assert float(latent.var(dim=(0, 2, 3)).mean()) == pytest.approx(1, abs=0.1)


def test_ms_ssim_of_equal_pictures_is_one() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 200, 180) * 255
    assert float(ms_ssim(x, x)) == pytest.approx(1)
    assert float(ms_ssim(x, (x + 40 * torch.randn_like(x)).clamp(0, 255))) < 0.98


def test_a_run_stops_and_goes_on(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    Image.fromarray(noise).save(photos / "a.png")
    recipe = Recipe({stage: StageSettings(crop=32, batch=2, learning_rate=1e-4) for stage in (1, 2, 3)})
    first = Trainer(Stages(new_model(SMALL), recipe), recipe, photos, tmp_path, seed=0)
    first.start(parse_plan("1:5,2:5,3:5"))
    first.run(most_steps=2)
    again = Trainer(Stages(new_model(SMALL), recipe), recipe, photos, tmp_path, seed=0)
    again.resume()
    assert again.position.stage_steps == {1: 2, 2: 2, 3: 2}
    again.start(parse_plan("3:5"))
    again.run(most_steps=1)
    assert again.position.stage_steps[3] == 3
    loaded = load_checkpoint(again.weights_file)
    assert loaded.config == SMALL


def test_the_demonstration_checkpoint_is_the_recipes() -> None:
    path = DEFAULT_MODEL / "weights.safetensors"
    assert path.stat().st_size <= 8 * 10**6
    model = load_checkpoint(path)
    assert model.config == DEMO
    assert glc.Bundle.open(DEFAULT_MODEL / "demo.glcb").manifest.checkpoint_id == checkpoint_id(model)
