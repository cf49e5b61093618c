"""Latency of every engine beside the same model in PyTorch, in one run, as in Tables 5 and 6 of the paper."""

from __future__ import annotations

import contextlib
import enum
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from glc.bench.contenders import (
    Contender,
    Missing,
    Task,
    Turn,
    engine_contenders,
    estimated_bpp,
    peer_contenders,
    photograph,
    torch_contenders,
)
from glc.bench.drawn import symbol_bits
from glc.bench.first_image import FirstImage
from glc.bench.paper import SOURCE, TABLE_5, TABLE_6, PaperRow
from glc.bench.timing import Spread, take_turns
from glc.bench.torch_engine import MODES
from glc.errors import EngineError
from glc.export import GlcModel
from glc.runtime.bundle import Bundle
from glc.runtime.transforms import OWN

_ENTROPY = "entropy_coding"
AGAIN = ", again"
"""Ends the name of a row that is another measurement of the row before."""


class Config(enum.StrEnum):
    """What is measured."""

    NATURAL = "natural"
    FACIAL = "facial"
    DEMO = "demo"


@dataclass(frozen=True, slots=True)
class Setting:
    """Size and rate of one table."""

    height: int
    width: int
    bpp: float | None
    """Rate at which symbols are drawn; None codes a photograph as it is."""
    paper: tuple[PaperRow, ...]
    """What the paper prints for it."""


SETTINGS = {
    Config.NATURAL: Setting(512, 768, 0.03, TABLE_6),
    Config.FACIAL: Setting(512, 512, 0.008, TABLE_5),
    Config.DEMO: Setting(512, 768, None, ()),
}


@dataclass(frozen=True, slots=True)
class Parts:
    """Medians over the repetitions, in milliseconds."""

    networks_ms: float
    entropy_coding_ms: float
    rest_ms: float
    """Copies and Python."""

    @property
    def sum_ms(self) -> float:
        """Of all parts."""
        return self.networks_ms + self.entropy_coding_ms + self.rest_ms


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """One row of the table."""

    config: str
    row: str
    kind: str
    """measured, unavailable or quoted."""
    parameters: int | None = None
    encode_ms: float | None = None
    decode_ms: float | None = None
    encode_samples_ms: tuple[float, ...] = ()
    decode_samples_ms: tuple[float, ...] = ()
    encode_parts: Parts | None = None
    decode_parts: Parts | None = None
    estimate_bpp: float | None = None
    file_bpp: float | None = None
    first_image: FirstImage | None = None
    remark: str = ""


def measure_table(
    config: Config,
    model: GlcModel,
    bundle: Path,
    *,
    threads: int,
    repetitions: int,
    setting: Setting | None = None,
    modes: Sequence[str] = MODES,
    peers: Sequence[str] = (),
    peer_python: str | None = None,
    encoder: str = OWN,
    decoder: str = OWN,
    on_step: Callable[[str], None] = lambda _: None,
) -> list[LatencyRow]:
    """Time every engine and precision beside the same model in PyTorch, row by row in turn.

    A row that fails in its first turn, which does not count, is unavailable; one that fails later ends the run.

    Args:
        config: names the rows.
        model: the weights that the bundle was exported from.
        bundle: in exact arithmetic.
        threads: of every row.
        repetitions: that count.
        setting: size and rate, those of the paper by default.
        modes: of PyTorch.
        peers: packages of other codecs.
        peer_python: interpreter that has them; this one by default.
        encoder: of the bundle, on engines; PyTorch has the model's own.
        decoder: likewise.
        on_step: called with what comes next.

    Raises:
        GlcError: the bundle cannot be used, or has other weights.
    """
    setting = setting or SETTINGS[config]
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        checkpoint = f"{folder}/model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, checkpoint)
        opened = Bundle.open(bundle)
        bits = None if setting.bpp is None else symbol_bits(opened, setting.height, setting.width, setting.bpp)
        image = photograph(setting.height, setting.width)
        on_step("estimate the rate")
        estimate = estimated_bpp(model, opened, image, bits)
        task = Task(model, bundle, checkpoint, image, bits, threads, estimate, encoder, decoder)
        on_step("load engines")
        engines = [*engine_contenders(task)]
        on_step("load PyTorch")
        others: list[Contender | Missing] = [*torch_contenders(task, modes)]
        on_step("load other codecs")
        for peer in peer_contenders(task, peers, peer_python, Path(folder)):
            if isinstance(peer, tuple):
                others.append(peer[0])
                processes.callback(peer[1].close)
            else:
                others.append(peer)
        found = [*_warmed_up(engines, on_step)]
        last = next((one for one in reversed(found) if isinstance(one, Contender)), None)
        if last is not None:
            found.append(replace(last, name=f"{last.name}{AGAIN}"))
        found += _warmed_up(others, on_step)
        contenders = [one for one in found if isinstance(one, Contender)]
        missing = [
            LatencyRow(config.value, one.name, "unavailable", remark=one.reason)
            for one in found
            if isinstance(one, Missing)
        ]

        def timed(contender: Contender) -> Callable[[], Turn]:
            def call() -> Turn:
                on_step(f"time {contender.name}")
                return contender.turn()

            return call

        turns = take_turns({one.name: timed(one) for one in contenders}, repetitions, dropped=0)
        rows = []
        for one in contenders:
            row = _row(config, one, turns[one.name], setting)
            if not one.name.endswith(AGAIN):
                on_step(f"first image of {one.name}")
                row = replace(row, first_image=one.first_image())
            rows.append(row)
    paper = [
        LatencyRow(config.value, one.model, "quoted", one.parameters, one.encode_ms, one.decode_ms, remark=SOURCE)
        for one in setting.paper
    ]
    return rows + missing + paper


def _warmed_up(found: Iterable[Contender | Missing], on_step: Callable[[str], None]) -> Iterator[Contender | Missing]:
    """Let each take a turn that does not count; whoever cannot is missing from there on."""
    for one in found:
        if isinstance(one, Missing):
            yield one
            continue
        on_step(f"warm up {one.name}")
        try:
            one.turn()
        except EngineError as error:
            yield Missing(one.name, str(error))
        else:
            yield one


def _row(config: Config, contender: Contender, turns: Sequence[Turn], setting: Setting) -> LatencyRow:
    encode, decode = (Spread(tuple(getattr(turn, f"{way}_ms") for turn in turns)) for way in ("encode", "decode"))
    return LatencyRow(
        config.value,
        contender.name,
        "measured",
        parameters=contender.parameters,
        encode_ms=encode.median_ms,
        decode_ms=decode.median_ms,
        encode_samples_ms=encode.samples_ms,
        decode_samples_ms=decode.samples_ms,
        encode_parts=_parts([(turn.encode_ms, turn.encode_stages) for turn in turns]),
        decode_parts=_parts([(turn.decode_ms, turn.decode_stages) for turn in turns]),
        estimate_bpp=contender.estimate_bpp,
        file_bpp=8 * turns[0].file_bytes / (setting.height * setting.width),
        remark=contender.remark,
    )


def _parts(turns: Sequence[tuple[float, Mapping[str, float]]]) -> Parts | None:
    if not all(stages for _, stages in turns):
        return None
    entropy = [stages.get(_ENTROPY, 0.0) for _, stages in turns]
    networks = [sum(stages.values()) - spent for (_, stages), spent in zip(turns, entropy, strict=True)]
    rest = [total - sum(stages.values()) for total, stages in turns]
    return Parts(median(networks), median(entropy), median(rest))
