"""ONNX graph -> TensorRT engine for one compute capability. With TensorRT for RTX this needs no GPU."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from glc.engines import trt_sdk
from glc.engines.cuda import device_capability
from glc.errors import BuilderUnavailable, BuildFailed, EngineUnavailable

Shape = tuple[int, ...]

_CAPABILITY = re.compile(r"sm\d{2,3}")


@dataclass(frozen=True, slots=True)
class Profile:
    """Shapes of one input that an engine takes."""

    smallest: Shape
    typical: Shape
    """For which it is made fastest."""
    largest: Shape


@dataclass(frozen=True, slots=True, eq=False)
class BuiltEngine:
    """An engine and what its builder says of it."""

    data: bytes
    layers: int
    """Of the network as it was parsed, those that compute shapes included."""
    weights_bytes: int | None
    """None where the library does not tell."""
    activation_bytes: int | None
    """Device memory that a run takes at the largest shapes; None where the library does not tell."""
    build_s: float


def builder_for(target: str, name: str | None = None) -> str:
    """Choose the library that builds for a target.

    Args:
        target: compute capability, such as `sm80`.
        name: one of `trt_sdk.LIBRARIES`; by default TensorRT where a GPU of this capability is at hand, else TensorRT
            for RTX.

    Raises:
        BuilderUnavailable: none that is installed builds for it here; the message says why and what would.
        ValueError: no such library.
    """
    if name is not None and name not in trt_sdk.LIBRARIES:
        raise ValueError(f"no library is called {name!r}; choose one of {', '.join(trt_sdk.LIBRARIES)}")
    if not _CAPABILITY.fullmatch(target):
        raise BuilderUnavailable(f"no target is called {target!r}; name a compute capability, such as sm80 for A100")
    reasons = []
    for candidate in trt_sdk.LIBRARIES if name is None else (name,):
        try:
            _require(candidate, target)
        except EngineUnavailable as error:
            reasons.append(str(error))
        else:
            return candidate
    raise BuilderUnavailable(f"nothing here builds for {target}: {'; '.join(reasons)}")


def build_engine(name: str, target: str, graph: bytes, profiles: Mapping[str, Profile], *, tf32: bool) -> BuiltEngine:
    """Build an engine; its precision is the graph's.

    Args:
        name: from `builder_for`.
        target: compute capability.
        graph: a serialised ONNX graph.
        profiles: input -> shapes, for every input with free axes.
        tf32: whether float32 products may be of 11-bit numbers, summed in float32.

    Raises:
        BuildFailed: the library refuses the graph.
    """
    trt = trt_sdk.library(name)
    messages = trt_sdk.Messages(trt)
    start = time.perf_counter()
    builder = trt.Builder(messages.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, messages.logger)
    if not parser.parse(graph):
        errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
        raise BuildFailed(f"{name} cannot parse the graph: {' '.join((errors or [messages.said()])[0].split())}")
    config = builder.create_builder_config()
    if name == trt_sdk.TENSORRT_RTX:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, target), 0)
    if tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    for tensor, shapes in profiles.items():
        profile.set_shape(tensor, shapes.smallest, shapes.typical, shapes.largest)
    if profiles:
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildFailed(f"{name} cannot build the graph for {target}: {messages.said()}")
    return BuiltEngine(
        data=bytes(plan),
        layers=network.num_layers,
        weights_bytes=messages.bytes.get("Weights"),
        activation_bytes=messages.bytes.get("Activation"),
        build_s=time.perf_counter() - start,
    )


def _require(name: str, target: str) -> None:
    """Raise EngineUnavailable where a library cannot build for a target."""
    trt = trt_sdk.library(name)
    if name == trt_sdk.TENSORRT_RTX:
        if _capability(trt, target) is None:
            known = ", ".join(sorted(n.lower() for n in dir(trt.ComputeCapability) if n.startswith("SM")))
            raise EngineUnavailable(f"{name} {trt.__version__} builds for {known}")
        return
    found = device_capability()
    if found != target:
        raise EngineUnavailable(f"{name} builds for the GPU at hand alone, which is {found}")


def _capability(trt: ModuleType, target: str) -> Any:
    return getattr(trt.ComputeCapability, target.upper(), None)
