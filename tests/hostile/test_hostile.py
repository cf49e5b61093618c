"""A small hostile-input campaign, and proof that the campaign would notice: every kind of violation is planted once."""

from __future__ import annotations

import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.hostile import campaign
from tests.hostile.bundle_checks import BundleRunner, PreparedBundle
from tests.hostile.bundle_mutations import MUTATIONS as BUNDLE_MUTATIONS
from tests.hostile.bundle_mutations import BundleCase, Source, mutated_bundle, remove
from tests.hostile.container import stated
from tests.hostile.measuring import Outcome, measured, traced
from tests.hostile.mutations import MUTATIONS, GivenStreams, MutatedStreams, Seed, make_seeds, with_checksum
from tests.hostile.stream_checks import Allowance, StreamRunner
from tests.hostile.workers import DIED, run_cases

import glc
from glc.errors import CorruptBitstream
from glc.runtime.bitstream import Arithmetic, Header, write_stream
from glc.runtime.codec import Image
from glc.runtime.default_model import default_bundle

ALLOWANCE = Allowance(((1, 20_000),))
IMAGE = np.zeros((40, 70, 3), np.uint8)
STREAM = write_stream(Header(21, 70, 40), bytes(20), Arithmetic.EXACT, b"abcd", "file")
DAMAGED = STREAM[:-1] + b"\1"


@pytest.fixture(scope="module")
def demo() -> Iterator[glc.Codec]:
    with glc.Codec.open(default_bundle(), engine="onnxruntime", threads=1) as codec:
        yield codec


@pytest.fixture(scope="module")
def seeds(demo: glc.Codec) -> tuple[Seed, ...]:
    return make_seeds(demo)


