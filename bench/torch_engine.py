"""Torch modules behind the engine protocol: the published model in PyTorch beside the runtime, and the exact reference.

A loader here loads no graph but the module that the graph was exported from, so that one codec, with the same walk
and the same entropy coder, times and checks both.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from glc.engines import Array, Engine, HostLoader, TensorSpec
from glc.engines.processor import processor_name
from glc.engines.protocol import check_feeds
from glc.errors import EngineFailed, EngineRejectedGraph, ModelMismatch
from glc.export import GlcModel
from glc.export.bundle_writer import checkpoint_id, model_id
from glc.export.exact_calibration import packaged_images
from glc.export.exact_graphs import exact_graphs
from glc.export.exact_priors import exact_priors
from glc.export.graphs import GraphSource, float_graphs
from glc.export.scale_levels import DEFAULT_GRID
from glc.runtime.bundle import Bundle
from glc.runtime.manifest import GraphEntry
from glc.runtime.signatures import EXACT_GRAPHS

Network = Callable[..., Tensor | tuple[Tensor, ...]]

MODES = ("float32", "bf16 autocast", "torch.compile")
"""How `published` can run the model."""


class PublishedBundle(Bundle):
    """A bundle whose prior networks compute as published: its conformance cases do not hold for them."""

    def conformance(self, graph: str) -> None:  # noqa: ARG002
        """None: nothing must be met."""
        return


def open_published(path: str | os.PathLike[str]) -> PublishedBundle:
    """Open a bundle for `published`; raises what `Bundle.open` does."""
    bundle = Bundle.open(path)
    return PublishedBundle(bundle.path, bundle.manifest)


class TorchLoader(HostLoader):
    """Takes modules in place of graphs."""

    name = "torch"

    def __init__(
        self, bundle: Bundle, sources: Sequence[GraphSource], mode: str, wrap: Callable[[str, nn.Module], Network]
    ):
        """Take modules.

        Args:
            bundle: whose graphs were exported from the sources.
            sources: one for each graph.
            mode: for the fingerprint.
            wrap: (graph, module) -> what to call.
        """
        self._mode = mode
        self._networks: dict[bytes, tuple[Network, GraphEntry]] = {}
        for source in sources:
            entry, content = bundle.graph(source.name)
            self._networks[hashlib.sha256(content).digest()] = wrap(source.name, source.module), entry

    @property
    def fingerprint(self) -> str:
        """See `EngineLoader.fingerprint`."""
        return f"torch {torch.__version__} {self._mode}, {torch.get_num_threads()} threads, {processor_name()}"

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:  # noqa: ARG002 - a module is as exact as it is
        """Take the module of a graph; see `EngineLoader.load`."""
        known = self._networks.get(hashlib.sha256(graph).digest())
        if known is None:
            raise EngineRejectedGraph("torch knows the graphs of its own bundle only")
        network, entry = known
        return _TorchEngine(network, entry.inputs, entry.outputs)


class _TorchEngine:
    def __init__(self, network: Network, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._network = network
        self.inputs, self.outputs = inputs, outputs

    @torch.inference_mode()
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs; see `Engine.run`."""
        check_feeds(self.inputs, feeds)
        arrays = (feeds[spec.name] for spec in self.inputs)
        # Torch warns of arrays that it could write to and must not.
        inputs = [torch.from_numpy(x if x.flags.writeable else x.copy()) for x in arrays]
        try:
            results = self._network(*inputs)
        except RuntimeError as error:  # torch.compile compiles now, which takes a C++ compiler
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise EngineFailed(f"torch: {reason}") from error
        tensors = results if isinstance(results, tuple) else (results,)
        types = {spec.name: getattr(torch, spec.dtype) for spec in self.outputs}
        return {spec.name: x.to(types[spec.name]).numpy() for spec, x in zip(self.outputs, tensors, strict=True)}

    def close(self) -> None:
        """Nothing is held."""


def exact_reference(model: GlcModel, bundle: Bundle) -> TorchLoader:
    """Exact graphs in float64, the others in float32.

    Args:
        model: that the bundle was exported from, calibrated on the packaged photographs.
        bundle: in exact arithmetic.

    Raises:
        ModelMismatch: the conversion gives other integers than those of the bundle.
    """
    priors = exact_priors(model, packaged_images(), DEFAULT_GRID)
    found, expected = model_id(model, bundle.tables().scales, priors), bundle.manifest.model_id
    if found != expected:
        raise ModelMismatch(f"the weights give model {found[:8]}; the bundle is model {expected[:8]}: export it again")

    def wrap(graph: str, module: nn.Module) -> Network:
        if graph not in EXACT_GRAPHS:
            return module
        module.double()
        return lambda *inputs: module(*(x.double() if x.is_floating_point() else x for x in inputs))

    return TorchLoader(bundle, exact_graphs(model, priors), "float64", wrap)


def published(model: GlcModel, bundle: PublishedBundle, mode: str) -> TorchLoader:
    """The published model in PyTorch, all in float arithmetic.

    Args:
        model: that the bundle was exported from.
        bundle: says what goes in and out.
        mode: one of `MODES`.

    Raises:
        ModelMismatch: the bundle has other weights.
        ValueError: unknown mode.
    """
    if bundle.manifest.checkpoint_id != checkpoint_id(model):
        raise ModelMismatch(f"{bundle.path} was not exported from this model; export it again")
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(MODES)}")

    def wrap(_: str, module: nn.Module) -> Network:
        if mode == "torch.compile":
            compiled: Network = torch.compile(module, dynamic=False)
            return compiled
        if mode == "float32":
            return module

        def autocast(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
            with torch.autocast("cpu", torch.bfloat16):
                result: Tensor | tuple[Tensor, ...] = module(*inputs)
            return result

        return autocast

    return TorchLoader(bundle, float_graphs(model, DEFAULT_GRID), mode, wrap)
