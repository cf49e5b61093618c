"""Codecs of CompressAI behind a pipe. Runs in an interpreter of its own, which need not know glc.

CompressAI asks for another NumPy than ours, so `glc.bench.peers` starts this file with the interpreter that it is
given. Arguments: model, image (.npy of (H, W, 3) uint8), threads. One JSON line first, then one for each line read.
"""

import json
import sys
import time
from typing import Any

start = time.perf_counter()

import compressai.zoo  # noqa: E402 - what comes before it is timed
import numpy as np  # noqa: E402
import torch  # noqa: E402

_QUALITY = 1
"""The lowest rate that CompressAI's zoo has; these models know none below 0.1 bpp."""


def main(model: str, image: str, threads: str) -> None:
    """Serve lines until the pipe closes."""
    imported = time.perf_counter()
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    codec = compressai.zoo.image_models[model](quality=_QUALITY, metric="mse", pretrained=False).eval()
    codec.update()
    opened = time.perf_counter()
    parameters = sum(tensor.numel() for tensor in codec.parameters())
    _say(import_ms=1e3 * (imported - start), open_ms=1e3 * (opened - imported), parameters=parameters)
    pixels = torch.from_numpy(np.load(image))
    for _ in sys.stdin:
        _say(**_run(codec, pixels))


@torch.inference_mode()
def _run(codec: Any, pixels: torch.Tensor) -> dict[str, float]:
    start = time.perf_counter()
    x = pixels.permute(2, 0, 1)[None].float() / 255
    streams = codec.compress(x)
    encoded = time.perf_counter()
    result = codec.decompress(streams["strings"], streams["shape"])["x_hat"]
    (result[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return {
        "encode_ms": 1e3 * (encoded - start),
        "decode_ms": 1e3 * (time.perf_counter() - encoded),
        "file_bytes": sum(len(stream) for part in streams["strings"] for stream in part),
        "peak_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int:
    with open("/proc/self/status") as status:  # noqa: PTH123 - as lean as can be
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def _say(**values: float) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
