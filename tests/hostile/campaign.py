"""The hostile-input measurement: python -m tests.hostile.campaign --streams 100000 --bundles 2000 --seed 0

Mutated streams go through inspect, decode and, for a share of them, decode_partial, preview and decode_latent; mutated
bundles are verified, opened, loaded and used. Each case depends on the seed and its number alone (and on the streams
that this machine's encoder makes): `--only s17` runs stream 17, `--only b3` bundle 3.

A violation, which makes the exit code 1, is
 - an exception that is not a GlcError, or one whose message is not one short printable line; warnings count as
   exceptions, as in the test run;
 - a call that takes more than 2 s, and does so again when it is repeated; a process that says nothing for 30 s;
 - memory. Each call: the peak that tracemalloc sees, which is all of Python and numpy, against the peak of decoding a
   valid stream with as many z indices as the header states, or as the payload can carry if that is less; latent,
   symbols and image are all in proportion to them. The engine's own memory: how far the peak of the whole process
   rises above its start, against half as much again as that of a process which only decodes one valid stream of the
   largest size that any mutated stream made an image of. A call on a bundle: what the whole bundle takes, and 192 MiB;
 - an image, from decode without allow_partial, of a stream whose checksum does not match; an image of another size than
   the header's; an answer of inspect that is not the header's;
 - a bundle that is used although a file in it is not what the manifest's hash says;
 - a crash of the process.

A forged ONNX graph with a matching hash is a program that the engine runs. There, exceptions still count, but a crash,
the time and the memory are the engine's own: they are told, and are no violation.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from tests.hostile.container import CELL
from tests.hostile.measuring import LONGEST_MS, Outcome
from tests.hostile.mutations import GivenStreams, MutatedStreams, Seed, make_seeds
from tests.hostile.stream_checks import Allowance
from tests.hostile.workers import DIED, BundleJob, StreamJob, run_cases

import glc
from glc.runtime.default_model import default_bundle

VARIETY = 1.5
VARIETY_BYTES = 32 << 20
"""The engine takes memory in powers of two and keeps buffers of sizes that it has seen: many take more than one."""

_NONE = Outcome("none", "none")


@dataclass(slots=True)
class Tally:
    """Sums over the cases of one kind."""

    cases: int = 0
    seconds: float = 0
    results: dict[str, Counter[str]] = field(default_factory=dict)
    """Call -> exception or "returned" -> number."""
    slowest: Outcome = _NONE
    largest: Outcome = _NONE
    process_bytes: int = 0
    reference_bytes: int = 0
    """What a process that decodes one valid stream of the size `shown` grows by."""
    shown: tuple[int, int] = (0, 0)
    """Height and width of the image with the most z indices."""
    violations: list[tuple[Outcome, str]] = field(default_factory=list)
    beyond: list[tuple[Outcome, str]] = field(default_factory=list)
    """What is the engine's own."""

    def add(self, outcome: Outcome) -> None:
        """Count one case."""
        self.cases += 1
        for call, result in outcome.results:
            self.results.setdefault(call, Counter())[result] += 1
        if not outcome.beyond:
            self.slowest = max(self.slowest, outcome, key=lambda one: one.slowest_ms)
            self.largest = max(self.largest, outcome, key=lambda one: one.peak_bytes)
        elif outcome.slowest_ms > LONGEST_MS:
            self.beyond.append((outcome, f"a call took {outcome.slowest_ms:.0f} ms"))
        self.process_bytes = max(self.process_bytes, outcome.process_bytes)
        self.shown = max(self.shown, outcome.shown, key=cells)
        died = any(result == DIED for _, result in outcome.results)
        where = self.beyond if outcome.beyond and died else self.violations
        where.extend((outcome, text) for text in outcome.violations)

    def add_all(self, outcomes: Iterable[Outcome], total: int) -> None:
        """Count cases, and say now and then how many there were."""
        start = time.monotonic()
        told = start
        for outcome in outcomes:
            self.add(outcome)
            if time.monotonic() - told > 60:
                told = time.monotonic()
                print(f"{self.cases} of {total}, {told - start:.0f} s", file=sys.stderr)
        self.seconds += time.monotonic() - start


