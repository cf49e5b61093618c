"""The seam between the codec and the SDKs that run its networks."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glc.engines.host_arrays import host_array
from glc.errors import EngineFailed, EngineUnavailable

Array = NDArray[Any]

StageListener = Callable[[str, float], None]
"""Called with the name and the duration in milliseconds of a stage that ended, from the thread that ran it."""


@contextlib.contextmanager
def timed(stage: str, on_stage: StageListener | None) -> Iterator[None]:
    """Tell a listener how long what runs inside took, unless it raises."""
    start = time.perf_counter()
    yield
    if on_stage is not None:
        on_stage(stage, 1e3 * (time.perf_counter() - start))


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, data type and shape of one input or output."""

    name: str
    dtype: str
    """`float32`, `float16`, `uint8` or `int32`."""
    shape: tuple[int | None, ...]
    """One entry an axis; None where any size will do."""

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join('*' if n is None else str(n) for n in self.shape)}]"

    def accepts(self, tensor: Tensor) -> bool:
        """Whether a tensor has this data type and shape."""
        return (
            tensor.dtype == np.dtype(self.dtype)
            and len(tensor.shape) == len(self.shape)
            and all(free in (None, size) for free, size in zip(self.shape, tensor.shape, strict=True))
        )


class Tensor(Protocol):
    """A numpy array, or what stands for one on the device of an engine."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the elements."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""
        ...


class Engine(Protocol):
    """One loaded graph. `run` may be called from several threads at once; `close` only when none runs."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs.

        Args:
            feeds: input name -> array of the stated data type and shape; not kept and not written to.

        Returns:
            Output name -> array that belongs to the caller.

        Raises:
            EngineFailed: a feed is missing, unexpected or mis-shaped, or the SDK reports an error.
        """
        ...

    def close(self) -> None:
        """Free the graph; `run` raises EngineFailed afterwards. Closing twice is harmless."""
        ...


class Workspace(Protocol):
    """Where one image passes through the graphs; for one thread at a time.

    All that the runtime knows of devices: what a graph gives stays where the engine keeps it, may be fed to the next
    graph of the same workspace, and comes to the CPU only when it is fetched.
    """

    def run(self, stage: str, engine: Engine, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute all outputs of a graph, now or at the latest when one of them is fetched.

        Args:
            stage: name for the listener.
            engine: of the loader that gave this workspace.
            feeds: input name -> array, or tensor of this workspace.

        Returns:
            Output name -> tensor, valid until the workspace is left.

        Raises:
            EngineFailed: as `Engine.run`.
        """
        ...

    def fetch(self, tensors: Mapping[str, Tensor]) -> dict[str, Array]:
        """Bring tensors to the CPU, as arrays that belong to the caller.

        Raises:
            EngineFailed: a run that they depend on failed.
        """
        ...

    def store(self, image: Tensor, out: Tensor) -> None:
        """Write the top left of an image (1, H, W, 3) into `out` (1, h, w, 3), a tensor of `adopt`.

        Raises:
            EngineFailed: a run that it depends on failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class TargetKey:
    """What compiled engines are made for; no other library, version or device may load them."""

    library: str
    """`tensorrt` or `tensorrt_rtx`."""
    version: str
    """Of the library."""
    device: str
    """Compute capability of the device, such as `sm80`."""
    precision: str
    """Of the image graphs: `f16` or `f32`."""

    def __str__(self) -> str:
        return f"{self.device} with {self.library} {self.version} at {self.precision}"


class EngineLoader(Protocol):
    """An SDK that is ready to load graphs."""

    @property
    def on_device(self) -> bool:
        """Whether tensors live on a device, where what happens between the networks must then be computed too."""
        ...

    @property
    def target(self) -> TargetKey | None:
        """What its compiled engines are made for; None where it loads ONNX graphs."""
        ...

    def workspace(self, on_stage: StageListener | None) -> AbstractContextManager[Workspace]:
        """Take a workspace for one image; threads may hold one each."""
        ...

    def adopt(self, value: object, name: str) -> Tensor:
        """Take what a caller holds, without a copy.

        Args:
            value: an array, or what lends memory by the buffer protocol, `__array_interface__` or DLPack; on a device
                also `__cuda_array_interface__`.
            name: what the caller calls it, for errors.

        Returns:
            The tensor, with an axis of one in front.

        Raises:
            TypeError: not such a value, or it lies where this engine does not compute.
        """
        ...

    @property
    def name(self) -> str:
        """The engine's name, such as `onnxruntime`."""
        ...

    @property
    def fingerprint(self) -> str:
        """All that its float results may depend on: SDK, version, precision, threads, processor."""
        ...

    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """Load a serialised ONNX graph, or a compiled engine where there is a `target`.

        Args:
            graph: the file's content.
            exact: whether it must compute in exact arithmetic, whatever the precision of the others.

        Raises:
            EngineRejectedGraph: the SDK cannot load it.
        """
        ...


