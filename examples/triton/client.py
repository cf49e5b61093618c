"""Send files to the server: python examples/triton/client.py encode photo.png -o streams --url grpc://127.0.0.1:8001"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http

INPUTS = {"encode": "image", "decode": "stream"}
OUTPUTS = {"encode": "stream", "decode": "image"}
ENDINGS = {"encode": ".glc", "decode": ".png"}


def column(values: Sequence[object], dtype: type) -> np.ndarray:
    """Values (items, 1): the first axis is the one that Triton batches along."""
    return np.array([[value] for value in values], dtype=dtype)


def call(url: str, verb: str, files: Sequence[bytes], quality: float | None) -> list[tuple[bytes, str]]:
    """Send files in one request; returns what came of each, and why where nothing did."""
    scheme, _, address = url.partition("://")
    library = {"http": tritonclient.http, "grpc": tritonclient.grpc}[scheme]
    tensors = [(INPUTS[verb], column(files, object), "BYTES")]
    if quality is not None:
        tensors.append(("quality", column([quality] * len(files), np.float32), "FP32"))
    inputs = []
    for name, values, kind in tensors:
        inputs.append(library.InferInput(name, values.shape, kind))
        inputs[-1].set_data_from_numpy(values)
    client = library.InferenceServerClient(address)
    try:
        result = client.infer(f"glc_{verb}", inputs)
    finally:
        client.close()
    data, errors = result.as_numpy(OUTPUTS[verb]), result.as_numpy("error")
    return [(data[index, 0], errors[index, 0].decode()) for index in range(len(files))]


def main() -> int:
    parser = argparse.ArgumentParser(description="Encode or decode files through the server.")
    parser.add_argument("verb", choices=("encode", "decode"))
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for what comes back")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="http://... or grpc://...")
    parser.add_argument("-q", "--quality", type=float, help="of encode; 1 by default")
    parser.add_argument("--together", type=int, default=1, help="files in one request")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for start in range(0, len(options.files), options.together):
        group = options.files[start : start + options.together]
        results = call(options.url, options.verb, [path.read_bytes() for path in group], options.quality)
        for path, (data, error) in zip(group, results, strict=True):
            if error:
                failed += 1
                print(f"{path.name}: {error}", file=sys.stderr)
            else:
                (options.output / (path.stem + ENDINGS[options.verb])).write_bytes(data)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
