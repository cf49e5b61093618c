"""The restoring encoder: what its training moves, what its file holds, and that it restores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from examples.train_demo.initialise import new_model
from examples.train_demo.recipe import Recipe, StageSettings, parse_plan
from examples.train_demo.state import save_weights
from examples.train_demo.trainer import Trainer
from examples.train_restoration.encoder_file import merge_encoder, write_encoder
from examples.train_restoration.evaluate import noisy_picture
from examples.train_restoration.restoration import TRAINED, Restoration, with_noise
from PIL import Image
from tests.test_train_demo import DEFAULT_MODEL, SMALL

import glc
from glc.bench.pictures import non_local_means
from glc.export import load_checkpoint, reference
from glc.export.transform_weights import transform_model, weights_of_model
from glc.runtime.transforms import ANALYSIS

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "examples/restoration/restore.safetensors"
RECIPE = Recipe({stage: StageSettings(crop=32, batch=2, learning_rate=2e-3) for stage in (1, 2)}, structure_weight=0.0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    save_weights(path, new_model(SMALL).state_dict())
    return path


@pytest.mark.parametrize(("stage", "rate", "share"), [(1, 3e-5, 0.6), (2, 3e-4, 0.95)])
def test_a_few_steps_reduce_the_loss(checkpoint: Path, stage: int, rate: float, share: float) -> None:
    training = Restoration(load_checkpoint(checkpoint), RECIPE, sigma=120.0).train()
    trained = training.trained(stage)
    training.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(trained, rate)
    x = torch.rand(2, 3, 8, 8).mul(2).sub(1).repeat_interleave(4, 2).repeat_interleave(4, 3)

    def loss() -> torch.Tensor:
        torch.manual_seed(2)  # the same noise and qualities
        return training.step(stage, x).loss

    first = float(loss().detach())
    for _ in range(8):
        optimiser.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert float(loss().detach()) < share * first


def test_a_run_moves_the_encoder_alone_and_goes_on(tmp_path: Path, photos: Path, checkpoint: Path) -> None:
    trainer = Trainer(Restoration(load_checkpoint(checkpoint), RECIPE, 20.0), RECIPE, photos, tmp_path, seed=0)
    trainer.load_weights(checkpoint)
    trainer.start(parse_plan("1:5,2:5"))
    trainer.run(most_steps=2)
    before, after = (safetensors.torch.load_file(path) for path in (checkpoint, trainer.weights_file))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert set(after) == set(before)
    assert changed
    assert all(name.startswith(TRAINED) for name in changed)
    again = Trainer(Restoration(load_checkpoint(checkpoint), RECIPE, 20.0), RECIPE, photos, tmp_path, seed=0)
    again.resume()
    assert again.position.stage_steps == {1: 2, 2: 2}
    assert torch.equal(again.stages.state_dict()["hyper_vq.usage"], trainer.stages.state_dict()["hyper_vq.usage"])

    encoder, merged = tmp_path / "restore.safetensors", tmp_path / "merged.safetensors"
    write_encoder(trainer.weights_file, encoder)
    held = safetensors.torch.load_file(encoder)
    assert {"q_enc", "hyper_enc.1.weight"} < set(held)
    assert set(held) == {name for name in before if name.startswith(TRAINED)}
    merge_encoder(checkpoint, encoder, merged)
    joined = safetensors.torch.load_file(merged)
    assert all(torch.equal(joined[name], after[name]) for name in after)


def test_only_an_encoder_is_merged(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="does not fit the encoder"):
        merge_encoder(checkpoint, checkpoint, tmp_path / "merged.safetensors")


def test_noise_is_what_a_file_could_hold() -> None:
    torch.manual_seed(0)
    levels = (with_noise(torch.zeros(1, 3, 64, 64), 20.0) + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert float(levels.std()) == pytest.approx(20, rel=0.05)


def test_the_denoiser_beside_it_takes_noise_away() -> None:
    clean = np.full((48, 48, 3), 128, np.uint8)
    noisy = noisy_picture(clean, 20.0, np.random.default_rng(0))
    assert np.abs(non_local_means(noisy, 20.0, strength=0.6) - 128.0).mean() < 0.5 * np.abs(noisy - 128.0).mean()


def test_the_shipped_encoder_shows_noisy_pictures_better_at_no_more_bits(tmp_path: Path) -> None:
    assert SHIPPED.stat().st_size <= 4 * 10**6
    weights = DEFAULT_MODEL / "weights.safetensors"
    merge_encoder(weights, SHIPPED, tmp_path / "merged.safetensors")
    plain, restoring = load_checkpoint(weights), load_checkpoint(tmp_path / "merged.safetensors")
    transform_model(ANALYSIS, SHIPPED, weights_of_model(plain, "the demonstration"))
    with Image.open(Path(glc.__file__).parent / "photos/coffee.png") as photo:
        clean = np.asarray(photo.convert("RGB").reduce(2))
    noisy = noisy_picture(clean, 20.0, np.random.default_rng(0))
    # At the same quality it spends a fifth less; the plain encoder comes to its bits half a quality lower.
    before, after = reference(plain, noisy, 2.5), reference(restoring, noisy, 3.0)
    wanted = clean.transpose(2, 0, 1) / 127.5 - 1
    assert after.bit_y < before.bit_y
    assert np.square(after.x_hat - wanted).mean() < 0.98 * np.square(before.x_hat - wanted).mean()
