"""What the runtime may do with a bundle that nobody vouches for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.hostile.bundle_mutations import BundleCase, Source, mutated_bundle, remove
from tests.hostile.container import stated
from tests.hostile.measuring import Measured, Outcome, finished, measured, process_peak_bytes
from tests.hostile.mutations import Seed

import glc

MORE_BYTES = 192 << 20
"""Memory of Python and numpy that one call may take with a mutated bundle beyond what it takes with the whole one:
three times the limit on unpacked tables, the largest size that docs/bundle.md states."""

_IMAGE = np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8)


class BundleRunner:
    """Makes cases out of one bundle, one at a time on disk."""

    def __init__(self, source: Source, streams: tuple[Seed, ...], seed: int, folder: Path) -> None:
        bare = [stream for stream in streams if stream.form == "bare"]  # names no model, so that it is always decoded
        self.streams = (bare[0], bare[-1], streams[0])
        self.folder = folder
        self._source = source
        self._seed = seed
        self.start_bytes = process_peak_bytes()
        self.allowed = MORE_BYTES
        whole = PreparedBundle(self, BundleCase("whole", source.folder), Outcome("whole", "whole"))
        found = whole.run()
        if found.violations or any(result != "returned" for _, result in found.results):
            raise RuntimeError(f"the bundle is not usable as it is: {found}")
        self.allowed += found.peak_bytes

    def prepare(self, number: int) -> PreparedBundle:
        """Write one case."""
        remove(self.folder / "case.glcb")
        case = mutated_bundle(self._source, self._seed, number, self.folder / "case.glcb")
        return PreparedBundle(self, case, Outcome(f"b{number}", case.kind, beyond=case.beyond))


@dataclass(frozen=True, slots=True)
class PreparedBundle:
    """One case."""

    runner: BundleRunner
    case: BundleCase
    blank: Outcome

    def run(self) -> Outcome:
        """Open the bundle, check it, load it and use it, as far as it lets."""
        path = self.case.path
        answers: list[Measured[Any]] = []
        violations: list[str] = []

        def ask(name: str, call: Callable[[], Any]) -> Any:
            answers.append(measured(name, call))
            return answers[-1].value

        ask("verify", lambda: glc.Bundle.open(path).verify())
        codec = ask("open", lambda: glc.Codec.open(path, engine="onnxruntime", threads=1))
        if codec is not None:
            with codec:
                violations += self._use(codec, ask)
        trusted = {one.name for one in answers if one.error is None}
        if (self.case.altered and "verify" in trusted) or (self.case.unusable and "warm_up" in trusted):
            violations.append("nothing was found wrong with a bundle that was altered")
        for answer in answers:
            violations += answer.complaints()
            if not self.case.beyond:
                violations += answer.hangs()
                if answer.peak_bytes > self.runner.allowed:
                    violations.append(
                        f"{answer.name} took {answer.peak_bytes} bytes; {self.runner.allowed} are allowed"
                    )
        return finished(self.blank, answers, violations, (0, 0), self.runner.start_bytes)

    def _use(self, codec: glc.Codec, ask: Callable[[str, Callable[[], Any]], Any]) -> list[str]:
        violations = []
        ask("warm_up", codec.warm_up)
        ask("encode", lambda: codec.encode(_IMAGE, 0))
        ask("encode", lambda: codec.encode(_IMAGE, 0, encoder=codec.encoders[-1]))
        calls: tuple[tuple[str, Callable[..., Any]], ...] = (
            ("decode", codec.decode),
            ("preview", codec.preview),
            ("decode", functools.partial(codec.decode, decoder=codec.decoders[-1])),
        )
        for stream, (name, call) in zip(self.runner.streams, calls, strict=True):
            told = stated(stream.data, stream.form)
            assert told is not None
            image = ask(name, functools.partial(call, stream.data, form=stream.form))
            if image is not None and (image.dtype, image.shape) != (np.uint8, (told.height, told.width, 3)):
                violations.append(f"{name} returned {image.dtype} {image.shape}")
        return violations
