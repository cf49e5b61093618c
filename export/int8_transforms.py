"""An encoder and a decoder with 8-bit convolutions beside a bundle's own, chosen by the name `int8`.

    graphs of the bundle --NNCF, over photographs--> analysis.int8, synthesis.int8

The two 3x3 convolutions of each residual block of latent encoder and decoder, most of all operations, take
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import onnx
from numpy.typing import NDArray

from glc.engines import Array, engine_loader
from glc.errors import ExportError
from glc.export.bundle_files import BundleFiles, rewritten
from glc.export.exact_calibration import central_crop, packaged_images
from glc.export.further_transforms import WrittenTransforms, extended, feeds_of, require_free
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
    bundle: Bundle,
    images: Sequence[NDArray[np.uint8]] | None = None,
    *,
    on_step: Callable[[str], None] = lambda _: None,
) -> tuple[Bundle, Int8Report]:
    """Add both to a bundle; all that it held stays.

    Args:
        bundle: an open bundle; it is replaced when both graphs are there, and else stays as it was.
        images: (H, W, 3) uint8 each, whose middle chooses the ranges of activations; the packaged photographs by
            default.
        on_step: called with a description before each step.

    Returns:
        The new bundle, opened, and what the 8 bits cost on the images.

    Raises:
        BundleError: the bundle was altered.
        ExportError: NNCF is not installed, the bundle has such an encoder or decoder, or a graph is of another form.
        OutputNotWritable: the bundle cannot be written.
        ValueError: there is no image.
    """
    if images is None:
        images = packaged_images()
    if not images:
        raise ValueError("no image to calibrate on")
    require_free(bundle, [f"{own}.{INT8}" for own in ROWS])
    nncf = _nncf()
    crops = [np.ascontiguousarray(central_crop(image)) for image in images]
    on_step("run the bundle on photographs")
    runs = list(feeds_of(bundle, crops, range(bundle.manifest.config.qualities)))
    quantised = {}
    for own in (ANALYSIS, SYNTHESIS):
        on_step(f"quantise {own}")
        quantised[own] = _quantised(nncf, bundle, own, [run[own] for run in runs])

    def add(writer: BundleFiles) -> Manifest:
        written, rows, own_rows = WrittenTransforms({}, {}), {}, bundle.tables().rows
        for own, data in quantised.items():
            graph = f"{own}.{INT8}"
            file = writer.add(f"graphs/{graph}.onnx", data)
            written.graphs[graph] = dataclasses.replace(bundle.manifest.graphs[own], file=file)
            rows[beside(ROWS[own], graph)] = own_rows[own]
        return extended(bundle, written, rows, writer)

    added = rewritten(bundle, add)
    on_step("measure the cost of 8 bits")
    return added, _report(added, crops)


def _quantised(nncf: ModuleType, bundle: Bundle, own: str, feeds: list[dict[str, Array]]) -> bytes:
    """One graph with quantised residual blocks, serialised."""
    model = with_plain_weights(onnx.load_model_from_string(bundle.graph(own)[1]))
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"  # NNCF tells nodes by their names
    residual = {n.name for n in model.graph.node if n.op_type == "Conv" and _RESIDUAL_WEIGHTS.fullmatch(n.input[1])}
    if not residual:
        raise ExportError(f"{bundle.path}: {own} has no residual blocks that are known here: export the bundle again")
    ranges = nncf.quantization.range_estimator
    others = [node.name for node in model.graph.node if node.name not in residual]
    with contextlib.redirect_stdout(io.StringIO()):  # where NNCF draws its progress, and commands write their results
        model = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            # Zero points would waste fewer codes on a swish, which is hardly negative, but AMX multiplies without.
            preset=nncf.QuantizationPreset.PERFORMANCE,
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=True,  # it gained nothing; with NNCF's own ranges it cost 2 dB
                # From the least to the largest value seen: a mean over images, NNCF's own, cuts off.
                activations_range_estimator_params=ranges.RangeEstimatorParametersSet.MINMAX,
            ),
        )
    data = serialised(model)
    entry = bundle.manifest.graphs[own]
    if tensor_specs(data) != (entry.inputs, entry.outputs):
        raise ExportError(f"nncf {nncf.__version__} changed the inputs or outputs of {own}")
    return data


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
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own setter changes the handlers too, which others may own
    module: ModuleType = nncf
    return module
