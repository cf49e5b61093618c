"""Torch model -> bundle: export every graph, check it against torch, write all or nothing (docs/bundle.md)."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glc.engines import Array
from glc.errors import CheckpointMismatch
from glc.export.bundle_files import BundleFiles, Container, require_replaceable
from glc.export.conformance import conformance_cases
from glc.export.exact_calibration import packaged_images
from glc.export.exact_graphs import exact_graphs
from glc.export.exact_priors import ExactPriors, exact_priors
from glc.export.exact_report import RoundingReport, rounding_report
from glc.export.further_transforms import TABLES, Transform, packed, write_transforms
from glc.export.graph_files import GraphReport, write_graph, write_tiles
from glc.export.graphs import float_graphs, interpolated_row
from glc.export.model import GlcModel
from glc.export.onnx_graph import tensor_specs
from glc.export.parity import compare_tiles, expected_runs, parity_sizes, test_image
from glc.export.scale_levels import DEFAULT_GRID, build_scale_table
from glc.export.step_graphs import step_graphs
from glc.export.tile_graphs import can_be_tiled, tile_graphs
from glc.runtime.bundle import MANIFEST, Bundle
from glc.runtime.files import staged
from glc.runtime.manifest import ArithmeticName, CodecConfig, GraphEntry, Manifest
from glc.runtime.scale_table import ScaleTable
from glc.runtime.tile_layout import read_layout
from glc.runtime.transforms import ANALYSIS, SYNTHESIS

_CONFORMANCE = "conformance.npz"
_DECODING_PREFIXES = ("z_vq.", "hyper_dec.", "y_prior_fusion.", "y_spatial_prior")
"""Tensors that decide what a payload means; all others may change without touching a stream."""


EXPORT_STEPS = 11
"""Calls of `on_step` at most: calibration, report, torch at three sizes, six graphs, tiles, the manifest; and one
for each further encoder or decoder."""


def export_bundle(
    model: GlcModel,
    out: str | os.PathLike[str],
    *,
    label: str = "unnamed checkpoint",
    arithmetic: ArithmeticName = "exact",
    calibrate: Sequence[NDArray[np.uint8]] | None = None,
    container: Container = "directory",
    tiles: bool = True,
    on_step: Callable[[str], None] = lambda _: None,
    on_graph: Callable[[GraphReport], None] = lambda _: None,
    on_rounding: Callable[[RoundingReport], None] | None = None,
    layers: bool = False,
    further: Sequence[Transform] = (),
) -> Bundle:
    """Export a model. Every graph is compared with torch at three sizes before anything appears at `out`.

    Args:
        model: from `load_checkpoint` or `synthetic_model`.
        out: path of the bundle, by custom `*.glcb`; an existing bundle is replaced.
        label: one line that tells people where the weights come from.
        arithmetic: of the prior networks; "exact" streams decode on every engine, "float" is the published model's.
        calibrate: (H, W, 3) uint8 each, whose middle chooses the ranges of exact arithmetic; the packaged photographs
            by default.
        container: a directory, or the same files in one zip.
        tiles: whether to write graphs for images in tiles, which a limit on memory needs; they weigh as much as
            analysis and synthesis together.
        on_step: called with a description before each step.
        on_graph: called with the result of each graph.
        on_rounding: called with what exact arithmetic does to the rate of the images; not measured without.
        layers: whether that tells of each layer, which takes a hundred times as many walks through the priors.
        further: encoders and decoders beside the model's own.

    Returns:
        The bundle, opened.

    Raises:
        ExportError: a graph cannot be exported, froze a size, or differs from torch.
        OutputNotWritable: `out` is not a bundle but exists, or its place cannot be written.
        ValueError: unknown arithmetic or container, or an unprintable label.
    """
    target = Path(out)
    if arithmetic not in ("exact", "float") or container not in ("directory", "zip"):
        raise ValueError(f"unknown arithmetic {arithmetic!r} or container {container!r}")
    if not label.isprintable():
        raise ValueError(f"label must be one line of printable text; got {label!r}")
    require_replaceable(target)
    table = build_scale_table(DEFAULT_GRID)
    if arithmetic == "exact":
        on_step("calibrate")
        if calibrate is None:
            calibrate = packaged_images()
        priors = exact_priors(model, calibrate, DEFAULT_GRID)
        if on_rounding is not None:
            on_step("measure rounding")
            on_rounding(rounding_report(model, priors, calibrate, DEFAULT_GRID, layers=layers))
        sources, cases = exact_graphs(model, priors), conformance_cases(priors)
    else:
        priors = None
        sources, cases = float_graphs(model, DEFAULT_GRID), {}

    on_step("run torch at three sizes")
    last = model.config.qualities - 1
    rows = interpolated_row(model.q_enc, last), interpolated_row(model.q_dec, last)
    runs = [expected_runs(sources, test_image(h, w), rows) for h, w in parity_sizes(model.config)]

    with staged(target) as temporary, BundleFiles(temporary, container) as writer:
        graphs: dict[str, GraphEntry] = {}
        for source in sources:
            on_step(f"export {source.name}")
            entry, report = write_graph(source, [run[source.name] for run in runs], cases.get(source.name), writer)
            graphs[source.name] = entry
            on_graph(report)
        for name, data in step_graphs(model.config.latent_channels).items():
            graphs[name] = GraphEntry(writer.add(f"graphs/{name}.onnx", data), 0, *tensor_specs(data))
        tile_entries: dict[str, GraphEntry] = {}
        layout = None
        if tiles and can_be_tiled(model.config):
            on_step("export tiles")
            tile_entries, engines = write_tiles(tile_graphs(model), ANALYSIS, writer)
            layout = read_layout(tile_entries, _codec_config(model))
            compare_tiles(engines, layout, runs[-1])
            for engine in engines.values():
                engine.close()
        feeds = [{name: fed for name, (fed, _) in run.items()} for run in runs]
        written = write_transforms(further, feeds, layout, writer, on_step, on_graph)
        on_step("write manifest")
        manifest = Manifest(
            model_id=model_id(model, table, priors),
            checkpoint_id=checkpoint_id(model),
            label=label,
            arithmetic=arithmetic,
            parameters=sum(tensor.numel() for tensor in model.parameters()),
            config=_codec_config(model),
            graphs=graphs | written.graphs,
            tables=writer.add(TABLES, _tables(model, table, further)),
            conformance=writer.add(_CONFORMANCE, _conformance(cases)) if cases else None,
            tiles=tile_entries | written.tiles,
            producers={name: version(name) for name in ("glc-deploy", "torch", "onnx")},
        )
        writer.add(MANIFEST, manifest.to_json().encode())
    return Bundle.open(target)


def model_id(model: GlcModel, table: ScaleTable, priors: ExactPriors | None = None) -> str:
    """SHA-256 over what decoding depends on: prior networks, codebook, scale table; no producer's version.

    With `priors` that is their integers, else the model's float weights.
    """
    if priors is not None:
        return _digest("glc model 1: exact arithmetic", priors.arrays() | table.to_arrays())
    arrays = {
        name: tensor.numpy() for name, tensor in model.state_dict().items() if name.startswith(_DECODING_PREFIXES)
    }
    return _digest("glc model 1: float arithmetic", arrays | table.to_arrays())


def checkpoint_id(model: GlcModel) -> str:
    """SHA-256 over all weights of a model."""
    return _digest("glc checkpoint 1", {name: tensor.numpy() for name, tensor in model.state_dict().items()})


def require_checkpoint(bundle: Bundle, model: GlcModel, origin: str) -> None:
    """Refuse a model that a bundle was not exported from.

    Raises:
        CheckpointMismatch: its weights have another id; `origin` says where they are from.
    """
    found, expected = checkpoint_id(model), bundle.manifest.checkpoint_id
    if found != expected:
        raise CheckpointMismatch(
            f"{origin} is checkpoint {found[:8]}; {bundle.path} was exported from {expected[:8]}: give that one"
        )


def _digest(start: str, arrays: Mapping[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256(start.encode())
    for name, array in sorted(arrays.items()):
        little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{name} {array.dtype.name} {array.shape}".encode())
        digest.update(little_endian.tobytes())
    return digest.hexdigest()


def _codec_config(model: GlcModel) -> CodecConfig:
    config = model.config
    return CodecConfig(
        latent_channels=config.latent_channels,
        downsampling=config.downsampling,
        codebook_entries=config.codebook_entries,
        qualities=config.qualities,
        attention_patch=config.attention_patch,
    )


def _tables(model: GlcModel, table: ScaleTable, further: Sequence[Transform]) -> bytes:
    arrays: dict[str, NDArray[np.generic]] = {}
    for transform in (Transform(ANALYSIS, model), Transform(SYNTHESIS, model), *further):
        arrays |= transform.rows()
    return packed(arrays | table.to_arrays())


def _conformance(cases: Mapping[str, Mapping[str, Array]]) -> bytes:
    buffer = io.BytesIO()
    arrays = {f"{graph}.{name}": array for graph, case in cases.items() for name, array in case.items()}
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type] # not the keyword that it takes
    return buffer.getvalue()
