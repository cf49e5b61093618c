"""The walk over the four parts, and the coders that give it symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from glc.engines import Array, Tensor
from glc.errors import EngineFailed
from glc.export.graphs import compact_part
from glc.export.scale_levels import DEFAULT_GRID, build_scale_table
from glc.runtime.entropy import MAX_SYMBOL, PayloadDecoder, PayloadEncoder, SymbolModels
from glc.runtime.latent_steps import HostSteps
from glc.runtime.spatial_walk import PARTS, PartPrior, SymbolCoder, gather_part, scatter_part, walk
from glc.runtime.symbol_coders import LatentCoder, PayloadCoder, ZeroCoder, write_parts

MODELS = SymbolModels(build_scale_table(DEFAULT_GRID))

POSITIONS = {"a": (0, 0), "b": (0, 1), "c": (1, 0), "d": (1, 1)}
MASKS = ("abcd", "dcba", "cdab", "badc")
"""The table of docs/bitstream.md, copied by hand: part -> quarter -> position."""

SHAPES = [(4, 2, 2), (8, 4, 6), (12, 10, 2)]

Latent = NDArray[np.float32]


def numbered(shape: tuple[int, int, int]) -> Latent:
    """A latent with another number, from 1 up, at each position."""
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


def part_of_each(shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """The part that each position belongs to."""
    parts = np.zeros(shape, np.float32)
    for part in range(PARTS):
        scatter_part(parts, part, np.full((shape[0], shape[1] // 2, shape[2] // 2), part))
    return parts.astype(np.int64)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_position_belongs_to_exactly_one_part(shape: tuple[int, int, int]) -> None:
    latent = numbered(shape)
    gathered = np.concatenate([gather_part(latent, part).ravel() for part in range(PARTS)])
    assert sorted(gathered.tolist()) == latent.ravel().tolist()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("part", range(PARTS))
def test_elements_lie_where_the_document_puts_them(shape: tuple[int, int, int], part: int) -> None:
    channels, height, width = shape
    latent = numbered(shape)
    compact = gather_part(latent, part)
    assert compact.shape == (channels, height // 2, width // 2)
    for n, i, j in np.ndindex(compact.shape):
        row, column = POSITIONS[MASKS[part][4 * n // channels]]
        assert compact[n, i, j] == latent[n, 2 * i + row, 2 * j + column]


@pytest.mark.parametrize("part", range(PARTS))
def test_the_graphs_take_the_same_elements_in_the_same_order(part: int) -> None:
    latent = numbered((8, 6, 4))
    in_torch = compact_part(torch.from_numpy(latent)[None], part)[0].numpy()
    assert gather_part(latent, part).tolist() == in_torch.tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_scattering_all_gathered_parts_restores_the_latent(shape: tuple[int, int, int]) -> None:
    latent, restored = numbered(shape), np.zeros(shape, np.float32)
    for part in range(PARTS):
        scatter_part(restored, part, gather_part(latent, part))
    assert restored.tolist() == latent.tolist()


@pytest.mark.parametrize("part", range(PARTS))
def test_scattering_a_part_leaves_the_others_alone(part: int) -> None:
    latent = numbered((8, 4, 4))
    changed = latent.copy()
    scatter_part(changed, part, -gather_part(latent, part))
    assert ((changed < 0) == (part_of_each(latent.shape) == part)).all()
    assert (np.abs(changed) == latent).all()


# The walk


STEPS = HostSteps()

NextPrior = Callable[[int, Latent], PartPrior]


def walked(first: PartPrior, next_prior: NextPrior, coder: SymbolCoder) -> Latent:
    """y_hat (N, h, w) of a walk on the CPU, where `next_prior` is given y_hat (N, h, w) too."""
    y_hat = walk(first, lambda part, so_far: next_prior(part, np.asarray(so_far)[0]), coder, STEPS.assemble)
    latent: Latent = np.asarray(y_hat)[0]
    return latent


def encoded(first: PartPrior, next_prior: NextPrior, target: Latent) -> tuple[Latent, bytes]:
    """y_hat and payload of a latent in units of quant_step."""
    coder = LatentCoder(STEPS.split(target[None], np.ones_like(target)[None]), STEPS)
    y_hat = walked(first, next_prior, coder)
    payload = PayloadEncoder(MODELS)
    write_parts({name: np.asarray(made) for name, made in coder.made.items()}, payload)
    return y_hat, payload.finish()


def fetch(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: np.asarray(tensor) for name, tensor in tensors.items()}


def reader(payload: bytes) -> PayloadCoder:
    return PayloadCoder(PayloadDecoder(MODELS, payload), fetch)


class Constant:
    """Gives part + 1 for every symbol of a part, and keeps the order of parts."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def code(self, part: int, prior: PartPrior) -> Tensor:
        self.asked.append(part)
        return np.full(prior.means.shape, part + 1, np.int32)