def run_campaign(seed: int, streams: range, bundles: range) -> Iterator[tuple[str, Tally]]:
    """Run cases by their numbers; what each kind is called and its tally, as soon as it is there."""
    with glc.Codec.open(default_bundle(), engine="onnxruntime", threads=1) as codec:
        seeds = make_seeds(codec)
        allowance = Allowance.measure(codec)
        of_streams, of_bundles = Tally(), Tally()
        job = StreamJob(MutatedStreams(seed, seeds), allowance)
        of_streams.add_all(run_cases(job, streams), len(streams))
        if cells(of_streams.shown):
            _require_process_memory(of_streams, codec, seeds[0], allowance)
    yield "streams", of_streams
    of_bundles.add_all(run_cases(BundleJob(seed, seeds), bundles), len(bundles))
    yield "bundles", of_bundles


def cells(size: tuple[int, int]) -> int:
    """Z indices of an image of this height and width."""
    return -(-size[0] // CELL) * -(-size[1] // CELL)


def summary(tally: Tally, what: str) -> list[str]:
    """Figures of one kind of cases."""
    calls = sum(sum(counts.values()) for counts in tally.results.values())
    lines = [f"{what}: {tally.cases} cases, {calls} calls, {tally.seconds:.0f} s"]
    for call, counts in tally.results.items():
        lines.append(f"  {call:14} " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    lines += [
        f"  slowest call   {tally.slowest.slowest_ms:.0f} ms ({_name(tally.slowest)})",
        f"  most memory    {tally.largest.peak_bytes / 1e6:.2f} MB of Python and numpy in one call "
        f"({_name(tally.largest)}); the process grew by {tally.process_bytes / 1e6:.0f} MB",
    ]
    if cells(tally.shown):
        lines.append(
            f"  largest image  {tally.shown[1]}x{tally.shown[0]}; a process that decodes one valid stream of its size "
            f"grows by {tally.reference_bytes / 1e6:.0f} MB"
        )
    lines += [f"  engine's own   {_name(outcome)}: {text}" for outcome, text in tally.beyond]
    lines.append(f"  violations     {len(tally.violations)}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.campaign", description="See the module's text.")
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--bundles", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="N", help="one case: s and the number of a stream, b and that of a bundle")
    options = parser.parse_args(arguments)
    streams, bundles = range(options.streams), range(options.bundles)
    if options.only is not None:
        if options.only[:1] not in ("s", "b") or not options.only[1:].isdecimal():
            parser.error(f"--only takes s17 or b3; got {options.only!r}")
        number = int(options.only[1:])
        one, none = range(number, number + 1), range(0)
        streams, bundles = (one, none) if options.only[0] == "s" else (none, one)
    found = 0
    for what, tally in run_campaign(options.seed, streams, bundles):
        if tally.cases:
            print(*summary(tally, f"seed {options.seed}, {what}"), sep="\n")
        for outcome, text in tally.violations:
            print(f"VIOLATION seed {options.seed} {_name(outcome)}: {text}")
        sys.stdout.flush()  # the next kind takes long, and may be ended before it is done
        found += len(tally.violations)
    return 1 if found else 0


def _require_process_memory(tally: Tally, codec: glc.Codec, smallest: Seed, allowance: Allowance) -> None:
    """Compare the memory of the process with that of one which decodes a valid stream of the largest size shown."""
    height, width = tally.shown
    pixels = np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)
    valid = Seed(codec.encode(pixels, codec.qualities - 1), "file")
    job = StreamJob(GivenStreams((smallest, valid)), allowance)
    tally.reference_bytes = max(outcome.process_bytes for outcome in run_cases(job, range(1, 2)))
    if tally.process_bytes > VARIETY * tally.reference_bytes + VARIETY_BYTES:
        text = f"the process grew by {tally.process_bytes} bytes; a valid stream takes {tally.reference_bytes}"
        tally.violations.append((dataclasses.replace(_NONE, label="all streams"), text))


def _name(outcome: Outcome) -> str:
    return f"{outcome.label}, {outcome.kind}"


if __name__ == "__main__":
    sys.exit(main())
