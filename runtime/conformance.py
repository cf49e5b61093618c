"""Proof that an engine computes an exact graph to the last bit (docs/exact-arithmetic.md, "Conformance")."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from glc.engines import Array, Engine
from glc.errors import EngineNotExact


def require_conformance(graph: str, engine: Engine, fingerprint: str, cases: Mapping[str, Array]) -> None:
    """Run a graph on the bundle's cases.

    Args:
        graph: its name.
        engine: the loaded graph.
        fingerprint: SDK, version, precision, threads and processor, for the message.
        cases: input or output -> array.

    Raises:
        EngineNotExact: an output differs.
        EngineFailed: the engine cannot run the cases.
    """
    found = engine.run({spec.name: cases[spec.name] for spec in engine.inputs})
    for spec in engine.outputs:
        got, wanted = found[spec.name], cases[spec.name]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise EngineNotExact(
                f"graph {graph} on {fingerprint}: {spec.name} is {got.dtype} {list(got.shape)}; "
                f"expected {wanted.dtype} {list(wanted.shape)}"
            )
        differing = np.argwhere(got != wanted)
        if len(differing):
            first = tuple(differing[0].tolist())
            raise EngineNotExact(
                f"graph {graph} is not exact on {fingerprint}: {len(differing)} of {wanted.size} elements of "
                f"{spec.name} differ, the first at {list(first)}: {got[first]}; expected {wanted[first]}. Its streams "
                "would not decode elsewhere: choose another precision or engine"
            )