def flat_prior(mean: float = 0, shape: tuple[int, int, int] = (8, 3, 2)) -> PartPrior:
    return PartPrior(np.full((1, *shape), 40, np.uint8), np.full((1, *shape), mean, np.float32))


def test_each_prior_sees_exactly_the_parts_before_it() -> None:
    seen: dict[int, Latent] = {}

    def next_prior(part: int, y_hat: Latent) -> PartPrior:
        seen[part] = y_hat.copy()
        return flat_prior()

    coder = Constant()
    y_hat = walked(flat_prior(), next_prior, coder)
    assert coder.asked == [0, 1, 2, 3]
    parts = part_of_each((8, 6, 4))
    assert y_hat.tolist() == (parts + 1).tolist()
    assert list(seen) == [1, 2, 3]
    for part, so_far in seen.items():
        assert so_far.tolist() == np.where(parts < part, parts + 1, 0).tolist()


def test_the_decoded_value_is_the_symbol_plus_the_mean() -> None:
    y_hat = walked(flat_prior(0.25), lambda part, _: flat_prior(-0.5 * part), Constant())
    assert y_hat.dtype == np.float32
    expected = np.array([1.25, 2 - 0.5, 3 - 1.0, 4 - 1.5])[part_of_each((8, 6, 4))]
    assert y_hat.tolist() == expected.tolist()


def test_zero_symbols_leave_the_means() -> None:
    y_hat = walked(flat_prior(0.25), lambda part, _: flat_prior(-0.5 * part), ZeroCoder())
    assert y_hat.tolist() == np.array([0.25, -0.5, -1.0, -1.5])[part_of_each((8, 6, 4))].tolist()


def neighbour_prior(part: int, y_hat: Latent) -> PartPrior:
    """A stand-in for the network: scales and means depend on all that was decoded around an element."""
    mixed = np.roll(y_hat, (1, 1), (1, 2)) + np.roll(y_hat, -1, 0) / 3
    around = gather_part(mixed.astype(np.float32), part)[None]
    return PartPrior((np.abs(np.rint(5 * around)) % 128).astype(np.uint8), np.asarray(around * 0.7, np.float32))


def random_latent(seed: int, shape: tuple[int, int, int] = (8, 10, 6)) -> Latent:
    generator = np.random.default_rng(seed)
    return np.asarray(generator.normal(0, 1, shape) * generator.choice([0.1, 3, 500], shape), np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_decoder_and_encoder_walk_to_the_same_latent(seed: int) -> None:
    target = random_latent(seed)
    first = neighbour_prior(0, random_latent(seed + 100))
    in_encoder, payload = encoded(first, neighbour_prior, target)
    in_decoder = walked(first, neighbour_prior, reader(payload))
    assert in_decoder.tobytes() == in_encoder.tobytes()
    assert np.abs(in_encoder - target).max() <= 0.5001


def test_a_latent_that_lies_on_the_means_takes_no_payload() -> None:
    first = PartPrior(np.zeros((1, 8, 3, 2), np.uint8), np.full((1, 8, 3, 2), 0.75, np.float32))
    _, payload = encoded(first, lambda _, __: first, np.full((8, 6, 4), 0.75, np.float32))
    assert len(payload) <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, MAX_SYMBOL, -MAX_SYMBOL, 3e38])
@pytest.mark.parametrize("part", range(PARTS))
def test_a_latent_that_cannot_be_coded_is_refused_in_its_part(value: float, part: int) -> None:
    target = np.zeros((8, 6, 4), np.float32)
    scatter_part(target, part, np.full((8, 3, 2), value))
    with pytest.raises(EngineFailed, match=f"part {part} of the latent"):
        encoded(flat_prior(), lambda _, __: flat_prior(), target)


def test_a_mean_that_is_not_finite_is_refused() -> None:
    with pytest.raises(EngineFailed, match="part 2 of the latent"):
        encoded(
            flat_prior(),
            lambda part, _: flat_prior(float("nan") if part == 2 else 0),
            np.zeros((8, 6, 4), np.float32),
        )


def test_the_largest_symbols_pass_the_walk() -> None:
    target = np.full((8, 6, 4), MAX_SYMBOL - 1, np.float32)
    _, payload = encoded(flat_prior(), lambda _, __: flat_prior(), target)
    assert walked(flat_prior(), lambda _, __: flat_prior(), reader(payload)).tolist() == target.tolist()