@pytest.mark.slow
def test_a_small_campaign_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code = campaign.main(["--streams", "1200", "--bundles", "40", "--seed", "1"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert printed.count("violations     0") == 2
    assert "seed 1, streams: 1200 cases" in printed
    assert "seed 1, bundles: 40 cases" in printed


# The cases


def test_cases_are_the_same_each_time_and_differ_from_each_other(seeds: tuple[Seed, ...]) -> None:
    cases = [MutatedStreams(0, seeds)(number) for number in range(300)]
    assert cases == [MutatedStreams(0, seeds)(number) for number in range(300)]
    assert cases != [MutatedStreams(1, seeds)(number) for number in range(300)]
    assert len({case.data for case in cases}) > 250
    assert {name for case in cases for name in case.kind.split("+")} == {*MUTATIONS, "bare", "checksum"}


def test_mutated_bundles_are_the_same_each_time_and_of_every_kind(tmp_path: Path) -> None:
    source = Source.unpack(default_bundle(), tmp_path / "whole")
    kinds = set()
    for number in range(80):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            first = mutated_bundle(source, 0, number, tmp_path / "case")
        kinds.add(first.kind.split("+")[0].split(":")[0])
        if number < 16:
            content = _content(tmp_path / "case")
            remove(tmp_path / "case")
            assert mutated_bundle(source, 0, number, tmp_path / "case") == first
            assert _content(tmp_path / "case") == content
        remove(tmp_path / "case")
    assert kinds == {mutation.__name__ for mutation in BUNDLE_MUTATIONS}


def _content(bundle: Path) -> dict[str, bytes]:
    files = [path for path in (bundle, *bundle.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {str(path): path.read_bytes() for path in files}


def test_the_judge_reads_headers_like_the_library(seeds: tuple[Seed, ...]) -> None:
    for seed in seeds:
        told, info = stated(seed.data, seed.form), glc.inspect(seed.data, seed.form)
        assert told is not None
        assert (told.width, told.height) == (info.header.width, info.header.height)
        assert told.intact
        assert (told.cells, told.payload_at) == (-(-told.width // 32) * -(-told.height // 32), info.header_bytes)
    told = stated(DAMAGED, "file")
    assert told is not None
    assert not told.intact
    assert glc.inspect(with_checksum(DAMAGED)).intact


# Planted violations: streams


class _Planted:
    """A codec that answers every stream with an image of its size, and does one thing on the way."""

    def __init__(self, on_the_way: Callable[[], object] = lambda: None, image: Image = IMAGE) -> None:
        self._on_the_way = on_the_way
        self._image = image

    def decode(self, data: bytes, *, form: Any = "file", allow_partial: bool = False) -> Image:
        self._on_the_way()
        return self._image

    def decode_partial(self, data: bytes, *, form: Any = "file") -> glc.PartialImage:
        return glc.PartialImage(self._image, 0.5)

    def decode_latent(self, data: bytes, *, form: Any = "file") -> NDArray[np.float32]:
        return np.zeros((4, 8, 12), np.float32)

    def preview(self, data: bytes, *, form: Any = "file") -> Image:
        return self._image


def _violations(codec: _Planted, data: bytes = STREAM) -> list[str]:
    runner = StreamRunner(codec, GivenStreams((Seed(data, "file"),)), ALLOWANCE)
    with traced():
        return list(runner.prepare(0).run().violations)


def _raises(error: BaseException) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


def _warns() -> None:
    warnings.warn("overflow", RuntimeWarning, stacklevel=1)


def test_a_codec_that_does_nothing_wrong_is_not_reported() -> None:
    assert _violations(_Planted()) == []
    assert _violations(_Planted(_raises(CorruptBitstream("damaged")))) == []


@pytest.mark.parametrize(
    ("on_the_way", "reported"),
    [
        pytest.param(_raises(ValueError("broadcast")), "decode raised ValueError: 'broadcast'", id="ValueError"),
        pytest.param(_raises(MemoryError()), "decode raised MemoryError", id="MemoryError"),
        pytest.param(_raises(SystemExit(1)), "decode raised SystemExit", id="not even an Exception"),
        pytest.param(_warns, "decode raised RuntimeWarning", id="warning"),
        pytest.param(_raises(CorruptBitstream("a\nb")), "not one printable line", id="two lines"),
        pytest.param(_raises(CorruptBitstream("a" * 2000)), "has 2000 characters", id="long message"),
        pytest.param(lambda: np.ones(1 << 20, np.uint8), "decode took 10", id="memory"),
    ],
)
def test_what_a_call_must_not_do_is_reported(on_the_way: Callable[[], object], reported: str) -> None:
    (found,) = _violations(_Planted(on_the_way))
    assert reported in found


def test_a_slow_call_is_reported_if_it_is_slow_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.hostile.measuring.LONGEST_MS", 20.0)
    assert _violations(_Planted(lambda: time.sleep(0.05)))[0].endswith("ms, twice")
    waits = iter([0.05, 0.0])
    with traced():
        assert not measured("decode", lambda: time.sleep(next(waits))).hangs()


def test_an_image_of_a_damaged_stream_is_reported() -> None:
    assert _violations(_Planted(), DAMAGED) == ["decode returned an image although the checksum does not match"]


def test_an_image_of_another_size_is_reported() -> None:
    found = _violations(_Planted(image=IMAGE[:, :-1]))
    assert [text.split()[0] for text in found] == ["decode", "decode_partial", "preview"]
    assert all("the header says 70x40" in text for text in found)


def test_an_image_of_what_has_no_header_is_reported() -> None:
    found = _violations(_Planted(), b"\x9e\x47nonsense")
    assert found[0] == "decode took for a stream what has no header of one"


# Planted violations: bundles


def test_a_bundle_that_is_used_although_it_was_altered_is_reported(seeds: tuple[Seed, ...], tmp_path: Path) -> None:
    source = Source.unpack(default_bundle(), tmp_path / "whole")
    with traced():
        runner = BundleRunner(source, seeds, 0, tmp_path)
        case = BundleCase("altered", source.folder, altered=True, unusable=True)
        found = PreparedBundle(runner, case, Outcome("b0", "altered")).run()
        assert found.violations == ("nothing was found wrong with a bundle that was altered",)
        assert all(result == "returned" for _, result in found.results)
        shutil.rmtree(source.folder / "graphs")
        found = PreparedBundle(runner, case, Outcome("b0", "altered")).run()
        assert found.violations == ()


# Planted violations: processes


@dataclass(frozen=True, slots=True)
class _FatalCase:
    blank: Outcome
    number: int

    def run(self) -> Outcome:
        if self.number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.number == 4:
            time.sleep(60)
        return replace(self.blank, results=(("decode", "returned"),))


class _FatalRunner:
    def prepare(self, number: int) -> _FatalCase:
        return _FatalCase(Outcome(f"s{number}", "fatal", beyond=number == 4), number)


@dataclass(frozen=True, slots=True)
class _FatalJob:
    """Dies at case 2, hangs at case 4."""

    @contextmanager
    def open(self) -> Iterator[_FatalRunner]:
        yield _FatalRunner()


@pytest.mark.slow
def test_a_crash_and_a_hang_have_a_number_and_end_nothing_else() -> None:
    outcomes = list(run_cases(_FatalJob(), range(1, 6), patience_s=4))
    assert [outcome.label for outcome in outcomes] == ["s1", "s2", "s3", "s4", "s5"]
    assert [outcome.violations for outcome in outcomes if outcome.violations] == [
        ("the process died: exit code -9",),
        ("the process was silent for 4 s",),
    ]
    tally = campaign.Tally()
    tally.add_all(outcomes, 5)
    assert tally.results == {"decode": {"returned": 3}, "process": {DIED: 2}}
    # A forged graph's crash is told, and is the engine's own.
    assert [outcome.label for outcome, _ in tally.violations] == ["s2"]
    assert [outcome.label for outcome, _ in tally.beyond] == ["s4"]


def test_a_violation_is_printed_with_seed_and_number_and_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def planted(seed: int, streams: range, bundles: range) -> Iterator[tuple[str, campaign.Tally]]:
        asked.append((seed, list(streams), list(bundles)))
        tally = campaign.Tally()
        tally.add(Outcome("s17", "flip_bits", (("decode", "ValueError"),), violations=("decode raised ValueError",)))
        yield "streams", tally
        yield "bundles", campaign.Tally()

    monkeypatch.setattr(campaign, "run_campaign", planted)
    assert campaign.main(["--seed", "3", "--only", "s17"]) == 1
    assert campaign.main(["--seed", "3", "--only", "b5"]) == 1
    assert asked == [(3, [17], []), (3, [], [5])]
    assert "VIOLATION seed 3 s17, flip_bits: decode raised ValueError" in capsys.readouterr().out
