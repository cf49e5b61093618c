"""What image graphs are fed."""

from __future__ import annotations

import numpy as np

from glc.engines import Array
from glc.runtime.bundle import Bundle

RANDOM = np.random.default_rng(0)


def image_feeds(graph: str, bundle: Bundle) -> dict[str, Array]:
    """Random inputs of a bundle's `analysis` or `synthesis`."""
    channels = bundle.manifest.config.latent_channels
    multiple = 4 * bundle.manifest.config.downsampling
    if graph == "analysis":  # sizes that are padded
        image = RANDOM.integers(0, 256, (1, multiple + 3, 2 * multiple - 5, 3), np.uint8)
        return {"image": image, "q_row": np.ones((1, channels, 1, 1), np.float32)}
    y_hat = RANDOM.normal(size=(1, channels, 4, 8)).round().astype(np.float32)
    return {"y_hat": y_hat, "q_row": np.ones((1, channels, 1, 1), np.float32)}
