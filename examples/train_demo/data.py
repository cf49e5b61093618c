"""Random crops of a folder of photographs, held in memory and prepared beside the training step."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))
"""Files of a folder that are taken for images."""

_LARGEST_REDUCTION = 2.0
_READY_BATCHES = 4


def image_files(folder: Path) -> list[Path]:
    """Images directly in a folder, in the order of their names.

    Raises:
        ValueError: there is none.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"no image in {folder}")
    return files


def read_rgb(path: Path, most_pixels_a_side: int | None = None) -> Image.Image:
    """Read an image as upright RGB, halved while a side is longer than asked for."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    while most_pixels_a_side is not None and max(image.size) > most_pixels_a_side:
        image = image.reduce(2)
    return image


class CropSource:
    """Endless batches of random crops: position, scale (1 to 1/2) and mirroring are drawn.

    An image is drawn with a probability proportional to the root of its area, so that large photographs give more
    crops without crowding out the small ones. A thread fills a short queue; a crop costs far less than a step.
    """

    def __init__(self, folder: Path, crop: int, batch: int, seed: int) -> None:
        self._images = [np.asarray(image) for image in map(read_rgb, image_files(folder)) if min(image.size) >= crop]
        if not self._images:
            raise ValueError(f"no image in {folder} has {crop} pixels along both sides")
        weights = np.sqrt([image.shape[0] * image.shape[1] for image in self._images])
        self._weights = weights / weights.sum()
        self._crop, self._batch = crop, batch
        self._random = np.random.default_rng(seed)
        self._ready: queue.Queue[Tensor] = queue.Queue(_READY_BATCHES)
        threading.Thread(target=self._fill, daemon=True).start()

    def __iter__(self) -> Iterator[Tensor]:
        """Batches (B, 3, crop, crop) float32 in [-1, 1]."""
        while True:
            yield self._ready.get()

    def _fill(self) -> None:
        while True:
            crops = np.stack([self._draw() for _ in range(self._batch)])
            # Contiguous NCHW, as everywhere: torch's GroupNorm on the CPU is inaccurate on channels_last.
            self._ready.put(torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous().float() * (2 / 255) - 1)

    def _draw(self) -> NDArray[np.uint8]:
        image = self._images[self._random.choice(len(self._images), p=self._weights)]
        height, width = image.shape[:2]
        largest = min(_LARGEST_REDUCTION, min(height, width) / self._crop)
        side = int(self._crop * self._random.uniform(1.0, largest))
        top, left = self._random.integers(height - side + 1), self._random.integers(width - side + 1)
        window = image[top : top + side, left : left + side]
        if self._random.random() < 0.5:
            window = window[:, ::-1]
        if side == self._crop:
            return np.ascontiguousarray(window)
        resized = Image.fromarray(np.ascontiguousarray(window)).resize(
            (self._crop, self._crop), Image.Resampling.LANCZOS
        )
        return np.asarray(resized)
