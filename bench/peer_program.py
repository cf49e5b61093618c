"""Codecs of other packages behind a pipe. Runs in an interpreter of its own, which need not know glc.

They ask for an older NumPy than ours, so `glc.bench.peers` starts this file with the interpreter that it is given.
Arguments: package, model, image (.npy of (H, W, 3) uint8), threads. One JSON line first, then one for each line read.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

start = time.perf_counter()

import numpy as np  # noqa: E402 - what comes before it is timed
import torch  # noqa: E402


def _compressai(model: str) -> tuple[Any, Callable[[Any], list[bytes]], Callable[[Any], Any]]:
    """The codec, its streams' bytes, and its decoder; at the lowest quality of the zoo."""
    codec = importlib.import_module("compressai.zoo").image_models[model](quality=1, metric="mse", pretrained=False)

    def strings(made: Any) -> list[bytes]:
        return [stream for part in made["strings"] for stream in part]

    return codec, strings, lambda made: codec.decompress(made["strings"], made["shape"])["x_hat"]


def _neuralcompression(model: str) -> tuple[Any, Callable[[Any], list[bytes]], Callable[[Any], Any]]:
    """MS-ILLM's network, which is HiFiC's with other weights (181.5 M parameters)."""
    codec = getattr(importlib.import_module("neuralcompression.models"), {"MS-ILLM": "HiFiCAutoencoder"}[model])()
    return codec, lambda made: [*made.latent_strings, *made.hyper_latent_strings], codec.decompress


_PACKAGES = {"compressai": _compressai, "neuralcompression": _neuralcompression}


def main(package: str, model: str, image: str, threads: str) -> None:
    """Serve lines until the pipe closes."""
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    importlib.import_module(package)
    imported = time.perf_counter()
    codec, strings, decompress = _PACKAGES[package](model)
    codec.eval()
    codec.update()
    opened = time.perf_counter()
    parameters = sum(tensor.numel() for tensor in codec.parameters())
    _say(import_ms=1e3 * (imported - start), open_ms=1e3 * (opened - imported), parameters=parameters)
    pixels = torch.from_numpy(np.load(image))
    for _ in sys.stdin:
        with torch.inference_mode():
            _say(**_turn(codec, strings, decompress, pixels))


def _turn(
    codec: Any, strings: Callable[[Any], list[bytes]], decompress: Callable[[Any], Any], pixels: torch.Tensor
) -> dict[str, float]:
    begun = time.perf_counter()
    made = codec.compress(pixels.permute(2, 0, 1)[None].float() / 255)
    encoded = time.perf_counter()
    (decompress(made)[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return {
        "encode_ms": 1e3 * (encoded - begun),
        "decode_ms": 1e3 * (time.perf_counter() - encoded),
        "file_bytes": sum(map(len, strings(made))),
        "peak_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int:
    with open("/proc/self/status") as status:  # noqa: PTH123 - as lean as can be
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def _say(**values: float) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
