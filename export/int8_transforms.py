"""An encoder and a decoder with 8-bit convolutions beside a bundle's own, chosen by the name `int8`.

    graphs of the bundle --NNCF, over photographs--> analysis.int8, synthesis.int8

The two 3x3 convolutions of each residual block of latent encoder and decoder, three quarters of all operations, take
inputs and weights of 8 bits. What feeds them is normalised, so that its range hardly depends on the image. All others
stay as they are: those that resample read the residual stream, whose outliers cost 10 dB, and the rest is cheap
(docs/decisions/0011). Needs no checkpoint; streams and `model_id` stay, since the priors are not touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import onnx
from numpy.typing import NDArray

from glc.engines import Array, engine_loader
from glc.errors import ExportError
from glc.export.bundle_files import BundleFiles, rewritten
from glc.export.exact_calibration import central_crop
from glc.export.further_transforms import TABLES, packed, require_free
from glc.export.onnx_graph import serialised, tensor_specs, with_plain_weights
from glc.runtime.bundle import Bundle
from glc.runtime.codec import Codec
from glc.runtime.demo import psnr_db
from glc.runtime.manifest import Manifest
from glc.runtime.transforms import ANALYSIS, OWN, ROWS, SYNTHESIS, beside

INT8 = "int8"
"""Name of the encoder and of the decoder."""

INT8_STEPS = 4
"""Calls of `on_step`."""

_RESIDUAL_WEIGHTS = re.compile(r"(encoder|generator)\.blocks\.\d+\.conv[12]\.weight")


@dataclass(frozen=True, slots=True)
class Int8Report:
    """The 8-bit encoder and decoder beside the bundle's own, over the middle of images at every quality."""

    images: int
    bytes_own: int
    """Of all streams of the bundle's own encoder."""
    bytes_int8: int
    psnr_own_db: float
    """Mean over images and qualities, own encoder and decoder."""
    psnr_int8_db: float
    """The same with both in 8 bits."""


def add_int8(
    bundle: Bundle, images: Sequence[NDArray[np.uint8]], *, on_step: Callable[[str], None] = lambda _: None
) -> tuple[Bundle, Int8Report]:
    """Add both to a bundle; all that it held stays.

    Args:
        bundle: an open bundle; it is replaced when both graphs are there, and else stays as it was.
        images: (H, W, 3) uint8 each, whose middle chooses the ranges of activations.
        on_step: called with a description before each step.

    Returns:
        The new bundle, opened, and what the 8 bits cost on the images.

    Raises:
        BundleError: the bundle was altered.
        ExportError: NNCF is not installed, the bundle has such an encoder or decoder, or a graph is of another form.
        OutputNotWritable: the bundle cannot be written.
        ValueError: there is no image.
    """
    if not images:
        raise ValueError("no image to calibrate on")
    require_free(bundle, [f"{own}.{INT8}" for own in ROWS])
    nncf = _nncf()
    crops = [np.ascontiguousarray(central_crop(image)) for image in images]
    on_step("run the bundle on photographs")
    feeds = _feeds(bundle, crops)
    graphs = {}
    for own in (ANALYSIS, SYNTHESIS):
        on_step(f"quantise {own}")
        graphs[own] = _quantised(nncf, bundle, own, feeds[own])

    def add(writer: BundleFiles) -> Manifest:
        manifest = bundle.manifest
        entries = dict(manifest.graphs)
        with np.load(io.BytesIO(bundle.read(manifest.tables))) as file:
            arrays = dict(file)
        for own, data in graphs.items():
            graph = f"{own}.{INT8}"
            entries[graph] = dataclasses.replace(entries[own], file=writer.add(f"graphs/{graph}.onnx", data))
            arrays[beside(ROWS[own], graph)] = arrays[ROWS[own]]
        return dataclasses.replace(manifest, graphs=entries, tables=writer.add(TABLES, packed(arrays)))

    added = rewritten(bundle, add)
    on_step("measure the cost of 8 bits")
    return added, _report(added, crops)


def _feeds(bundle: Bundle, crops: Sequence[NDArray[np.uint8]]) -> dict[str, list[dict[str, Array]]]:
    """Graph -> inputs that images give at every quality."""
    rows = bundle.tables().rows
    feeds: dict[str, list[dict[str, Array]]] = {ANALYSIS: [], SYNTHESIS: []}
    with Codec(bundle, engine_loader("onnxruntime")) as codec:
        for crop in crops:
            for quality in range(codec.qualities):
                y_hat = codec.decode_latent(codec.encode(crop, quality))
                for own, name, fed in ((ANALYSIS, "image", crop), (SYNTHESIS, "y_hat", y_hat)):
                    feeds[own].append({name: fed[None], "q_row": rows[own][quality].reshape(1, -1, 1, 1)})
    return feeds


def _quantised(nncf: ModuleType, bundle: Bundle, own: str, feeds: list[dict[str, Array]]) -> bytes:
    """One graph with quantised residual blocks, serialised."""
    model = with_plain_weights(onnx.load_model_from_string(bundle.graph(own)[1]))
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"  # NNCF tells nodes by their names
    residual = {n.name for n in model.graph.node if n.op_type == "Conv" and _RESIDUAL_WEIGHTS.fullmatch(n.input[1])}
    if not residual:
        raise ExportError(f"{bundle.path}: {own} has no residual blocks that are known here: export the bundle again")
    others = [node.name for node in model.graph.node if node.name not in residual]
    with _quiet():
        model = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            preset=nncf.QuantizationPreset.MIXED,  # a swish is hardly negative: zero is put where it wastes no codes
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=True,  # it made images worse: by 0.7 dB at the highest quality
                activations_range_estimator_params=_whole_range(nncf),
            ),
        )
    data = serialised(model)
    entry = bundle.manifest.graphs[own]
    if tensor_specs(data) != (entry.inputs, entry.outputs):
        raise ExportError(f"nncf {nncf.__version__} changed the inputs or outputs of {own}")
    return data


def _whole_range(nncf: ModuleType) -> object:
    """Ranges from the least to the largest value seen; NNCF's own mean over images cuts off, which cost 0.5 dB."""
    return nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX


def _report(bundle: Bundle, crops: Sequence[NDArray[np.uint8]]) -> Int8Report:
    with Codec(bundle, engine_loader("onnxruntime")) as codec:
        (bytes_own, psnr_own_db), (bytes_int8, psnr_int8_db) = (_coded(codec, name, crops) for name in (OWN, INT8))
    return Int8Report(len(crops), bytes_own, bytes_int8, psnr_own_db, psnr_int8_db)


def _coded(codec: Codec, name: str, crops: Sequence[NDArray[np.uint8]]) -> tuple[int, float]:
    """Bytes of all streams at every quality, and their mean PSNR, with the encoder and the decoder of a name."""
    coded = [(crop, codec.encode(crop, q, encoder=name)) for crop in crops for q in range(codec.qualities)]
    psnrs = [psnr_db(crop, codec.decode(data, decoder=name)) for crop, data in coded]
    return sum(len(data) for _, data in coded), float(np.mean(psnrs))


def _nncf() -> ModuleType:
    """The library, whose import takes seconds."""
    try:
        import nncf
        import nncf.quantization.range_estimator
    except ImportError as error:
        raise ExportError("8-bit convolutions need NNCF; run: pip install 'glc-deploy[int8]'") from error
    nncf.set_log_level(logging.ERROR)
    module: ModuleType = nncf
    return module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's own progress bars, which it draws on stdout, out of the results of a command."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
