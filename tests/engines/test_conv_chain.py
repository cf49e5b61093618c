"""Chains of convolutions: the same numbers as PyTorch's, on AMX and without."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glc.engines import _conv_chain, conv_chain
from glc.engines.conv_chain import (
    ConvChain,
    Convolution,
    EightBits,
    GroupNorm,
    Kind,
    pack,
    require_kernels,
)
from glc.engines.kernel_memory import ActivationMemory
from glc.errors import EngineFailed, EngineUnavailable

HERE = _conv_chain.kernels()
GROUPS, EPSILON = 32, 1e-6
RELATIVE = {"f16": 1e-3, "bf16": 1e-2, "f32": 1e-5}


def missing(kernel: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(kernel not in HERE, reason=f"this processor has no kernels {kernel}")


kernels = pytest.mark.parametrize(
    ("precision", "family"),
    [
        pytest.param(precision, family, id=f"{family} {precision}", marks=missing(f"{family} {precision}"))
        for family, precision in (
            *(("plain", "f16"), ("plain", "bf16"), ("amx", "f16"), ("amx", "bf16")),
            *(("avx2", "f32"), ("avx512", "f32")),
        )
    ],
)


integer_kernels = pytest.mark.parametrize(
    ("precision", "family"),
    [
        pytest.param("f16", "plain", id="plain f16"),
        pytest.param("f16", "amx", id="amx f16", marks=missing("amx f16")),
        pytest.param("bf16", "amx", id="amx bf16", marks=missing("amx bf16")),
    ],
)


class Network:
    """Random weights, as a chain and as PyTorch computes it."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self.convolutions: list[Convolution] = []

    def add(
        self,
        kind: Kind,
        source: int,
        target: int,
        shape: tuple[int, int],
        *,
        norm: bool = False,
        swish: bool = True,
        residual: int | None = None,
        eight_bits: bool = False,
    ) -> None:
        """Append one, from `shape[1]` to `shape[0]` channels."""
        side = 1 if kind == Kind.POINT else 3
        weights = self._values(*shape, side, side) / np.sqrt(shape[1] * side**2)
        before = GroupNorm(GROUPS, EPSILON, self._values(shape[1]), self._values(shape[1]), swish) if norm else None
        bits = None
        if eight_bits:
            steps = (abs(weights).max((1, 2, 3)) / 127).astype(np.float32)
            weights = np.rint(weights / steps[:, None, None, None]) * steps[:, None, None, None]
            bits = EightBits(-0.2785 if swish else -3.1, 3.0, steps)
        self.convolutions.append(
            Convolution(
                kind, source, target, weights.astype(np.float32), self._values(shape[0]), before, residual, bits
            )
        )

    def _values(self, *shape: int) -> NDArray[np.float32]:
        return self._random.standard_normal(shape).astype(np.float32)

    def expected(self, given: NDArray[np.floating]) -> NDArray[np.float32]:
        """(H, W, C) -> (h, w, O) by PyTorch in float32."""
        tensors = {0: torch.from_numpy(given.astype(np.float32)).permute(2, 0, 1)[None]}
        for each in self.convolutions:
            x = tensors[each.source]
            if each.norm is not None:
                scale, shift = torch.from_numpy(each.norm.scale), torch.from_numpy(each.norm.shift)
                x = F.group_norm(x, each.norm.groups, scale, shift, each.norm.epsilon)
                x = F.silu(x) if each.norm.swish else x
            if each.eight_bits is not None:
                step = (each.eight_bits.largest - each.eight_bits.least) / 255
                zero = round(-each.eight_bits.least / step)
                x = (torch.clamp(torch.round(x / step) + zero, 0, 255) - zero) * step
            x = _convolved(x, each)
            tensors[each.target] = x if each.residual is None else x + tensors[each.residual]
        return tensors[self.convolutions[-1].target][0].permute(1, 2, 0).numpy()


