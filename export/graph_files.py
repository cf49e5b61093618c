"""One graph on its way into a bundle: exported, compared with torch, written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from glc.engines import Array, Engine, engine_loader
from glc.export.bundle_files import BundleFiles
from glc.export.graphs import GraphSource
from glc.export.onnx_graph import tensor_specs, to_onnx, weight_count
from glc.export.parity import Difference, Run, compare
from glc.runtime.conformance import require_conformance
from glc.runtime.manifest import GraphEntry
from glc.runtime.transforms import beside


@dataclass(frozen=True, slots=True)
class GraphReport:
    """What export says of one graph."""

    name: str
    parameters: int
    size_bytes: int
    difference: Difference


def write_graph(
    source: GraphSource, runs: Sequence[Run], case: Mapping[str, Array] | None, writer: BundleFiles
) -> tuple[GraphEntry, GraphReport]:
    """Write a graph that computes what torch computes.

    Args:
        source: what to export.
        runs: feeds and torch's results at several sizes.
        case: of an exact graph, what it must reproduce to the last bit.
        writer: of the bundle.

    Raises:
        ExportError: it cannot be exported, froze a size, or differs.
    """
    data = to_onnx(source.module, source.inputs, source.outputs)
    loader = engine_loader("onnxruntime")
    engine = loader.load(data)
    difference = compare(source.name, engine, runs, exact=case is not None)
    if case is not None:
        require_conformance(source.name, engine, loader.fingerprint, case)
    engine.close()
    parameters = weight_count(data)
    inputs, outputs = tensor_specs(data)
    file = writer.add(f"graphs/{source.name}.onnx", data)
    return GraphEntry(file, parameters, inputs, outputs), GraphReport(source.name, parameters, len(data), difference)


def write_tiles(
    graphs: Iterable[tuple[str, bytes]], transform: str, writer: BundleFiles
) -> tuple[dict[str, GraphEntry], dict[str, Engine]]:
    """Write tile graphs; returns their entries, and engines by the names of the model's own, to compare and to close.

    Args:
        graphs: names of the model's own, and serialised graphs.
        transform: graph whose tiles they are, such as `analysis.restore`, which names their entries.
        writer: of the bundle.
    """
    loader = engine_loader("onnxruntime")
    engines: dict[str, Engine] = {}
    entries: dict[str, GraphEntry] = {}
    for own, data in graphs:
        name = beside(own, transform)
        engines[own] = loader.load(data)
        entries[name] = GraphEntry(writer.add(f"tiles/{name}.onnx", data), weight_count(data), *tensor_specs(data))
    return entries, engines
