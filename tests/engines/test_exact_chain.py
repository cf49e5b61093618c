"""Rows of exact layers: the integers that the arithmetic says, to the last bit, by every kernel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from glc.engines import _exact_chain, exact_chain
from glc.engines.exact_chain import LARGEST_ACTIVATION, LARGEST_WEIGHT, ExactChain, ExactLayer, ExactRow, Kind, pack
from glc.engines.kernel_memory import ActivationMemory
from glc.errors import EngineFailed

kernels = pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(
            name, marks=pytest.mark.skipif(name not in _exact_chain.kernels(), reason=f"this processor has no {name}")
        )
        for name in ("plain", "avx2", "vnni", "amx")
    ],
)
SIZES = [(1, 1), (3, 5), (9, 17)]


class Network:
    """Random layers, and what they compute in float64, which holds every sum."""

    def __init__(self, channels: int, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._channels = [channels]
        self.layers: list[ExactLayer] = []

    def point(self, source: int, channels: int, *, slope: float = 1.0, add: int | None = None, limit: int = 559) -> int:
        """1x1 convolution, of weights that reach their ends."""
        shape = channels, self._channels[source]
        weights = self._random.integers(-200, 201, shape)
        weights[0, :2] = -LARGEST_WEIGHT, LARGEST_WEIGHT
        scale = 2.0 ** -self._random.integers(8, 13, channels)
        factor = None if add is None else 2.0 ** self._random.integers(-2, 2, channels)
        return self._append(
            Kind.POINT,
            source,
            channels,
            limits=(-limit, limit),
            slope=slope,
            weights=weights.astype(np.float32),
            scale=scale.astype(np.float32),
            bias=(self._random.integers(-2047, 2048, channels) * scale).astype(np.float32),
            add=add,
            factor=None if factor is None else factor.astype(np.float32),
        )

    def depthwise(self, source: int) -> int:
        """3x3 convolution of each channel."""
        channels = self._channels[source]
        weights = self._random.integers(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1, (channels, 3, 3)) * 2.0**-12
        bias = self._random.integers(-2047, 2048, channels) * 2.0**-8
        return self._append(
            Kind.DEPTHWISE,
            source,
            channels,
            limits=(-LARGEST_ACTIVATION, LARGEST_ACTIVATION),
            weights=weights.astype(np.float32),
            bias=bias.astype(np.float32),
        )

    def gate(self, source: int, gate: int) -> int:
        """The product of two."""
        channels = self._channels[source]
        factor = 2.0 ** -self._random.integers(6, 10, channels)
        return self._append(
            Kind.GATE,
            source,
            channels,
            limits=(-682, 682),
            slope=3 / 32,
            gate=gate,
            factor=factor.astype(np.float32),
        )

    def _append(self, kind: Kind, source: int, channels: int, **about: object) -> int:
        self._channels.append(channels)
        target = len(self._channels) - 1
        self.layers.append(ExactLayer(kind, source, target, channels, **about))  # type: ignore[arg-type]
        return target

    def row(self, *results: int) -> ExactRow:
        """All layers."""
        return ExactRow(self._channels[0], tuple(self.layers), results)

    def given(self, height: int, width: int) -> NDArray[np.float32]:
        """Integers that reach their ends."""
        shape = height, width, self._channels[0]
        given = self._random.integers(-LARGEST_ACTIVATION, LARGEST_ACTIVATION + 1, shape)
        given[0, 0, :2] = -LARGEST_ACTIVATION, LARGEST_ACTIVATION
        return given.astype(np.float32)

    def expected(self, given: NDArray[np.float32], *results: int) -> NDArray[np.float64]:
        """What `results` are, side by side."""
        tensors = {0: given.astype(np.float64)}
        for layer in self.layers:
            x = tensors[layer.source]
            if layer.kind == Kind.GATE:
                assert layer.gate is not None
                assert layer.factor is not None
                v = tensors[layer.gate]
                total = x * np.where(v < 0, v * layer.slope, v) * layer.factor
            else:
                total = _convolved(x, layer)
                if layer.add is not None:
                    assert layer.factor is not None
                    total = total + tensors[layer.add] * layer.factor
                total = np.where(total < 0, total * layer.slope, total)
            tensors[layer.target] = np.rint(np.clip(total, *layer.limits))
        return np.concatenate([tensors[number] for number in results], axis=2)


def _convolved(x: NDArray[np.float64], layer: ExactLayer) -> NDArray[np.float64]:
    assert layer.weights is not None
    assert layer.bias is not None
    weights = layer.weights.astype(np.float64)
    total: NDArray[np.float64]
    if layer.kind == Kind.POINT:
        assert layer.scale is not None
        total = x @ weights.T * layer.scale + layer.bias
        return total
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    taps = [padded[i : i + height, j : j + width] * weights[:, i, j] for i in range(3) for j in range(3)]
    total = np.sum(taps, axis=0) + layer.bias
    return total


def everything(channels: int = 48) -> tuple[Network, tuple[int, int]]:
    """Every kind, with sums and slopes, and two results, one of which is read again."""
    network = Network(channels)
    first = network.point(0, channels, slope=1 / 128)
    mixed = network.point(network.depthwise(first), channels, add=0)
    u, v = network.point(mixed, 2 * channels, limit=682), network.point(mixed, 2 * channels, limit=682)
    last = network.point(network.gate(u, v), channels, add=mixed)
    return network, (last, network.point(last, 16))


def chain_of(row: ExactRow, threads: int, kernel: str) -> ExactChain:
    return ExactChain(pack(row, kernel), kernel, threads, ActivationMemory())


@kernels
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [16, 48, 64, 144])
def test_every_integer_is_the_one_that_arithmetic_gives(channels: int, size: tuple[int, int], kernel: str) -> None:
    network, results = everything(channels)
    given = network.given(*size)
    found = chain_of(network.row(*results), 2, kernel).run(given)
    assert found.dtype == np.float32
    expected = network.expected(given, *results)
    assert np.abs(expected).max() == 559, "some reach the limit"
    np.testing.assert_array_equal(found, expected)


@kernels
def test_sums_of_the_largest_integers_are_exact(kernel: str) -> None:
    """8 channels of the largest: 1023 * 2047 * 8 is just below 2^24; parts of it are far beyond a byte."""
    channels = 16
    weights = np.zeros((channels, channels), np.float32)
    weights[:, :8] = LARGEST_WEIGHT
    weights[1::2] *= -1
    scale, bias = (np.full(channels, value, np.float32) for value in (2.0**-14, 0.5))
    layer = ExactLayer(Kind.POINT, 0, 1, channels, (-1023, 1023), weights=weights, scale=scale, bias=bias)
    given = np.full((5, 5, channels), LARGEST_ACTIVATION, np.float32)
    given[::2] *= -1
    given[4, 4] = 0
    found = chain_of(ExactRow(channels, (layer,), (1,)), 1, kernel).run(given)
    exact = given.astype(np.float64) @ weights.T.astype(np.float64) * 2.0**-14 + 0.5
    np.testing.assert_array_equal(found, np.rint(np.clip(exact, -1023, 1023)))
    assert (found[4, 4] == 0).all(), "halves go to the even one"


@kernels
def test_threads_and_calls_at_once_change_nothing(kernel: str) -> None:
    network, results = everything()
    given = [network.given(7, 9), network.given(9, 4), network.given(7, 9)]
    shared = chain_of(network.row(*results), 3, kernel)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(shared.run, given * 4))
    for each, one in zip(found, given * 4, strict=True):
        np.testing.assert_array_equal(each, network.expected(one, *results))


@pytest.mark.parametrize(
    ("known", "avx512", "best"),
    [
        (["plain"], False, None),
        (["plain", "avx2"], False, "avx2"),
        (["plain", "avx2"], True, None),
        (["plain", "avx2", "vnni"], True, "vnni"),
        (["plain", "avx2", "vnni", "amx"], True, "amx"),
    ],
)
def test_the_best_kernel_is_the_one_that_gains_here(
    known: list[str], avx512: bool, best: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_exact_chain, "kernels", lambda: known)
    monkeypatch.setattr(exact_chain, "has_avx512", lambda: avx512)
    assert exact_chain.best_kernel() == best


def test_what_has_other_channels_is_refused() -> None:
    network, results = everything()
    with pytest.raises(EngineFailed, match="48 channels was given 1"):
        chain_of(network.row(*results), 1, "plain").run(np.zeros((3, 4, 1), np.float32))