def _convolved(x: Tensor, each: Convolution) -> Tensor:
    weights, bias = torch.from_numpy(each.weights), torch.from_numpy(each.bias)
    if each.kind == Kind.DOWN:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), weights, bias, stride=2)
    if each.kind == Kind.UP:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.conv2d(x, weights, bias, padding=each.weights.shape[2] // 2)


def everything() -> Network:
    """Every kind, a shortcut, a residual in place, and an end in three channels."""
    network = Network()
    network.add(Kind.FIRST, 0, 1, (64, 3))
    network.add(Kind.DENSE, 1, 2, (96, 64), norm=True)
    network.add(Kind.POINT, 1, 3, (96, 64))
    network.add(Kind.DENSE, 2, 3, (96, 96), norm=True, residual=3)
    network.add(Kind.DOWN, 3, 4, (96, 96))
    network.add(Kind.DENSE, 4, 5, (96, 96), norm=True)
    network.add(Kind.DENSE, 5, 4, (96, 96), norm=True, residual=4)
    network.add(Kind.UP, 4, 6, (32, 96))
    network.add(Kind.DENSE, 6, 7, (3, 32), norm=True, swish=False)
    return network


def chain_of(network: Network, precision: str, threads: int, *, family: str | None = None) -> ConvChain:
    packed = pack(network.convolutions, precision)
    return ConvChain(packed, precision, threads, ActivationMemory(), family=family)


def image(height: int, width: int, channels: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(height * width).standard_normal((height, width, channels)).astype(np.float32)


def distance(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.square(found.astype(np.float32) - expected).mean() / np.square(expected).mean()))


@kernels
@pytest.mark.parametrize("size", [(2, 2), (8, 34), (6, 66), (70, 20)])
def test_a_chain_gives_what_pytorch_gives(size: tuple[int, int], precision: str, family: str) -> None:
    network, given = everything(), image(*size)
    found = chain_of(network, precision, 2, family=family).run(given)
    assert found.dtype == np.float32
    assert distance(found, network.expected(given)) < RELATIVE[precision]


@pytest.mark.parametrize("size", [(2, 2), (9, 35), (70, 20)])
@pytest.mark.parametrize("channels", [32, 96, 128])  # the last ones of 64 that are multiplied together, some, none
@integer_kernels
def test_eight_bits_give_what_pytorch_gives_of_the_same_codes(
    size: tuple[int, int], channels: int, precision: str, family: str
) -> None:
    network = Network()
    network.add(Kind.POINT, 0, 1, (channels, channels))
    network.add(Kind.DENSE, 1, 2, (channels, channels), norm=True, eight_bits=True)
    network.add(Kind.DENSE, 2, 1, (channels, channels), norm=True, residual=1, eight_bits=True)
    network.add(Kind.DENSE, 1, 2, (channels, channels), norm=True, swish=False, eight_bits=True)
    given = image(*size, channels)
    found = chain_of(network, precision, 2, family=family).run(given)
    # Some values lie halfway between two codes, and what stands before is rounded; other codes would be far off.
    assert distance(found, network.expected(given)) < {"f16": 5e-3, "bf16": 2e-2}[precision]


@integer_kernels
def test_weights_of_eight_bits_that_no_cache_holds_are_taken_in_parts(precision: str, family: str) -> None:
    network, given = Network(), image(5, 3, 416).astype(np.float16)
    network.add(Kind.DENSE, 0, 1, (416, 416), norm=True, eight_bits=True)
    found = chain_of(network, precision, 2, family=family).run(given)
    assert distance(found, network.expected(given)) < 5e-3


@kernels
@pytest.mark.parametrize("kind", [Kind.DENSE, Kind.UP])
def test_weights_that_no_cache_holds_are_taken_in_parts(kind: Kind, precision: str, family: str) -> None:
    network, given = Network(), image(5, 3, 288).astype(np.float16)
    network.add(kind, 0, 1, (288, 288), norm=kind == Kind.DENSE)
    found = chain_of(network, precision, 2, family=family).run(given)
    assert found.dtype == (np.float32 if precision == "f32" else np.float16)
    assert distance(found, network.expected(given)) < RELATIVE[precision]


@kernels
def test_threads_and_calls_at_once_change_no_bit(precision: str, family: str) -> None:
    network = everything()
    given = [image(34, 18), image(18, 34), image(34, 18) + 1]
    alone = chain_of(network, precision, 1, family=family)
    expected = [alone.run(each) for each in given]
    shared = chain_of(network, precision, 3, family=family)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(shared.run, given * 4))
    for each, one in zip(found, expected * 4, strict=True):
        np.testing.assert_array_equal(each, one)