class StripLoader(EngineLoader, Protocol):
    """A loader for images that are computed strip by strip."""

    @property
    def strips_take_half(self) -> bool:
        """Whether float32 features of a strip may be given as float16, at no cost."""
        ...

    def load_strips(self, graph: bytes) -> Engine:
        """Load a graph that is given strips of an image, nearly all of one shape; for one thread at a time.

        Args:
            graph: a serialised ONNX graph, never an exact one.

        Raises:
            EngineRejectedGraph: as `EngineLoader.load`.
        """
        ...


class HostLoader(ABC):
    """Base of loaders whose engines compute on arrays in the CPU's memory."""

    on_device = False
    target: TargetKey | None = None
    strips_take_half = False
    """See `StripLoader.strips_take_half`."""
    exact_precision = "f32"
    """Of exact graphs, whatever is asked for: one that holds their integers (docs/exact-arithmetic.md)."""

    @abstractmethod
    def load(self, graph: bytes, *, exact: bool = False) -> Engine:
        """Load a serialised ONNX graph; see `EngineLoader.load`."""

    def sparing(self) -> StripLoader:
        """A loader like this one whose engines give back after each run what the run took.

        Raises:
            EngineUnavailable: this engine has no such way.
        """
        raise EngineUnavailable(f"engine {type(self).__name__} keeps no limit on memory")

    def recall(self, sha256: str, *, exact: bool) -> Engine | None:  # noqa: ARG002 - nothing is kept
        """An engine that was compiled before, here, from the file of this digest: the file need not be read again.

        Args:
            sha256: of the graph's file, as the manifest has it.
            exact: as for `EngineLoader.load`.

        Returns:
            None where there is none.
        """
        return None

    def load_strips(self, graph: bytes) -> Engine:
        """Load a graph for strips of an image; see `StripLoader.load_strips`."""
        return self.load(graph)

    @contextlib.contextmanager
    def workspace(self, on_stage: StageListener | None) -> Iterator[Workspace]:
        """Give a workspace; see `EngineLoader.workspace`."""
        yield HostWorkspace(on_stage)

    def adopt(self, value: object, name: str) -> Tensor:
        """Take memory of the CPU; see `EngineLoader.adopt`."""
        found = host_array(value, name)
        if found is not None:
            return found[None]
        on_device = hasattr(value, "__dlpack__") or hasattr(value, "__cuda_array_interface__")
        where = " on a device, and this engine computes on the CPU" if on_device else ""
        raise TypeError(
            f"{name} must be a numpy array, or speak the buffer protocol, __array_interface__ or DLPack; "
            f"got {type(value).__name__}{where}"
        )


class HostWorkspace:
    """Runs graphs at once; tensors are arrays."""

    def __init__(self, on_stage: StageListener | None) -> None:
        self._on_stage = on_stage

    def run(self, stage: str, engine: Engine, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute all outputs; see `Workspace.run`."""
        with timed(stage, self._on_stage):
            results = engine.run({name: np.ascontiguousarray(_array(tensor)) for name, tensor in feeds.items()})
        return dict(results)

    def fetch(self, tensors: Mapping[str, Tensor]) -> dict[str, Array]:
        """Give the arrays; see `Workspace.fetch`."""
        return {name: _array(tensor) for name, tensor in tensors.items()}

    def store(self, image: Tensor, out: Tensor) -> None:
        """Write the top left of an image; see `Workspace.store`."""
        _, height, width, _ = out.shape
        np.copyto(_array(out), _array(image)[:, :height, :width])


def _array(tensor: Tensor) -> Array:
    if not isinstance(tensor, np.ndarray):
        raise EngineFailed(f"an engine on the CPU needs a numpy array; got {type(tensor).__name__}")
    return tensor


def check_feeds(inputs: Sequence[TensorSpec], feeds: Mapping[str, Tensor]) -> None:
    """Compare feeds with what an engine expects, once, at the seam.

    Raises:
        EngineFailed: a feed is missing, unexpected, or has another data type or shape.
    """
    expected = {spec.name for spec in inputs}
    if expected != feeds.keys():
        raise EngineFailed(f"expected the inputs {sorted(expected)}; got {sorted(feeds)}")
    for spec in inputs:
        tensor = feeds[spec.name]
        if not spec.accepts(tensor):
            raise EngineFailed(f"expected the input {spec}; got {tensor.dtype} {list(tensor.shape)}")
