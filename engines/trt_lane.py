"""One image's way through TensorRT engines: buffers, a queue of steps, and recordings of it as CUDA graphs.

    run --> steps, queued --fetch--> one launch of all that is queued, one wait for the results

What a lane is asked to run is queued until a result is fetched. The same queue at the same shapes is run step by step
the first time, so that the library can finish its kernels, recorded as a CUDA graph the second, and is one launch from
then on. A lane keeps what belongs to the last few shapes; nothing is allocated on the device when a shape comes again.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from glc.engines.cuda import Device, Graph, Memory, Staging, Stream
from glc.engines.device_arrays import DeviceTensor
from glc.engines.protocol import Array, Engine, StageListener, Tensor, TensorSpec, check_feeds
from glc.errors import EngineFailed

KEPT_SHAPES = 8
"""Image shapes whose buffers a lane keeps."""

_ALIGNMENT = 256


@runtime_checkable
class CompiledGraph(Protocol):
    """What a lane needs of an engine."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a run must be fed."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What a run returns."""
        ...

    def context(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """An execution context for input shapes, without memory yet.

        Raises:
            EngineFailed: closed, or a shape is outside of what was compiled.
        """
        ...


class _Step:
    """One graph at one place of a sequence: a context whose addresses are set once, and buffers that are its own."""

    def __init__(self, lane: Lane, stage: str, engine: CompiledGraph, feeds: Mapping[str, Tensor]) -> None:
        self.stage = stage
        self.context = engine.context({name: tensor.shape for name, tensor in feeds.items()})
        self.staged: dict[str, tuple[Staging, int]] = {}
        self.given: dict[str, int] = {}
        self.outputs: dict[str, DeviceTensor] = {}
        for name, tensor in feeds.items():
            if isinstance(tensor, DeviceTensor) and tensor.owner is None:
                address = tensor.address
            else:
                address = lane.sequence.memory(DeviceTensor(0, tensor.shape, tensor.dtype).size_bytes)
                if isinstance(tensor, DeviceTensor):
                    self.given[name] = address
                else:
                    self.staged[name] = lane.sequence.staging(tensor.shape, tensor.dtype), address
            self.context.set_tensor_address(name, address)
        for spec in engine.outputs:
            shape, dtype = tuple(map(int, self.context.get_tensor_shape(spec.name))), np.dtype(spec.dtype)
            tensor = DeviceTensor(0, shape, dtype)
            self.outputs[spec.name] = DeviceTensor(lane.sequence.memory(tensor.size_bytes), shape, dtype)
            self.context.set_tensor_address(spec.name, self.outputs[spec.name].address)
        self.scratch_bytes = int(self.context.update_device_memory_size_for_shapes())

    def enqueue(self, stream: Stream) -> None:
        """Copy what is staged, and run."""
        for staging, address in self.staged.values():
            stream.upload(address, staging)
        if not self.context.execute_async_v3(stream.handle):
            raise EngineFailed(f"the engine of {self.stage} did not start; the device may be out of memory")


class _Sequence:
    """All that a lane holds for one image shape."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._blocks: list[Memory | Staging] = []
        self.steps: dict[tuple[Any, ...], _Step] = {}
        self.results: dict[int, Staging] = {}
        """Address on the device -> where it is staged."""
        self.graphs: dict[tuple[int, ...], Graph | None] = {}
        """Steps and fetched addresses -> recording; None where they ran once."""

    def memory(self, size_bytes: int) -> int:
        """Address of a new block of device memory."""
        block = self._device.memory(size_bytes)
        self._blocks.append(block)
        return block.address

    def staging(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Staging:
        """A new block of page-locked memory."""
        block = self._device.staging(shape, dtype)
        self._blocks.append(block)
        return block

    def forget_graphs(self) -> None:
        """Free recordings, whose addresses no longer hold."""
        for graph in self.graphs.values():
            if graph is not None:
                graph.close()
        self.graphs.clear()

    def close(self) -> None:
        """Free everything."""
        self.forget_graphs()
        self.steps.clear()
        for block in self._blocks:
            block.free()


class Lane:
    """A workspace on the device; see `Workspace`. One thread at a time."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stream = device.stream()
        self._sequences: OrderedDict[tuple[Any, ...], _Sequence] = OrderedDict()
        self._scratch: Memory | None = None
        self._queue: list[_Step] = []
        self._on_stage: StageListener | None = None
        self._entered: _Sequence | None = None

    def enter(self, on_stage: StageListener | None) -> None:
        """Begin an image."""
        self._on_stage, self._entered = on_stage, None

    def leave(self) -> None:
        """End an image; what nobody fetched is not computed."""
        self._queue.clear()

    @property
    def sequence(self) -> _Sequence:
        """That of this image's shape."""
        if self._entered is None:
            raise EngineFailed("nothing was run in this workspace")
        return self._entered

    def run(self, stage: str, engine: Engine, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Queue a graph; see `Workspace.run`."""
        if not isinstance(engine, CompiledGraph):
            raise EngineFailed(f"a workspace of TensorRT runs compiled engines; got {type(engine).__name__}")
        check_feeds(engine.inputs, feeds)
        if self._entered is None:
            self._entered = self._sequence_for(engine, feeds)
        key = (engine, *((name, *_source(tensor)) for name, tensor in sorted(feeds.items())))
        step = self.sequence.steps.get(key)
        if step is None:
            step = self.sequence.steps[key] = _Step(self, stage, engine, feeds)
            self._share_scratch(step)
        step.stage = stage
        if step in self._queue:
            self._launch({})  # its staged inputs are about to be written again
        for name, (staging, _) in step.staged.items():
            np.copyto(staging.array, np.asarray(feeds[name]))
        for name, address in step.given.items():
            self._copy_in(address, feeds[name])
        self._queue.append(step)
        return dict(step.outputs)

    def fetch(self, tensors: Mapping[str, Tensor]) -> dict[str, Array]:
        """Run what is queued and bring results to the CPU; see `Workspace.fetch`."""
        wanted = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, DeviceTensor)}
        self._launch(wanted)
        return {n: self._staged(t).copy() if n in wanted else np.asarray(t) for n, t in tensors.items()}

    def store(self, image: Tensor, out: Tensor) -> None:
        """Write the top left of an image; see `Workspace.store`."""
        _, height, width, channels = out.shape
        if not isinstance(image, DeviceTensor):
            raise EngineFailed("the image is not on the device")
        if not isinstance(out, DeviceTensor):
            self._launch({"image": image})
            np.copyto(np.asarray(out), self._staged(image)[:, :height, :width])
            return
        self._launch({}, wait=False)
        if out.after is not None:
            self._stream.wait_for(out.after)
        row, pitch = width * channels, image.shape[2] * channels
        self._stream.copy_rows(out.address, row, image.address, pitch, row, height)
        self._stream.synchronise()

    def close(self) -> None:
        """Wait for the device and free everything."""
        with contextlib.suppress(EngineFailed):  # what failed was reported where it failed
            self._stream.synchronise()
        for sequence in self._sequences.values():
            sequence.close()
        self._sequences.clear()
        if self._scratch is not None:
            self._scratch.free()
        self._stream.close()

    def _staged(self, tensor: Tensor) -> Array:
        """What was fetched last of a result; written again by the next launch."""
        if not isinstance(tensor, DeviceTensor):
            raise EngineFailed("the tensor is not on the device")
        return self.sequence.results[tensor.address].array

    def _copy_in(self, address: int, tensor: Tensor) -> None:
        """Copy what a caller holds on the device, once its own work is done."""
        if not isinstance(tensor, DeviceTensor):
            raise EngineFailed("the tensor is not on the device")
        if tensor.after is not None:
            self._stream.wait_for(tensor.after)
        self._stream.copy(address, tensor.address, tensor.size_bytes)

    def _sequence_for(self, engine: Engine, feeds: Mapping[str, Tensor]) -> _Sequence:
        key = (engine, *(tensor.shape for _, tensor in sorted(feeds.items())))
        if key not in self._sequences:
            while len(self._sequences) >= KEPT_SHAPES:
                self._sequences.popitem(last=False)[1].close()
            self._sequences[key] = _Sequence(self._device)
        self._sequences.move_to_end(key)
        return self._sequences[key]

    def _share_scratch(self, step: _Step) -> None:
        """Give a context the memory that all of a lane share, since they run one after another."""
        if self._scratch is not None and step.scratch_bytes <= self._scratch.size_bytes:
            step.context.set_device_memory(self._scratch.address, self._scratch.size_bytes)
            return
        if self._scratch is not None:
            self._launch({})
            self._scratch.free()
        self._scratch = None  # stays so where there is no room
        self._scratch = self._device.memory(-(-step.scratch_bytes // _ALIGNMENT) * _ALIGNMENT)
        for sequence in self._sequences.values():
            sequence.forget_graphs()
            for known in sequence.steps.values():
                known.context.set_device_memory(self._scratch.address, self._scratch.size_bytes)

    def _launch(self, wanted: Mapping[str, DeviceTensor], *, wait: bool = True) -> None:
        """Run what is queued, by a recording where there is one, and stage what is wanted."""
        steps, self._queue = self._queue, []
        if not steps and not wanted:
            return
        sequence = self.sequence
        for tensor in wanted.values():
            if tensor.address not in sequence.results:
                sequence.results[tensor.address] = sequence.staging(tensor.shape, tensor.dtype)
        addresses = list(dict.fromkeys(tensor.address for tensor in wanted.values()))

        def work() -> None:
            for step in steps:
                step.enqueue(self._stream)
            download()

        def download() -> None:
            for address in addresses:
                self._stream.download(sequence.results[address], address)

        key = (*map(id, steps), *addresses)
        if self._on_stage is not None:
            self._run_timed(steps, self._on_stage)
            download()
        elif key not in sequence.graphs:
            work()
            sequence.graphs[key] = None
        else:
            graph = sequence.graphs[key]
            if graph is None and all(step.context.is_stream_capturable(self._stream.handle) for step in steps):
                graph = sequence.graphs[key] = self._stream.capture(work)
            if graph is None:
                work()
            else:
                self._stream.launch(graph)
        if wait:
            self._stream.synchronise()

    def _run_timed(self, steps: list[_Step], on_stage: StageListener) -> None:
        """Run steps one by one by the device's own clock; no recording, which has no stages."""
        marks = [self._stream.mark()]
        for step in steps:
            step.enqueue(self._stream)
            marks.append(self._stream.mark())
        self._stream.synchronise()
        for step, start, end in zip(steps, marks, marks[1:], strict=False):
            on_stage(step.stage, self._stream.elapsed_ms(start, end))
        for mark in marks:
            self._stream.forget(mark)


def _source(tensor: Tensor) -> tuple[Any, ...]:
    """What a step is bound to: the address of a result, or a shape that is copied in."""
    if isinstance(tensor, DeviceTensor) and tensor.owner is None:
        return "result", tensor.address, tensor.shape
    return "given" if isinstance(tensor, DeviceTensor) else "staged", 0, tensor.shape
