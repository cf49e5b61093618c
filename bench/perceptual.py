"""LPIPS, DISTS, FID and KID, where the weights of their networks are at hand; nothing is ever downloaded.

weight files -> checked by SHA-256 -> torchvision's and torch-fidelity's networks -> torchmetrics

A value has the name of a metric only if the published weights computed it. What is not there is named, with what to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from glc.bench.image_metrics import DISTS, FID, KID, LPIPS_ALEX, LPIPS_VGG, as_batch, require_torchmetrics

PATCH = 256
"""Side in pixels of the patches that FID and KID compare."""

NETWORK_SIDE = 64
"""Pixels, the least that both sides must have for LPIPS and DISTS: smaller images do not reach the last layers."""

FEATURES = 2048
"""Of a patch, as InceptionV3 gives them."""

_BATCH = 8
"""Patches that the network sees at once."""

_KID_SUBSETS = 100
_KID_SUBSET_SIZE = 1000
_KID_SEED = 0


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Published weights of a network, in a file that ends in the start of its SHA-256."""

    name: str
    address: str
    """Folder from which the user may download it."""

    @property
    def digest(self) -> str:
        """First hexadecimal digits of the SHA-256."""
        return Path(self.name).stem.rsplit("-", 1)[-1]


ALEXNET = WeightFile("alexnet-owt-7be5be79.pth", "https://download.pytorch.org/models")
VGG16 = WeightFile("vgg16-397923af.pth", "https://download.pytorch.org/models")
INCEPTION = WeightFile(
    "weights-inception-2015-12-05-6726825d.pth", "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"
)

_PACKAGES = {ALEXNET: ("torchvision",), VGG16: ("torchvision",), INCEPTION: ("torchvision", "torch_fidelity")}

Comparison = Callable[[torch.Tensor, torch.Tensor], float]
"""Decoded and original image, each (1, 3, H, W) float32 in 0..1 -> distance."""