@pytest.mark.skipif("avx512 f32" not in HERE, reason="this processor has no AVX-512")
@pytest.mark.parametrize("size", [(2, 2), (34, 18), (14, 150)])
def test_avx512_gives_the_bits_of_avx2(size: tuple[int, int]) -> None:
    in_larger_tiles, in_smaller = everything(), Network()
    in_smaller.add(Kind.FIRST, 0, 1, (288, 3))
    in_smaller.add(Kind.DENSE, 1, 2, (288, 288), norm=True)
    in_smaller.add(Kind.UP, 2, 3, (288, 288))
    for network in (in_larger_tiles, in_smaller):
        one, other = (chain_of(network, "f32", 2, family=family).run(image(*size)) for family in ("avx2", "avx512"))
        np.testing.assert_array_equal(one, other)


@kernels
def test_what_is_given_is_not_written_to_and_results_belong_to_the_caller(precision: str, family: str) -> None:
    network, given = Network(), image(6, 6, 32).astype(np.float16)
    network.add(Kind.DENSE, 0, 1, (32, 32), norm=True)
    network.add(Kind.DENSE, 1, 2, (32, 32), norm=True, residual=0)
    chain, before = chain_of(network, precision, 1, family=family), given.copy()
    first = chain.run(given)
    kept = first.copy()
    chain.run(given * np.float16(2))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(given, before)


@kernels
@pytest.mark.parametrize("shape", [(6, 6, 64), (0, 6, 32), (6, 1, 32)], ids=["channels", "empty", "nothing is left"])
def test_what_a_chain_does_not_take_is_refused(shape: tuple[int, ...], precision: str, family: str) -> None:
    network = Network()
    network.add(Kind.DENSE, 0, 1, (32, 32), norm=True)
    network.add(Kind.DOWN, 1, 2, (32, 32))
    with pytest.raises(EngineFailed, match=f"takes 32 channels is given .{shape[0]}, {shape[1]}, {shape[2]}."):
        chain_of(network, precision, 1, family=family).run(np.zeros(shape, np.float32))


@kernels
def test_a_value_that_activations_do_not_hold_is_told(precision: str, family: str) -> None:
    network, given = Network(), image(6, 6, 32).astype(np.float16)
    network.add(Kind.DENSE, 0, 1, (32, 32))
    network.add(Kind.DENSE, 1, 2, (32, 32), norm=True)
    network.add(Kind.DENSE, 2, 3, (32, 32), norm=True)
    network.convolutions[0].bias[5] = 1e30 if precision == "f32" else 1e6
    chain = chain_of(network, precision, 1, family=family)
    with pytest.raises(EngineFailed, match=f"range of float{'32' if precision == 'f32' else '16'}: choose"):
        chain.run(given)


@kernels
def test_a_mean_far_from_zero_keeps_the_deviation(precision: str, family: str) -> None:
    network = Network()
    network.add(Kind.FIRST, 0, 1, (32, 3))
    network.add(Kind.DENSE, 1, 2, (32, 32), norm=True)
    network.convolutions[0].bias[:] = 20
    given = image(40, 40)
    found = chain_of(network, precision, 2, family=family).run(given)
    # float16 keeps 20 plus or minus 1 to 2^-7: what matters is that sums of squares lose no more.
    assert distance(found, network.expected(given)) < 10 * RELATIVE[precision]


@pytest.mark.parametrize(
    ("here", "precision", "message"),
    [
        ([], "f16", "no matrix unit .* multiplies f16: choose engine openvino"),
        (["amx bf16"], "f16", "multiplies f16: choose bf16"),
        (["amx bf16", "avx2 f32"], "f16", "multiplies f16: choose bf16"),
        (["avx2 f32"], "bf16", "multiplies bf16: choose engine openvino"),
        (["amx bf16", "amx f16"], "f32", "no AVX2: choose engine openvino"),
    ],
)
def test_a_precision_that_is_not_here_is_refused(
    here: list[str], precision: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_conv_chain, "kernels", lambda: here)
    with pytest.raises(EngineUnavailable, match=message):
        require_kernels(precision)
    with pytest.raises(EngineUnavailable, match=message):
        chain_of(everything(), precision, 1)


@pytest.mark.parametrize(("here", "taken"), [([], "f16"), (["amx bf16"], "bf16"), (["amx f16", "amx bf16"], "f16")])
def test_the_more_exact_precision_is_the_default(here: list[str], taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conv_chain, "kernels", lambda: here)
    assert conv_chain.default_precision(("f16", "bf16")) == taken
