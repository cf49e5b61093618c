"""Writes the golden payloads: files that every later version must decode to the same symbols.

    python tests/golden/make_payload.py [DIRECTORY]

NAME.payload is a payload of the format's version 1. NAME.npz holds what a decoder is given (codebook_entries,
scale_reach, scale_frequencies, scale_indices_0..3) and what it must find (z_indices, symbols_0..3), so that no network
and no table of a later version takes part. The files are made once: the script refuses to overwrite one. A new version
of the format gets new names beside the old ones.

    natural   a codebook of 16384 entries, 16 scales, symbols drawn from the normal distributions of their scales
    edges     a codebook of 10 entries; outliers at every scale up to +-(2^23 - 1), a part of zeros, a part of one scale
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glc.export.scale_levels import build_scale_table
from glc.runtime.entropy import PayloadEncoder, SymbolModels
from glc.runtime.scale_table import ScaleGrid

Parts = list[tuple[NDArray[np.uint8], NDArray[np.int32]]]
"""Scale indices and symbols of each part."""


def write(path: Path, grid: ScaleGrid, entries: int, z_indices: NDArray[np.int32], parts: Parts) -> None:
    """Write path.payload and path.npz; raises FileExistsError where one exists."""
    table = build_scale_table(grid)
    encoder = PayloadEncoder(SymbolModels(table))
    encoder.put_indices(z_indices, entries)
    arrays: dict[str, NDArray[np.generic]] = table.to_arrays()
    arrays["codebook_entries"] = np.array(entries, np.int32)
    arrays["z_indices"] = z_indices
    for part, (scale_indices, symbols) in enumerate(parts):
        encoder.put_part(symbols, scale_indices)
        arrays[f"scale_indices_{part}"] = scale_indices
        arrays[f"symbols_{part}"] = symbols
    with path.with_suffix(".payload").open("xb") as file:
        file.write(encoder.finish())
    with path.with_suffix(".npz").open("xb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def natural(path: Path) -> None:
    """A payload as images give them."""
    generator = np.random.default_rng(1)
    grid = ScaleGrid(0.11, 1.5, 16)
    parts: Parts = []
    for _ in range(4):
        scale_indices = np.minimum(generator.geometric(0.2, (16, 6, 8)) - 1, 15).astype(np.uint8)
        scales = grid.smallest * grid.ratio ** scale_indices.astype(np.float64)
        parts.append((scale_indices, np.rint(generator.normal(0, scales)).astype(np.int32)))
    write(path, grid, 16384, generator.integers(0, 16384, (3, 4), np.int32), parts)


def edges(path: Path) -> None:
    """A payload of what seldom occurs."""
    generator = np.random.default_rng(2)
    largest = (1 << 23) - 1
    shape = (8, 4, 5)
    outliers = generator.integers(-40, 41, shape, np.int32)
    outliers[:, 0] = generator.integers(-largest, largest + 1, (8, 5), np.int32)
    outliers[:, 1] = generator.choice([-largest, largest, 0], (8, 5))
    one_outlier = np.zeros(shape, np.int32)
    one_outlier[3, 2, 1] = -1
    parts: Parts = [
        (generator.integers(0, 5, shape, np.uint8), outliers),
        (generator.integers(0, 5, shape, np.uint8), np.zeros(shape, np.int32)),
        (np.zeros(shape, np.uint8), one_outlier),
        (np.full(shape, 4, np.uint8), generator.integers(-9, 10, shape, np.int32)),
    ]
    write(path, ScaleGrid(0.11, 3.0, 5), 10, np.array([[0, 9, 5], [9, 9, 1]], np.int32), parts)


def main(directory: Path) -> None:
    """Write all golden payloads into a directory."""
    natural(directory / "natural")
    edges(directory / "edges")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
    except FileExistsError as error:
        raise SystemExit(f"{error.filename} exists: golden files are never made anew") from error
