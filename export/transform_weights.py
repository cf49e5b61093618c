"""Weights of an encoder or decoder that takes the place of the model's own.

    file of the transform --> its tensors ---+--> model of the transform
    checkpoint or bundle ---> all the others +

Such a file holds a whole model, or just what it replaces. What decides the meaning of a payload stays the model's: it
is compared, and never taken from the file.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.numpy_helper
import torch
from torch import Tensor

from glc.errors import CheckpointMismatch
from glc.export.checkpoint import read_tensors
from glc.export.config import ModelConfig, read_config
from glc.export.model import GlcModel
from glc.runtime.bundle import Bundle
from glc.runtime.transforms import ANALYSIS, ROWS, SYNTHESIS

_logger = logging.getLogger(__name__)

KINDS = {ANALYSIS: "encoder", SYNTHESIS: "decoder"}
"""Graph of the model's own -> what takes its place, in the words of a command line."""

REPLACED = {
    ANALYSIS: ("vqgan.encoder.", "enc.", "hyper_enc.", ROWS[ANALYSIS]),
    SYNTHESIS: ("vqgan.generator.", "dec.", ROWS[SYNTHESIS]),
}
"""Graph of the model's own -> beginnings of the names of tensors that another encoder or decoder replaces."""

_CODEBOOK = "z_vq.embedding.weight"

_MODULES = {"encoder.": "vqgan.encoder.", "generator.": "vqgan.generator."}
"""What graphs call the parts of the auto-encoder -> what state dicts do."""

_HALF = ".half"
"""Ends the name of a weight that is stored in float16."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownWeights:
    """What is known of the model that a transform is added to."""

    origin: str
    """Where it is known from."""
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    """By their names in the state dict; a bundle does not hold all of them so."""


def weights_of_model(model: GlcModel, origin: str) -> KnownWeights:
    """Those of a checkpoint; `origin` says which."""
    return KnownWeights(origin, model.config, model.state_dict())


def weights_of_bundle(bundle: Bundle) -> KnownWeights:
    """Those that the graphs of the model's own analysis and synthesis hold under their names, and the codebook.

    Those of a GroupNorm have lost their names, and those of exact priors are integers.

    Raises:
        BundleError: a file was altered.
        CheckpointMismatch: they do not tell the model's configuration.
    """
    config, tables = bundle.manifest.config, bundle.tables()
    tensors: dict[str, Tensor] = {}
    for graph in (ANALYSIS, SYNTHESIS):
        tensors[ROWS[graph]] = torch.tensor(tables.rows[graph])[:, :, None, None]
        for weight in onnx.load_model_from_string(bundle.graph(graph)[1]).graph.initializer:
            values = torch.tensor(onnx.numpy_helper.to_array(weight))
            if tuple(values.shape) == (config.latent_channels, config.codebook_entries):
                tensors[_CODEBOOK] = values.float().T.contiguous()  # the only matrix of an analysis graph
            elif values.is_floating_point():
                tensors[_state_name(weight.name.removesuffix(_HALF))] = values.float()
    model = read_config({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return KnownWeights(str(bundle.path), dataclasses.replace(model, attention_patch=config.attention_patch), tensors)


def transform_model(own: str, file: Path, known: KnownWeights) -> GlcModel:
    """Load a file as an encoder or decoder for a model.

    Args:
        own: graph whose place it takes, `ANALYSIS` or `SYNTHESIS`.
        file: a checkpoint as `load_checkpoint` takes it, or one that lacks tensors.
        known: what is taken from the model.

    Returns:
        A model that has the tensors of `own` and the codebook alone.

    Raises:
        CheckpointUnreadable, UnsafeCheckpoint: as `load_checkpoint`.
        CheckpointMismatch: a tensor is unknown, mis-shaped or missing, or belongs to the entropy part and differs.
    """
    with torch.device("meta"):
        model = GlcModel(known.config)
    expected = model.state_dict()
    found = read_tensors(file)
    _require_places(found, expected, own, file)
    needed = [name for name in expected if name.startswith(REPLACED[own]) or name == _CODEBOOK]
    replaced = {name: found[name] for name in needed if name in found and name != _CODEBOOK}
    kind = KINDS[own]
    if not replaced:
        raise CheckpointMismatch(f"{file} holds no tensor that {_words(own)}")
    of_transforms = tuple(start for starts in REPLACED.values() for start in starts)
    for name in expected:
        if name in found and not name.startswith(of_transforms):
            _require_equal(name, found[name], known, own, file)
    passed_over = sum(name not in replaced and name.startswith(of_transforms) for name in found)
    if passed_over:
        _logger.info("%s: passed over %d tensors that an %s does not replace", file.name, passed_over, kind)
    missing = [name for name in needed if name not in replaced and name not in known.tensors]
    if missing:
        raise CheckpointMismatch(
            f"{file} lacks {missing[0]}, which {known.origin} does not hold under its name: give the checkpoint that "
            "the bundle was exported from with --ckpt"
        )
    model.load_state_dict(
        {name: replaced[name] if name in replaced else known.tensors[name] for name in needed},
        strict=False,
        assign=True,
    )
    return model.eval().requires_grad_(False)


def _require_places(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], own: str, file: Path) -> None:
    """Refuse tensors that have no place in the model."""
    for name, tensor in found.items():
        if name not in expected:
            raise CheckpointMismatch(f"{file}: the model that the {KINDS[own]} is for has no tensor {name}")
        if tensor.shape != expected[name].shape:
            raise CheckpointMismatch(
                f"{file}: {name} has shape {list(tensor.shape)}; in the model that the {KINDS[own]} is for it has "
                f"{list(expected[name].shape)}, and the structure must be the same"
            )


def _require_equal(name: str, tensor: Tensor, known: KnownWeights, own: str, file: Path) -> None:
    """Refuse a tensor of the entropy part that is not the model's."""
    if name not in known.tensors:
        raise CheckpointMismatch(
            f"{file} holds {name} of the entropy part, which {known.origin} does not hold in a form to compare it "
            "with: give the checkpoint that the bundle was exported from with --ckpt, or keep only what "
            f"{_words(own)}"
        )
    if not torch.equal(tensor, known.tensors[name]):
        raise CheckpointMismatch(
            f"{file}: {name} differs from that of {known.origin}; it belongs to the entropy part, which all encoders "
            f"and decoders share: keep only what {_words(own)}, or export the file as a model of its own"
        )


def _words(own: str) -> str:
    starts: Sequence[str] = [f"{start}*" if start.endswith(".") else start for start in REPLACED[own]]
    article = "an" if KINDS[own][0] in "aeiou" else "a"
    return f"{article} {KINDS[own]} replaces ({', '.join(starts)})"


def _state_name(name: str) -> str:
    """Name in the state dict of what a graph calls otherwise."""
    for module, prefix in _MODULES.items():
        if name.startswith(module):
            return prefix + name.removeprefix(module)
    return name
