"""Metrics with trained networks: never a number without the published weights, and what comes after the networks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from glc.bench import image_metrics, perceptual
from glc.bench.perceptual import (
    ALEXNET,
    INCEPTION,
    VGG16,
    PerceptualNetworks,
    frechet_distance,
    kernel_distance,
    open_networks,
    patches,
)
from glc.runtime.terminal import MissingExtra


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision and torch-fidelity as if they were installed, and no network."""
    vision = ModuleType("torchvision")
    urls = {"AlexNet_Weights": ALEXNET.name, "VGG16_Weights": VGG16.name}
    weights = {name: SimpleNamespace(DEFAULT=SimpleNamespace(url=f"x/{file}")) for name, file in urls.items()}
    vision.models = SimpleNamespace(**weights)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", vision)
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))

    def refuse(*_: object) -> None:
        raise AssertionError("the network was tried")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


def test_without_packages_every_metric_is_missing_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    networks = open_networks(tmp_path)
    assert (networks.distances, networks.inception) == ({}, None)
    for titles, file in (("LPIPS (AlexNet)", ALEXNET), ("LPIPS (VGG16), DISTS", VGG16), ("FID, KID", INCEPTION)):
        (line,) = (line for line in networks.missing if line.startswith(f"missing: {titles}: "))
        assert "pip install 'glc-deploy[perceptual]'" in line
        assert file.name in line
        assert str(tmp_path) in line


@pytest.mark.usefixtures("packages")
def test_without_files_their_names_and_places_are_told(tmp_path: Path) -> None:
    networks = open_networks(tmp_path)
    assert (networks.distances, networks.inception) == ({}, None)
    for file, line in zip((ALEXNET, VGG16, INCEPTION), networks.missing, strict=True):
        assert f"there is no {tmp_path / file.name}; download it from {file.address}" in line


@pytest.mark.usefixtures("packages")
def test_other_weights_under_a_published_name_are_refused(tmp_path: Path) -> None:
    for file in (ALEXNET, VGG16, INCEPTION):
        (tmp_path / file.name).write_bytes(b"something else")
    networks = open_networks(tmp_path)
    assert (networks.distances, networks.inception) == ({}, None)
    assert len(networks.missing) == 3
    assert all("is not the published file" in line for line in networks.missing)


@pytest.mark.usefixtures("packages")
def test_a_torchvision_that_would_download_other_weights_is_not_asked(tmp_path: Path) -> None:
    sys.modules["torchvision"].models.VGG16_Weights.DEFAULT.url = "x/vgg16-00000000.pth"
    assert any("takes vgg16-00000000.pth, not vgg16-397923af.pth" in line for line in open_networks(tmp_path).missing)


@pytest.mark.usefixtures("packages")
def test_published_files_are_looked_for_in_the_folder_and_networks_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def build(file: perceptual.WeightFile) -> perceptual.Comparison:
        seen.append((Path(torch.hub.get_dir()) / "checkpoints" / file.name).is_file())
        return lambda decoded, original: float((decoded - original).abs().mean())

    for file in (ALEXNET, VGG16):
        (tmp_path / file.name).write_bytes(b"weights")
    before = torch.hub.get_dir()
    monkeypatch.setattr(perceptual, "_sha256", lambda path: path.stem.rsplit("-", 1)[-1] + "0" * 56)
    monkeypatch.setattr(perceptual, "_lpips", lambda network: build(ALEXNET if network == "alex" else VGG16))
    monkeypatch.setattr(perceptual, "_dists", lambda: build(VGG16))
    networks = open_networks(tmp_path)
    assert list(networks.distances) == ["lpips_alex", "lpips_vgg", "dists"]
    assert seen == [True] * 3
    assert torch.hub.get_dir() == before
    (line,) = networks.missing
    assert line.startswith("missing: FID, KID: there is no ")
    black, white = np.zeros((64, 70, 3), np.uint8), np.full((64, 70, 3), 255, np.uint8)
    assert networks.distance("dists", black, white) == 1
    assert networks.distance("dists", black[:63], white[:63]) is None


def test_patches_lie_side_by_side_and_again_shifted_by_half() -> None:
    image = np.zeros((600, 800, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(600)[:, None] // 4, np.arange(800)[None] // 4
    found = patches(image)
    assert found.shape == (2 * 3 + 1 * 2, 3, 256, 256)
    corners = [(int(patch[0, 0, 0]) * 4, int(patch[1, 0, 0]) * 4) for patch in found]
    assert corners == [(y, x) for y in (0, 256) for x in (0, 256, 512)] + [(128, 128), (128, 384)]
    assert (found[1].permute(1, 2, 0).numpy() == image[:256, 256:512]).all()
    assert len(patches(image[:255])) == 0


def test_the_frechet_distance_is_that_of_the_gaussians() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 500, 3)) * [[[1.0, 2, 3]], [[2, 1, 3]]] + [[[0.0]], [[1.5]]]
    one, other = np.cov(a.T), np.cov(b.T)
    cross = np.sqrt(np.linalg.eigvals(one @ other).real).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one) + np.trace(other) - 2 * cross
    assert frechet_distance(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(torch.tensor(a), torch.tensor(a)) == pytest.approx(0, abs=1e-6)


def test_the_kernel_distance_grows_and_is_repeatable() -> None:
    features = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
    near, far = kernel_distance(features, features + 0.1), kernel_distance(features, features + 1)
    assert far > near
    assert kernel_distance(features, features + 1) == far


def test_features_of_an_image_too_small_are_none_of_them() -> None:
    networks = PerceptualNetworks({}, lambda batch: [torch.ones(len(batch), 2048)], ())
    small, large = (networks.features(np.zeros((side, 600, 3), np.uint8)) for side in (255, 600))
    assert small is not None
    assert large is not None
    assert (len(small), len(large)) == (0, 5)


def test_a_torchvision_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torchmetrics").mkdir()
    (tmp_path / "torchmetrics" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms is missing')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match=r"torchvision does not load beside this torch.*nms"):
        image_metrics.require_torchmetrics()
