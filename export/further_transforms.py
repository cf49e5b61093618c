"""Further encoders and decoders: graphs beside the model's own analysis and synthesis (docs/bundle.md, "Encoders").

model of the transform --> analysis.restore, its tiles, q_enc.restore --> a bundle that is being written, or one
                                                                        that is there already
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glc.engines import Array, engine_loader
from glc.errors import ExportError
from glc.export.bundle_files import BundleFiles, rewritten
from glc.export.graph_files import GraphReport, write_graph, write_tiles
from glc.export.graphs import transform_graph
from glc.export.model import GlcModel
from glc.export.parity import compare_tiles, expected_run, parity_sizes, test_image
from glc.export.tile_graphs import transform_tiles
from glc.export.transform_weights import KINDS, KnownWeights, transform_model
from glc.runtime.bundle import Bundle
from glc.runtime.codec import Codec
from glc.runtime.manifest import GraphEntry, Manifest
from glc.runtime.tile_layout import TileLayout
from glc.runtime.transforms import ANALYSIS, ROWS, SYNTHESIS, beside, own_name

TABLES = "tables.npz"


@dataclass(frozen=True, slots=True)
class TransformFile:
    """What is asked for."""

    graph: str
    """Such as `analysis.restore`."""
    file: Path
    """Its weights, and perhaps those of the model."""


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """An encoder or decoder that is to be written."""

    graph: str
    model: GlcModel
    """From `transform_model`."""

    def rows(self) -> dict[str, NDArray[np.float32]]:
        """Its array (Q, N) of tables.npz, by its name there."""
        own = ROWS[own_name(self.graph)]
        q_rows: NDArray[np.float32] = getattr(self.model, own).detach().numpy()
        return {beside(own, self.graph): q_rows.reshape(len(q_rows), -1)}


@dataclass(frozen=True, slots=True)
class WrittenTransforms:
    """What a manifest says of them."""

    graphs: dict[str, GraphEntry]
    tiles: dict[str, GraphEntry]


def load_transforms(files: Sequence[TransformFile], known: KnownWeights) -> list[Transform]:
    """Load weights for a model; see `transform_model`, whose errors these are."""
    return [Transform(one.graph, transform_model(own_name(one.graph), one.file, known)) for one in files]


def write_transforms(
    transforms: Iterable[Transform],
    feeds: Sequence[Mapping[str, Mapping[str, Array]]],
    layout: TileLayout | None,
    writer: BundleFiles,
    on_step: Callable[[str], None],
    on_graph: Callable[[GraphReport], None],
) -> WrittenTransforms:
    """Write graphs, each compared with torch.

    Args:
        transforms: of one model.
        feeds: for several sizes of an image, graph of the model's own -> inputs.
        layout: of the bundle's tiles; None where it has none.
        writer: of the bundle.
        on_step: called with a description before each step.
        on_graph: called with the result of each graph.

    Raises:
        ExportError: a graph cannot be exported, froze a size, or differs from torch.
    """
    written = WrittenTransforms({}, {})
    for one in transforms:
        on_step(f"export {one.graph}")
        own = own_name(one.graph)
        source = transform_graph(one.model, one.graph)
        runs = [expected_run(source, of_size[own]) for of_size in feeds]
        written.graphs[one.graph], report = write_graph(source, runs, None, writer)
        on_graph(report)
        if layout is not None:
            entries, engines = write_tiles(transform_tiles(one.model, own), one.graph, writer)
            compare_tiles(engines, layout, {own: runs[-1]})
            written.tiles.update(entries)
            for engine in engines.values():
                engine.close()
    return written


def add_transforms(
    bundle: Bundle,
    transforms: Sequence[Transform],
    *,
    on_step: Callable[[str], None] = lambda _: None,
    on_graph: Callable[[GraphReport], None] = lambda _: None,
) -> Bundle:
    """Add encoders and decoders to a bundle; all that it held stays, and so does its model id.

    Args:
        bundle: an open bundle; it is replaced when all graphs are there, and else stays as it was.
        transforms: for the bundle's model.
        on_step: called with a description before each step.
        on_graph: called with the result of each graph.

    Returns:
        The new bundle, opened.

    Raises:
        BundleError: the bundle was altered.
        ExportError: it has an encoder or decoder of this name, or a graph cannot be exported or differs from torch.
        OutputNotWritable: the bundle cannot be written.
    """
    require_free(bundle, [one.graph for one in transforms])
    on_step("run the bundle at three sizes")
    sizes = parity_sizes(transforms[0].model.config)
    last = bundle.manifest.config.qualities - 1
    feeds = list(feeds_of(bundle, [test_image(*size) for size in sizes], [last]))
    layout = bundle.tile_layout() if bundle.manifest.tiles else None

    def add(writer: BundleFiles) -> Manifest:
        written = write_transforms(transforms, feeds, layout, writer, on_step, on_graph)
        rows = {name: array for one in transforms for name, array in one.rows().items()}
        return extended(bundle, written, rows, writer)

    return rewritten(bundle, add)


def extended(
    bundle: Bundle, written: WrittenTransforms, rows: Mapping[str, NDArray[np.float32]], writer: BundleFiles
) -> Manifest:
    """What a manifest says of a bundle to which transforms are added.

    Args:
        bundle: as it is.
        written: what is added.
        rows: its arrays (Q, N) of tables.npz, by their names there.
        writer: of the new bundle, which is given the new tables.

    Raises:
        BundleAltered: the tables are missing or changed.
    """
    manifest = bundle.manifest
    with np.load(io.BytesIO(bundle.read(manifest.tables))) as file:
        arrays = dict(file)
    return dataclasses.replace(
        manifest,
        graphs={**manifest.graphs, **written.graphs},
        tiles={**manifest.tiles, **written.tiles},
        tables=writer.add(TABLES, packed({**arrays, **rows})),
    )


def require_free(bundle: Bundle, graphs: Iterable[str]) -> None:
    """Refuse names that a bundle has already; case does not count, as it does not for files on some systems.

    Raises:
        ExportError: an encoder or decoder is called so.
    """
    taken = {graph.lower() for graph in bundle.manifest.graphs}
    for graph in graphs:
        own, _, name = graph.partition(".")
        if graph.lower() in taken:
            raise ExportError(
                f"{bundle.path} already has the {KINDS[own]} {name}: choose another name; to replace it, export "
                "the bundle again with the file that you want"
            )


def packed(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """An NPZ file, the same for the same arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type] # not the keyword that it takes
    return buffer.getvalue()


def feeds_of(
    bundle: Bundle, images: Iterable[NDArray[np.uint8]], qualities: Sequence[int]
) -> Iterator[dict[str, dict[str, Array]]]:
    """Code images (H, W, 3) at qualities; for each of both, graph of the model's own -> its inputs."""
    rows = bundle.tables().rows
    with Codec(bundle, engine_loader("onnxruntime")) as codec:
        for image in images:
            for quality in qualities:
                y_hat = codec.decode_latent(codec.encode(image, quality))
                # Copies, since torch, which parity is checked with, warns of arrays that it must not write.
                q_rows = {own: rows[own][quality].reshape(1, -1, 1, 1).copy() for own in (ANALYSIS, SYNTHESIS)}
                yield {
                    ANALYSIS: {"image": image[None], "q_row": q_rows[ANALYSIS]},
                    SYNTHESIS: {"y_hat": y_hat[None], "q_row": q_rows[SYNTHESIS]},
                }
