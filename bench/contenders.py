"""Who takes part in a latency table: this runtime on each engine, the model in PyTorch, other codecs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from glc.bench.drawn import draw_part, drawn_codec, level_probabilities
from glc.bench.first_image import FirstImage, FirstImageSpec, measure_first_image
from glc.bench.peers import PEERS, PeerProcess
from glc.bench.rate import ideal_bits
from glc.bench.torch_engine import open_published, published
from glc.engines import CPU_ENGINES, EngineLoader, StageListener, engine_loader
from glc.errors import EngineUnavailable, TargetMissing
from glc.export import GlcModel, reference
from glc.runtime.bundle import Bundle
from glc.runtime.codec import DEFAULT_MAX_PIXELS, Codec
from glc.runtime.default_model import packaged_photos
from glc.runtime.images import read_image
from glc.runtime.spatial_walk import PARTS
from glc.runtime.transforms import OWN

_QUALITY = 1
_ENGINES = (
    *(("onnxruntime", "f32"), ("openvino", "f32"), ("openvino", "bf16"), ("openvino", "f16")),
    *(("onnxruntime-avx2", "f32"), ("openvino-avx2", "f32"), ("openvino-amx", "bf16"), ("openvino-amx", "f16")),
    *(("tensorrt", "f16"), ("tensorrt_rtx", "f16"), ("onnxruntime-cuda", "f32"), ("onnxruntime-tensorrt", "f16")),
)


@dataclass(slots=True)
class Turn:
    """One encode and one decode."""

    encode_ms: float = 0.0
    decode_ms: float = 0.0
    encode_stages: dict[str, float] = field(default_factory=dict)
    """Stage -> milliseconds; empty where the codec does not tell."""
    decode_stages: dict[str, float] = field(default_factory=dict)
    file_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One row that is measured."""

    name: str
    parameters: int
    estimate_bpp: float | None
    turn: Callable[[], Turn]
    first_image: Callable[[], FirstImage]
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    """One row that cannot be."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What all contenders do."""

    model: GlcModel
    """The weights that the bundle was exported from."""
    bundle: Path
    checkpoint: str
    """The same weights in a file, for fresh processes."""
    image: NDArray[np.uint8]
    bits_per_symbol: float | None
    """At which symbols are drawn; None codes the image as it is."""
    threads: int
    estimate_bpp: float
    """Of what codecs of this model code, from `estimated_bpp`."""
    encoder: str = OWN
    """One of the bundle's, on engines; PyTorch has the model's own."""
    decoder: str = OWN

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]


