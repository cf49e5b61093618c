"""Runs cases in a child process that says which one it is at, so that a crash or a hang has a number too."""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from tests.hostile.bundle_checks import BundleRunner
from tests.hostile.bundle_mutations import Source
from tests.hostile.measuring import Outcome, Prepared, traced
from tests.hostile.mutations import GivenStreams, MutatedStreams, Seed
from tests.hostile.stream_checks import Allowance, StreamRunner

import glc
from glc.runtime.default_model import default_bundle

PATIENCE_S = 30.0
"""A child that is silent for so long is ended."""
_START_S = 180.0
"""Before its first case a child imports and loads much, perhaps on a machine that has other work too."""

DIED = "died or hung"
"""Result of a case that ended its process."""

_MOST_BYTES = 8 << 30
"""Address space of a child: what asks for more gets MemoryError, and the machine is spared."""


class Runner(Protocol):
    """Makes cases by their number."""

    def prepare(self, number: int) -> Prepared:
        """Make one case."""
        ...


class Job(Protocol):
    """What a child does; it is sent there pickled."""

    def open(self) -> AbstractContextManager[Runner]:
        """Prepare, in the child."""
        ...


@dataclass(frozen=True, slots=True)
class StreamJob:
    """Decodes streams with the packaged bundle."""

    cases: MutatedStreams | GivenStreams
    allowance: Allowance

    @contextmanager
    def open(self) -> Iterator[StreamRunner]:
        """Load the graphs and run each once, so that what every stream takes is there before the first is measured."""
        with glc.Codec.open(default_bundle(), engine="onnxruntime", threads=1) as codec:
            codec.warm_up()
            codec.decode(self.cases.seeds[0].data, form=self.cases.seeds[0].form)
            yield StreamRunner(codec, self.cases, self.allowance)


@dataclass(frozen=True, slots=True)
class BundleJob:
    """Opens and uses mutations of the packaged bundle."""

    seed: int
    streams: tuple[Seed, ...]

    @contextmanager
    def open(self) -> Iterator[BundleRunner]:
        """Unpack the bundle into a folder that goes when the job ends."""
        with tempfile.TemporaryDirectory() as folder:
            whole, cases = Path(folder, "whole"), Path(folder, "cases")
            cases.mkdir()
            yield BundleRunner(Source.unpack(default_bundle(), whole), self.streams, self.seed, cases)


def run_cases(job: Job, numbers: range, patience_s: float = PATIENCE_S) -> Iterator[Outcome]:
    """Run cases one after the other; a child that dies or hangs is replaced by another for the cases behind.

    Raises:
        RuntimeError: a child ended before it began its first case.
    """
    while numbers:
        begun: list[int] = []
        yield from _outcomes(job, numbers, patience_s, begun)
        numbers = numbers[len(begun) :]


def _outcomes(job: Job, numbers: range, patience_s: float, begun: list[int]) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(job, numbers, sender), daemon=True)
    child.start()
    sender.close()
    blank: Outcome | None = None
    try:
        while len(begun) < len(numbers) or blank is not None:
            patience = patience_s if begun else max(patience_s, _START_S)
            if not receiver.poll(patience):
                end = f"the process was silent for {patience:.0f} s"
                break
            try:
                message: Outcome = receiver.recv()
            except EOFError:
                child.join()
                end = f"the process died: exit code {child.exitcode}"
                break
            if blank is None:
                blank = message
                begun.append(len(begun))
            else:
                yield message
                blank = None
        else:
            return
        if blank is None:
            raise RuntimeError(f"between two cases, {end}")
        yield dataclasses.replace(blank, results=(("process", DIED),), violations=(end,))
    finally:
        child.kill()
        child.join()
        receiver.close()


def _serve(job: Job, numbers: range, sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    with job.open() as runner, traced():
        for number in numbers:
            prepared = runner.prepare(number)
            sender.send(prepared.blank)
            sender.send(prepared.run())
