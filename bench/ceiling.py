"""Ceilings of the device at hand: the fastest dense convolution that an engine computes, and the fastest copy.

A stage that is all convolutions cannot be much faster than large convolutions are on the same engine at the same
precision and threads, nor one that only moves data than plain copies are. Both are measured in the run that they are
compared with, since other work on the machine slows ceiling and stage alike.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from glc.bench.output import Table
from glc.bench.timing import AGREEMENT, Spread, disagreement, milliseconds, take_turns
from glc.engines import PRECISIONS, Array, Engine, engine_loader
from glc.engines.processor import available_threads
from glc.errors import EngineUnavailable

COPY = "copy"
"""Name of the ceiling of memory; the others are called by their precisions."""

_OPSET = 17
_IR_VERSION = 9
"""What every engine reads."""

_KERNEL = 3

_CALM_S = 0.05
"""What an engine's threads may spin for after its last run."""


@dataclass(frozen=True, slots=True)
class ProbeSizes:
    """What is computed and copied. The defaults gave the highest rates of those tried, at f32 and bf16."""

    channels: int = 512
    """In and out of every convolution."""
    height: int = 64
    width: int = 96
    layers: int = 3
    """Convolutions in a row, so that changes of layout at the ends hardly count."""
    copy_bytes: int = 256 << 20
    """Of the array that is copied: far more than caches hold."""
    repetitions: int = 5
    """That count, after one that does not."""

    @property
    def flops(self) -> int:
        """Of one run, a multiply-add counted as two."""
        return 2 * self.layers * self.channels**2 * _KERNEL**2 * self.height * self.width


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A rate in 10^9 a second: FLOP/s of convolutions, bytes/s read and written of copies."""

    name: str
    """A precision, or `COPY`."""
    work: int
    """FLOPs or bytes of one repetition."""
    spread: Spread

    @property
    def median(self) -> float:
        """Rate of the median repetition."""
        return 1e-6 * self.work / self.spread.median_ms

    @property
    def best(self) -> float:
        """Rate of the fastest repetition."""
        return 1e-6 * self.work / self.spread.least_ms

    def __add__(self, other: Ceiling) -> Ceiling:
        """Both measurements of the same thing as one."""
        return Ceiling(self.name, self.work, Spread(self.spread.samples_ms + other.spread.samples_ms))


@dataclass(frozen=True, slots=True)
class CeilingRow:
    """One ceiling of this device, before and after what is compared with it, in 10^9 FLOP/s or bytes/s."""

    ceiling: str
    """A precision, or copy."""
    median: float
    best: float
    before_median: float
    after_median: float
    disagreement: float
    """How far the medians before and after lie apart, as a part of the smaller duration."""
    run_samples_ms: tuple[float, ...]
    """Of both."""


class CeilingProbe:
    """Loads the convolutions once and measures as often as asked; close it, or use it in a `with` statement."""

    def __init__(self, engine: str, threads: int | None = None, sizes: ProbeSizes | None = None) -> None:
        """Load.

        Args:
            engine: as `engine_loader` takes it.
            threads: of convolutions and copies; None takes all that this process may use.
            sizes: what is computed and copied.

        Raises:
            EngineUnavailable: the engine cannot compute at all here; `unavailable` names single precisions.
        """
        self._sizes = sizes or ProbeSizes()
        self._threads = threads or available_threads()
        self._engines: dict[str, Engine] = {}
        unavailable: dict[str, str] = {}
        graph = convolution_graph(self._sizes)
        for precision in PRECISIONS:
            try:
                self._engines[precision] = engine_loader(engine, threads, precision).load(graph)
            except EngineUnavailable as error:
                unavailable[precision] = str(error)
        if not self._engines:
            raise EngineUnavailable(next(iter(unavailable.values())))
        self.unavailable: Mapping[str, str] = unavailable
        """Precision -> why it has no ceiling here."""
        shape = (1, self._sizes.channels, self._sizes.height, self._sizes.width)
        self._feeds: dict[str, Array] = {"x": np.random.default_rng(0).standard_normal(shape, np.float32)}
        self._source = np.ones(self._sizes.copy_bytes, np.uint8)
        self._target = np.zeros(self._sizes.copy_bytes, np.uint8)
        self._pool = ThreadPoolExecutor(self._threads)

    def measure(self) -> dict[str, Ceiling]:
        """Measure each ceiling on its own, one after the other: threads that one leaves spinning slow another.

        Returns:
            Precision -> ceiling of its convolutions, for those that are available; `COPY` -> that of memory.
        """
        ceilings = {
            precision: self._ceiling(precision, self._sizes.flops, functools.partial(engine.run, self._feeds))
            for precision, engine in self._engines.items()
        }
        return {**ceilings, COPY: self._ceiling(COPY, 2 * self._sizes.copy_bytes, self._copy)}

    def close(self) -> None:
        """Free engines and threads. Closing twice is harmless."""
        for engine in self._engines.values():
            engine.close()
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ceiling(self, name: str, work: int, call: Callable[[], object]) -> Ceiling:
        time.sleep(_CALM_S)
        samples = take_turns({name: lambda: milliseconds(call)}, self._sizes.repetitions)[name]
        return Ceiling(name, work, Spread(tuple(samples)))

    def _copy(self) -> None:
        """Copy, each thread its own stretch; numpy lets go of the interpreter meanwhile."""
        sources, targets = (np.array_split(array, self._threads) for array in (self._source, self._target))
        list(self._pool.map(np.copyto, targets, sources))


def convolution_graph(sizes: ProbeSizes) -> bytes:
    """Dense 3x3 convolutions in a row, x (1, C, H, W) to y of the same shape, as a serialised ONNX model.

    The weights keep the variance, so that no number grows large or vanishingly small.
    """
    shape = (sizes.channels, sizes.channels, _KERNEL, _KERNEL)
    weights = np.random.default_rng(1).standard_normal(shape, np.float32) / np.sqrt(sizes.channels * _KERNEL**2)
    names = ["x", *(f"a{layer}" for layer in range(1, sizes.layers)), "y"]
    nodes = [
        onnx.helper.make_node("Conv", [name, "weights"], [following], pads=[_KERNEL // 2] * 4)
        for name, following in itertools.pairwise(names)
    ]
    tensor = [1, sizes.channels, sizes.height, sizes.width]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, tensor) for name in ("x", "y")]
    initializer = onnx.numpy_helper.from_array(weights.astype(np.float32), "weights")
    graph = onnx.helper.make_graph(nodes, "ceiling", ends[:1], ends[1:], [initializer])
    opsets = [onnx.helper.make_opsetid("", _OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    content: bytes = model.SerializeToString()
    return content


def ceiling_row(before: Ceiling, after: Ceiling) -> CeilingRow:
    """Two measurements of one ceiling."""
    both, apart = before + after, disagreement(before.spread, after.spread)
    samples = both.spread.samples_ms
    return CeilingRow(both.name, both.median, both.best, before.median, after.median, apart, samples)


def ceiling_table(rows: Sequence[CeilingRow], unavailable: Mapping[str, str]) -> Table:
    """Ceilings for people, with a note where two measurements of one disagree, and for each that is missing."""
    cells = [
        (
            "copy, read and written" if row.ceiling == COPY else f"dense convolution {row.ceiling}",
            "GB/s" if row.ceiling == COPY else "GFLOP/s",
            *(f"{rate:.1f}" for rate in (row.median, row.best, row.before_median, row.after_median)),
        )
        for row in rows
    ]
    noisy = [
        f"{row.ceiling}: before and after differ by {row.disagreement:.1%}, over {AGREEMENT:.0%}: the machine was noisy"
        for row in rows
        if row.disagreement > AGREEMENT
    ]
    missing = [f"not measured: {precision}: {reason}" for precision, reason in unavailable.items()]
    return Table(
        "Ceilings of this device in the same run",
        ("ceiling", "unit", "median", "best", "median before", "median after"),
        cells,
        (*noisy, *missing),
    )