def estimated_bpp(model: GlcModel, bundle: Bundle, image: NDArray[np.uint8], bits_per_symbol: float | None) -> float:
    """Bits per pixel: of drawn symbols their ideal cost, of a photograph the published estimate."""
    height, width = image.shape[:2]
    if bits_per_symbol is None:
        expected = reference(model, image, _QUALITY)
        return float((expected.bit_y + expected.bit_z) / (height * width))
    config, table = bundle.manifest.config, bundle.tables().scales
    cells = tuple(-(-size // (4 * config.downsampling)) for size in (height, width))
    shape = (config.latent_channels, 2 * cells[0], 2 * cells[1])
    indices, symbols = draw_part(table, level_probabilities(table, bits_per_symbol), shape)
    y_bits = PARTS * ideal_bits(symbols.astype(np.int16), indices, table)
    return float((y_bits + cells[0] * cells[1] * np.log2(config.codebook_entries)) / (height * width))


def engine_contenders(task: Task) -> Iterator[Contender | Missing]:
    """This runtime on every engine and precision."""
    bundle = Bundle.open(task.bundle)
    ways = (("encoder", task.encoder), ("decoder", task.decoder))
    chosen = "".join(f", {kind} {name}" for kind, name in ways if name != OWN)
    for engine, precision in _ENGINES:
        name, threads = f"{engine} {precision}{chosen}", task.threads if engine in CPU_ENGINES else None
        try:
            loader = engine_loader(engine, threads, precision)
            bundle.require_target(loader.target)
        except (EngineUnavailable, TargetMissing) as error:
            yield Missing(name, str(error))
        else:
            spec = FirstImageSpec(
                str(task.bundle), None, engine, precision, threads, *task.size, task.encoder, task.decoder
            )
            yield _codec_contender(task, name, bundle, loader, spec)


def torch_contenders(task: Task, modes: Iterable[str]) -> Iterator[Contender]:
    """The published model in PyTorch with the same walk and entropy coder.

    Raises:
        ModelMismatch: the bundle has other weights.
    """
    bundle = open_published(task.bundle)
    for mode in modes:
        spec = FirstImageSpec(str(task.bundle), task.checkpoint, mode, None, task.threads, *task.size, OWN, OWN)
        yield _codec_contender(task, f"PyTorch {mode}", bundle, published(task.model, bundle, mode), spec)


def peer_contenders(
    task: Task, packages: Iterable[str], python: str | None, folder: Path
) -> Iterator[tuple[Contender, PeerProcess] | Missing]:
    """Other codecs, each in a process that the caller closes."""
    path = folder / "image.npy"
    np.save(path, task.image)
    for package in packages:
        for model in PEERS[package]:
            name = f"{package} {model}"
            try:
                process = PeerProcess(package, model, path, task.threads, python)
            except EngineUnavailable as error:
                yield Missing(name, str(error))
                break  # what keeps one model from starting keeps all
            turn = functools.partial(_peer_turn, process)
            first = functools.partial(getattr, process, "first_image")
            remark = "random weights: its rate says nothing"
            yield Contender(name, process.parameters, None, turn, first, remark), process


def photograph(height: int, width: int) -> NDArray[np.uint8]:
    """A photograph of the package, mirrored at its edges up to a size."""
    pixels = read_image(packaged_photos()[0], DEFAULT_MAX_PIXELS).pixels
    missing = tuple((0, max(size - have, 0)) for size, have in zip((height, width), pixels.shape[:2], strict=True))
    return np.ascontiguousarray(np.pad(pixels, (*missing, (0, 0)), mode="symmetric")[:height, :width])


def _codec_contender(task: Task, name: str, bundle: Bundle, loader: EngineLoader, spec: FirstImageSpec) -> Contender:
    stages: dict[str, float] = {}

    def note(stage: str, ms: float) -> None:
        stages[stage] = stages.get(stage, 0.0) + ms

    def opened(listener: StageListener | None) -> Codec:
        if task.bits_per_symbol is not None:
            return drawn_codec(bundle, loader, task.bits_per_symbol, listener)
        codec = Codec(bundle, loader, on_stage=listener)
        codec.warm_up()
        return codec

    staged = opened(note)
    # A device runs all steps of an image in one launch, unless a listener wants them one by one.
    whole = opened(None) if loader.on_device else staged
    for codec in {staged, whole}:
        codec.warm_up(encoder=spec.encoder, decoder=spec.decoder)
    parameters = sum(tensor.numel() for tensor in task.model.parameters())
    turn = functools.partial(_codec_turn, whole, staged, task.image, stages, spec.encoder, spec.decoder)
    # What is drawn costs the same whatever the encoder; what is coded was estimated for the model's own.
    estimate = task.estimate_bpp if spec.encoder == OWN or task.bits_per_symbol is not None else None
    return Contender(name, parameters, estimate, turn, lambda: measure_first_image(spec))


def _codec_turn(
    whole: Codec, staged: Codec, image: NDArray[np.uint8], stages: dict[str, float], encoder: str, decoder: str
) -> Turn:
    """Time both directions on one codec, and their stages on another, which may be the same."""
    turn = Turn()
    stages.clear()
    start = perf_counter()
    data = whole.encode(image, _QUALITY, encoder=encoder)
    turn.encode_ms, turn.file_bytes = 1e3 * (perf_counter() - start), len(data)
    if staged is not whole:
        staged.encode(image, _QUALITY, encoder=encoder)
    turn.encode_stages = dict(stages)
    stages.clear()
    start = perf_counter()
    whole.decode(data, decoder=decoder)
    turn.decode_ms = 1e3 * (perf_counter() - start)
    if staged is not whole:
        staged.decode(data, decoder=decoder)
    turn.decode_stages = dict(stages)
    return turn


def _peer_turn(process: PeerProcess) -> Turn:
    found = process.turn()
    return Turn(found.encode_ms, found.decode_ms, file_bytes=found.file_bytes)
