"""Bundle -> the same bundle with engines that were compiled for a device (docs/bundle.md, "Targets").

    graphs of the bundle --float16 where asked for--> ONNX --builder--> targets/<name>/<graph>.engine

Needs no checkpoint, so that a bundle can be compiled where its device is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from glc.engines import TargetKey, trt_sdk
from glc.engines.protocol import TensorSpec
from glc.engines.trt_builder import BuiltEngine, Profile, Shape, build_engine, builder_for
from glc.errors import BuildFailed, ExportError
from glc.export.bundle_files import BundleFiles, rewritten
from glc.export.half_precision import half_precision
from glc.runtime.bundle import Bundle
from glc.runtime.manifest import CodecConfig, CompiledTarget, Manifest
from glc.runtime.signatures import EXACT_GRAPHS, step_signatures
from glc.runtime.transforms import ANALYSIS, SYNTHESIS, own_name

TargetPrecision = Literal["f16", "f32"]

IMAGE_GRAPHS = (ANALYSIS, SYNTHESIS)
"""Graphs whose precision may be chosen, as that of other encoders and decoders; all others are float32."""

_OF_A_PART = ("means", "symbols", "target")
"""Inputs of a quarter of the latent's positions."""


@dataclass(frozen=True, slots=True)
class ImageSizes:
    """Heights and widths that engines are compiled for; every smaller image is taken too."""

    typical: tuple[int, int] = (512, 768)
    """For which they are made fastest: by default that of the paper's complexity table."""
    largest: tuple[int, int] = (2048, 2048)


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What compilation says of one engine."""

    target: str
    graph: str
    engine: BuiltEngine


def compile_target(
    bundle: Bundle,
    target: str,
    *,
    library: str | None = None,
    precision: TargetPrecision = "f16",
    sizes: ImageSizes = ImageSizes(),
    on_engine: Callable[[EngineReport], None] = lambda _: None,
) -> Bundle:
    """Compile every graph of a bundle and put the engines into it, in place of earlier ones of the same name.

    Args:
        bundle: an open bundle; it is replaced when all engines are there, and else stays as it was.
        target: compute capability, such as `sm80`.
        library: one of `trt_sdk.LIBRARIES`; by default as `builder_for` chooses.
        precision: of the image graphs; exact graphs are float32, whose products may be TF32's.
        sizes: of images.
        on_engine: called with each engine.

    Returns:
        The new bundle, opened.

    Raises:
        BuilderUnavailable: nothing here builds for the target.
        BuildFailed: a graph cannot be compiled.
        ExportError: the bundle is of a version whose graphs cannot be compiled.
        OutputNotWritable: the bundle cannot be written.
    """
    manifest = bundle.manifest
    missing = step_signatures(manifest.config.latent_channels).keys() - manifest.graphs.keys()
    if missing:
        raise ExportError(f"{bundle.path} lacks the graphs {', '.join(sorted(missing))}: export it again, then compile")
    name = builder_for(target, library)
    key = TargetKey(name, trt_sdk.version(name), target, precision)
    folder = f"{target}-{name}-{precision}"

    def compile_all(writer: BundleFiles) -> Manifest:
        engines = {}
        for graph in manifest.graphs:
            built = _compiled(bundle, graph, name, key, sizes)
            engines[graph] = writer.add(f"targets/{folder}/{graph}.engine", built.data)
            on_engine(EngineReport(folder, graph, built))
        compiled = CompiledTarget(key, sizes.largest, engines)
        return dataclasses.replace(manifest, targets={**manifest.targets, folder: compiled})

    return rewritten(bundle, compile_all)


def target_graph(bundle: Bundle, graph: str, precision: TargetPrecision) -> bytes:
    """The ONNX graph that is compiled: that of the bundle, or its conversion to float16.

    Raises:
        BundleError: the bundle lacks it, or it was altered.
        ExportError: it cannot be converted.
    """
    data = bundle.graph(graph)[1]
    return half_precision(data) if own_name(graph) in IMAGE_GRAPHS and precision == "f16" else data


def profiles(config: CodecConfig, inputs: tuple[TensorSpec, ...], sizes: ImageSizes) -> Mapping[str, Profile]:
    """Input -> shapes, for inputs with free axes."""
    return {
        spec.name: Profile(*(_shape(config, spec, size) for size in ((1, 1), sizes.typical, sizes.largest)))
        for spec in inputs
        if None in spec.shape
    }


def _shape(config: CodecConfig, spec: TensorSpec, size: tuple[int, int]) -> Shape:
    """Shape of an input for an image of this height and width."""
    cell = 4 * config.downsampling
    rows, columns = (-(-side // cell) for side in size)
    if spec.name == "image":
        return 1, *size, 3
    if spec.name == "z_indices":
        return 1, rows, columns
    scale = 2 if spec.name in _OF_A_PART else 4
    return 1, config.latent_channels, scale * rows, scale * columns


def _compiled(bundle: Bundle, graph: str, library: str, key: TargetKey, sizes: ImageSizes) -> BuiltEngine:
    exact = bundle.manifest.arithmetic == "exact" and graph in EXACT_GRAPHS
    data = target_graph(bundle, graph, "f16" if key.precision == "f16" else "f32")
    shapes = profiles(bundle.manifest.config, bundle.manifest.graphs[graph].inputs, sizes)
    try:
        return build_engine(library, key.device, data, shapes, tf32=exact)
    except BuildFailed as error:
        raise BuildFailed(f"graph {graph}: {error}") from error
