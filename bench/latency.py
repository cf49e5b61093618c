"""Latency of every engine beside the same model in PyTorch, in one run, as in Tables 5 and 6 of the paper."""

from __future__ import annotations

import contextlib
import enum
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from glc.bench.drawn import DrawnLoader, symbol_bits
from glc.bench.first_image import FirstImage, FirstImageSpec, measure_first_image
from glc.bench.rate import ideal_bits
from glc.bench.timing import Spread, take_turns
from glc.bench.torch_engine import MODES, open_published, published
from glc.engines import EngineLoader, engine_loader
from glc.errors import EngineUnavailable
from glc.export import GlcModel, reference
from glc.runtime.bitstream import inspect
from glc.runtime.bundle import Bundle
from glc.runtime.codec import DEFAULT_MAX_PIXELS, Codec
from glc.runtime.default_model import packaged_photos
from glc.runtime.images import read_image

_QUALITY = 1
_ENTROPY = "entropy_coding"
_ENGINES = (("onnxruntime", "f32"), ("openvino", "f32"), ("openvino", "bf16"), ("openvino", "f16"))
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
    paper: tuple[tuple[str, float, float, float], ...]
    """Rows that the paper prints: model, encode ms, decode ms, millions of parameters."""


SETTINGS = {
    Config.NATURAL: Setting(
        512,
        768,
        0.03,
        (("Text+Sketch", 2.0e4, 1.9e4, 409), ("MS-ILLM", 41.8, 53.5, 181), ("GLC", 37.1, 58.6, 105)),
    ),
    Config.FACIAL: Setting(512, 512, 0.008, (("MS-ILLM", 31.4, 39.7, 181), ("GLC", 19.2, 26.6, 92))),
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
    parameters: float | None = None
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


@dataclass(slots=True)
class _Run:
    """One encode and one decode."""

    encode_ms: float = 0.0
    decode_ms: float = 0.0
    encode_stages: dict[str, float] = field(default_factory=dict)
    decode_stages: dict[str, float] = field(default_factory=dict)
    data: bytes = b""


class _Subject:
    """A codec that is timed."""

    def __init__(self, bundle: Bundle, loader: EngineLoader, bits_per_symbol: float | None) -> None:
        self._stages: dict[str, float] = {}
        drawn = None
        if bits_per_symbol is not None:
            loader = drawn = DrawnLoader(loader, bundle.tables().scales, bits_per_symbol)
        self.codec = Codec(bundle, loader, on_stage=self._note)
        self.codec.warm_up()
        if drawn is not None:
            drawn.drawing = True  # not before: conformance is of the networks' own results
        self.drawn = drawn

    def run(self, image: NDArray[np.uint8]) -> _Run:
        """Encode and decode."""
        run = _Run()
        self._stages = run.encode_stages
        start = perf_counter()
        run.data = self.codec.encode(image, _QUALITY)
        run.encode_ms = 1e3 * (perf_counter() - start)
        self._stages = run.decode_stages
        start = perf_counter()
        self.codec.decode(run.data)
        run.decode_ms = 1e3 * (perf_counter() - start)
        return run

    def _note(self, stage: str, ms: float) -> None:
        self._stages[stage] = self._stages.get(stage, 0.0) + ms


def measure_table(
    config: Config,
    model: GlcModel,
    bundle_path: Path,
    *,
    threads: int,
    repetitions: int,
    setting: Setting | None = None,
    modes: Sequence[str] = MODES,
    on_step: Callable[[str], None] = lambda _: None,
) -> list[LatencyRow]:
    """Time every engine and precision beside the same model in PyTorch, row by row in turn.

    Args:
        config: names the rows.
        model: the weights that the bundle was exported from.
        bundle_path: in exact arithmetic.
        threads: of every row.
        repetitions: that count.
        setting: size and rate, those of the paper by default.
        modes: of PyTorch.
        on_step: called with what comes next.

    Raises:
        GlcError: the bundle cannot be used, or has other weights.
    """
    setting = setting or SETTINGS[config]
    torch.set_num_threads(threads)
    image = photograph(setting.height, setting.width)
    bundle, torch_bundle = Bundle.open(bundle_path), open_published(bundle_path)
    bits = None if setting.bpp is None else symbol_bits(bundle, setting.height, setting.width, setting.bpp)
    missing: list[LatencyRow] = []
    subjects: dict[str, _Subject] = {}
    specs: dict[str, tuple[str, str | None]] = {}
    for engine, precision in _ENGINES:
        name = f"{engine} {precision}"
        on_step(f"load {name}")
        try:
            subjects[name] = _Subject(bundle, engine_loader(engine, threads, precision), bits)
            specs[name] = engine, precision
        except EngineUnavailable as error:
            missing.append(LatencyRow(config.value, name, "unavailable", remark=str(error)))
    again = f"{list(subjects)[-1]}{AGAIN}"
    subjects[again] = subjects[again.removesuffix(AGAIN)]
    for mode in modes:
        on_step(f"load PyTorch {mode}")
        subjects[f"PyTorch {mode}"] = _Subject(torch_bundle, published(model, torch_bundle, mode), bits)
        specs[f"PyTorch {mode}"] = mode, None

    def timed(name: str) -> Callable[[], _Run]:
        def call() -> _Run:
            on_step(f"time {name}")
            return subjects[name].run(image)

        return call

    runs = take_turns({name: timed(name) for name in subjects}, repetitions)
    estimate = _estimate(model, bundle, image, subjects[again], bits)
    rows: list[LatencyRow] = []
    with _checkpoint(model) as checkpoint:
        for name, results in runs.items():
            row = _row(config, name, results, model, estimate)
            if name in specs:
                on_step(f"first image of {name}")
                engine_or_mode, wanted = specs[name]
                spec = FirstImageSpec(
                    str(bundle_path),
                    None if wanted else checkpoint,
                    engine_or_mode,
                    wanted,
                    threads,
                    setting.height,
                    setting.width,
                )
                row = replace(row, first_image=measure_first_image(spec))
            rows.append(row)
    quoted = "paper, A100, PyTorch"
    paper = [
        LatencyRow(config.value, model_name, "quoted", 1e6 * millions, encode, decode, remark=quoted)
        for model_name, encode, decode, millions in setting.paper
    ]
    return rows + missing + paper


def photograph(height: int, width: int) -> NDArray[np.uint8]:
    """A photograph of the package, mirrored at its edges up to a size."""
    pixels = read_image(packaged_photos()[0], DEFAULT_MAX_PIXELS).pixels
    missing = tuple((0, max(size - have, 0)) for size, have in zip((height, width), pixels.shape[:2], strict=True))
    return np.ascontiguousarray(np.pad(pixels, (*missing, (0, 0)), mode="symmetric")[:height, :width])


def _estimate(
    model: GlcModel, bundle: Bundle, image: NDArray[np.uint8], subject: _Subject, bits: float | None
) -> float:
    """Bits per pixel: of drawn symbols their ideal cost, of a photograph the published estimate."""
    pixels = image.shape[0] * image.shape[1]
    if subject.drawn is None or bits is None:
        expected = reference(model, image, _QUALITY)
        return float((expected.bit_y + expected.bit_z) / pixels)
    config = bundle.manifest.config
    shape = tuple(-(-size // (2 * config.downsampling)) for size in image.shape[:2])
    indices, symbols = subject.drawn.part((config.latent_channels, *shape))
    z_bits = shape[0] * shape[1] / 4 * np.log2(config.codebook_entries)
    return float((4 * ideal_bits(symbols.astype(np.int16), indices, bundle.tables().scales) + z_bits) / pixels)


@contextlib.contextmanager
def _checkpoint(model: GlcModel) -> Iterator[str]:
    """The weights in a file, for processes that load them as users do."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
        yield path


def _row(config: Config, name: str, runs: Sequence[_Run], model: GlcModel, estimate: float) -> LatencyRow:
    encode, decode = (Spread(tuple(getattr(run, f"{way}_ms") for run in runs)) for way in ("encode", "decode"))
    return LatencyRow(
        config.value,
        name,
        "measured",
        parameters=sum(tensor.numel() for tensor in model.parameters()),
        encode_ms=encode.median_ms,
        decode_ms=decode.median_ms,
        encode_samples_ms=encode.samples_ms,
        decode_samples_ms=decode.samples_ms,
        encode_parts=_parts([(run.encode_ms, run.encode_stages) for run in runs]),
        decode_parts=_parts([(run.decode_ms, run.decode_stages) for run in runs]),
        estimate_bpp=estimate,
        file_bpp=inspect(runs[0].data).bpp,
    )


def _parts(runs: Sequence[tuple[float, Mapping[str, float]]]) -> Parts:
    entropy = [stages.get(_ENTROPY, 0.0) for _, stages in runs]
    networks = [sum(stages.values()) - spent for (_, stages), spent in zip(runs, entropy, strict=True)]
    rest = [total - sum(stages.values()) for total, stages in runs]
    return Parts(median(networks), median(entropy), median(rest))
