"""CompressAI's coder behind a pipe. Runs in an interpreter of its own, which needs CompressAI and NumPy, not torch.

Argument: an .npz of `symbols` (elements,) int32 and `indices` (elements,) uint8, and of tables as CompressAI has them:
`cdfs` (levels, longest), `sizes` (levels,) and `offsets` (levels,), int32. One JSON line first, then one for each line
read.
"""

import importlib.util
import json
import sys
import time
from importlib.machinery import PathFinder
from typing import Any

import numpy as np


def _coder() -> Any:
    """CompressAI's extension `ans`, without the package around it, which imports torch and torchvision."""
    package = importlib.util.find_spec("compressai")
    if package is None:
        raise ModuleNotFoundError("No module named 'compressai'")
    found = PathFinder.find_spec("ans", package.submodule_search_locations)
    if found is None or found.loader is None:
        raise ModuleNotFoundError("compressai has no extension 'ans'")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def main(path: str) -> None:
    """Serve lines until the pipe closes."""
    ans = _coder()
    with np.load(path) as arrays:
        symbols, indices = arrays["symbols"], arrays["indices"]
        tables = [arrays[name].tolist() for name in ("cdfs", "sizes", "offsets")]
    payload = ans.RansEncoder().encode_with_indexes(symbols.tolist(), indices.tolist(), *tables)
    back = ans.RansDecoder().decode_with_indexes(payload, indices.tolist(), *tables)
    if back != symbols.tolist():
        raise ValueError("what was read is not what was written")
    _say()
    for _ in sys.stdin:
        begun = time.perf_counter()
        written, given = symbols.tolist(), indices.tolist()
        listed = time.perf_counter()
        payload = ans.RansEncoder().encode_with_indexes(written, given, *tables)
        encoded = time.perf_counter()
        given = indices.tolist()
        listed_again = time.perf_counter()
        read = ans.RansDecoder().decode_with_indexes(payload, given, *tables)
        decoded = time.perf_counter()
        np.array(read, np.int32)
        ended = time.perf_counter()
        _say(
            encode_ms=1e3 * (encoded - begun),
            decode_ms=1e3 * (ended - encoded),
            encode_alone_ms=1e3 * (encoded - listed),
            decode_alone_ms=1e3 * (decoded - listed_again),
            payload_bytes=len(payload),
        )


def _say(**values: float) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