@dataclass(frozen=True, slots=True, eq=False)
class PerceptualNetworks:
    """What can be computed here."""

    distances: dict[str, Comparison]
    """Field of a metric of images -> its network."""
    inception: Callable[[torch.Tensor], Sequence[torch.Tensor]] | None
    """(B, 3, 256, 256) uint8 -> (B, 2048) features."""
    missing: tuple[str, ...]
    """Metrics that cannot be computed, each with why and what to do."""

    def distance(self, field: str, original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float | None:
        """One metric of two (H, W, 3) images; None where its network is missing or a side is below `NETWORK_SIDE`."""
        network = self.distances.get(field)
        if network is None or min(original.shape[:2]) < NETWORK_SIDE:
            return None
        with torch.inference_mode():
            return network(as_batch(decoded).float() / 255, as_batch(original).float() / 255)

    def features(self, image: NDArray[np.uint8]) -> torch.Tensor | None:
        """Features (n, 2048) of the patches of an image, which has n; None where the network is missing."""
        if self.inception is None:
            return None
        with torch.inference_mode():
            found = [self.inception(part)[0] for part in torch.split(patches(image), _BATCH) if len(part)]
        return torch.cat(found) if found else torch.zeros(0, FEATURES)


def open_networks(weights: Path | None) -> PerceptualNetworks:
    """Load what is there.

    Args:
        weights: folder with weight files; None looks where torch keeps what it once downloaded.

    Raises:
        MissingExtra: torchmetrics cannot be imported.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints" if weights is None else weights
    why = {file: _why_missing(file, folder) for file in _PACKAGES}
    distances: dict[str, Comparison] = {}
    with _torch_looks_in(folder):
        if why[ALEXNET] is None:
            distances[LPIPS_ALEX.field] = _lpips("alex")
        if why[VGG16] is None:
            distances[LPIPS_VGG.field] = _lpips("vgg")
            distances[DISTS.field] = _dists()
    inception = _inception(folder / INCEPTION.name) if why[INCEPTION] is None else None
    titles = {
        ALEXNET: LPIPS_ALEX.title,
        VGG16: f"{LPIPS_VGG.title}, {DISTS.title}",
        INCEPTION: f"{FID.title}, {KID.title}",
    }
    return PerceptualNetworks(
        distances, inception, tuple(f"missing: {titles[file]}: {reason}" for file, reason in why.items() if reason)
    )


def patches(image: NDArray[np.uint8]) -> torch.Tensor:
    """Cut (H, W, 3) into (n, 3, 256, 256): side by side from the corner, and again from 128 pixels down and right."""
    found = []
    for start in (0, PATCH // 2):
        part = torch.from_numpy(np.ascontiguousarray(image[start:, start:].transpose(2, 0, 1)))
        if min(part.shape[1:]) >= PATCH:
            grid = part.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)
            found.append(grid.permute(1, 2, 0, 3, 4).reshape(-1, 3, PATCH, PATCH))
    return torch.cat(found) if found else torch.zeros(0, 3, PATCH, PATCH, dtype=torch.uint8)


def frechet_distance(original: torch.Tensor, decoded: torch.Tensor) -> float:
    """FID of features (n, F), by torchmetrics; each has two rows or more."""
    require_torchmetrics()
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(_Given(original.shape[1]))
    metric.update(original, real=True)
    metric.update(decoded, real=False)
    return float(metric.compute())


def kernel_distance(original: torch.Tensor, decoded: torch.Tensor) -> float:
    """KID of features (n, F), by torchmetrics: mean over 100 subsets of 1,000 rows, or of all if there are fewer."""
    require_torchmetrics()
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(_KID_SUBSET_SIZE, len(original), len(decoded))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will save all extracted features", category=UserWarning)
        metric = KernelInceptionDistance(_Given(original.shape[1]), subsets=_KID_SUBSETS, subset_size=size)
    metric.update(original, real=True)
    metric.update(decoded, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_KID_SEED)
        mean, _ = metric.compute()
    return float(mean)


class _Given(torch.nn.Identity):
    """In the place of torchmetrics' network: features are computed once for both distances."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _why_missing(file: WeightFile, folder: Path) -> str | None:
    """Why a network cannot be used, and what to do; None where it can."""
    for package in _PACKAGES[file]:
        try:
            module = importlib.import_module(package)
        except ImportError:
            return (
                f"{package} is not installed; run: pip install 'glc-deploy[perceptual]', with the torchvision that "
                f"matches this torch ({torch.__version__}), and put {file.name} from {file.address} into {folder}"
            )
        except RuntimeError as error:
            return f"{package} does not load beside this torch: {' '.join(str(error).split())[:80]}"
        if package == "torchvision" and file is not INCEPTION and (other := _other_default(module, file)):
            return f"this torchvision takes {other}, not {file.name}; install another version"
    path = folder / file.name
    if not path.is_file():
        return f"there is no {path}; download it from {file.address}, or name its folder with --weights"
    if not _sha256(path).startswith(file.digest):
        return f"{path} is not the published file: its SHA-256 does not start with {file.digest}; download it again"
    return None


def _other_default(torchvision: object, file: WeightFile) -> str | None:
    """Name of the file that torchvision would take, and download, in place of this one."""
    models = torchvision.models  # type: ignore[attr-defined] # no stubs where it is not installed
    name = {ALEXNET: "AlexNet_Weights", VGG16: "VGG16_Weights"}[file]
    taken = getattr(models, name).DEFAULT.url.rsplit("/", 1)[-1]
    return None if taken == file.name else str(taken)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _torch_looks_in(folder: Path) -> Iterator[None]:
    """Make torch look for weights in a folder of any name; what it looks for there exists, so that it loads nothing."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as hub:
        (Path(hub) / "checkpoints").symlink_to(folder.resolve(), target_is_directory=True)
        torch.hub.set_dir(hub)
        try:
            yield
        finally:
            torch.hub.set_dir(before)


def _lpips(network: str) -> Comparison:
    require_torchmetrics()
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    metric = LearnedPerceptualImagePatchSimilarity("vgg" if network == "vgg" else "alex", normalize=True)

    def compare(decoded: torch.Tensor, original: torch.Tensor) -> float:
        metric.reset()
        return float(metric(decoded, original))

    return compare


def _dists() -> Comparison:
    require_torchmetrics()
    from torchmetrics.functional.image.dists import DISTSNetwork  # its class for users loads VGG16 at every call

    network = DISTSNetwork()
    return lambda decoded, original: float(network(decoded, original))


def _inception(path: Path) -> Callable[[torch.Tensor], Sequence[torch.Tensor]]:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    extractor: Callable[[torch.Tensor], Sequence[torch.Tensor]] = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
    )
    return extractor
