"""Names of transforms: a bundle's own analysis and synthesis, and others that may take their place (docs/bundle.md).

    analysis, synthesis                  the model's own, called "default"
    analysis.<name>, synthesis.<name>    others of the same inputs and outputs
    q_enc.<name>, q_dec.<name>           their factors for each quality
    tile_analysis_....<name>             their tiles

All share what decides the meaning of a payload: a stream of any encoder is decoded by any decoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ANALYSIS, SYNTHESIS = "analysis", "synthesis"
"""Graphs of the model's own encoder and decoder."""

ROWS = {ANALYSIS: "q_enc", SYNTHESIS: "q_dec"}
"""Graph -> array of tables.npz with its factors."""

OWN = "default"
"""What the model's own encoder and decoder are called."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


def is_transform_name(name: str) -> bool:
    """Whether an encoder or decoder beside the model's own may be called so."""
    return _NAME.fullmatch(name) is not None and name.lower() != OWN


def own_name(name: str) -> str:
    """`analysis` of `analysis.restore`: the graph, array or tile of the model's own transform."""
    return name.partition(".")[0]


def beside(own: str, graph: str) -> str:
    """What takes the place of a graph, array or tile of the model's own transform: `q_enc.restore` for `q_enc`.

    Args:
        own: a name of the model's own.
        graph: of the transform, such as `analysis.restore`; for `analysis` the place stays as it is.
    """
    _, dot, name = graph.partition(".")
    return f"{own}{dot}{name}"


def transforms(graphs: Iterable[str], own: str) -> dict[str, str]:
    """Encoders or decoders of a bundle: name -> graph, the model's own first; graphs of other names are passed over.

    Args:
        graphs: names of the bundle's graphs.
        own: `ANALYSIS` for encoders, `SYNTHESIS` for decoders.
    """
    prefix = f"{own}."
    names = sorted(graph.removeprefix(prefix) for graph in graphs if graph.startswith(prefix))
    return {OWN: own} | {name: f"{prefix}{name}" for name in names if is_transform_name(name)}


def further_graphs(graphs: Iterable[str]) -> tuple[str, ...]:
    """Graphs of the transforms beside the model's own, such as `analysis.restore`."""
    names = tuple(graphs)
    return tuple(graph for own in ROWS for graph in transforms(names, own).values() if graph != own)
