"""The payload: what the encoder writes, both decoders read back, at the length that the table promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.runtime.plain_decoder import Damaged, PlainDecoder

from glc.errors import CorruptBitstream, EngineFailed, TruncatedBitstream
from glc.export.scale_levels import DEFAULT_GRID, build_scale_table, level_of
from glc.runtime.entropy import (
    ESCAPE_WIDTHS,
    MAX_SYMBOL,
    PayloadDecoder,
    PayloadEncoder,
    SymbolModels,
    least_payload_bytes,
)
from glc.runtime.scale_table import PROBABILITY_BITS, ScaleTable

TABLE = build_scale_table(DEFAULT_GRID)
MODELS = SymbolModels(TABLE)
ROWS = [row.tolist() for row in TABLE.frequencies]
LEVELS = len(ROWS)
ALL_ZERO_FREQUENCIES = (2**24 - 2**18, 2**18)
"""Of the flag before the group of scale index 0."""

Part = tuple[NDArray[np.uint8], NDArray[np.int32]]
"""Scale indices and symbols."""


@dataclass
class Content:
    """All that a payload holds."""

    entries: int = 1
    indices: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    parts: list[Part] = field(default_factory=list)


def encoded(content: Content) -> bytes:
    encoder = PayloadEncoder(MODELS)
    encoder.put_indices(content.indices, content.entries)
    for scale_indices, symbols in content.parts:
        encoder.put_part(symbols, scale_indices)
    return encoder.finish()


def decoded(payload: bytes, content: Content) -> list[list[int]]:
    """Indices and symbols by the runtime's decoder, given all of `content` but them."""
    decoder = PayloadDecoder(MODELS, payload)
    indices = decoder.get_indices(content.indices.shape, content.entries)
    parts = [decoder.get_part(scale_indices) for scale_indices, _ in content.parts]
    assert indices.dtype == np.int32
    assert all(symbols.dtype == np.int32 for symbols in parts)
    assert [symbols.shape for symbols in parts] == [scale_indices.shape for scale_indices, _ in content.parts]
    return [indices.ravel().tolist(), *(symbols.ravel().tolist() for symbols in parts)]


def plainly_decoded(payload: bytes, content: Content) -> list[list[int]]:
    """The same by the decoder that was written from the document."""
    decoder = PlainDecoder(payload)
    indices = decoder.indices(content.indices.size, content.entries)
    return [indices, *(decoder.part(scale_indices.ravel().tolist(), ROWS) for scale_indices, _ in content.parts)]


def expected(content: Content) -> list[list[int]]:
    return [content.indices.ravel().tolist(), *(symbols.ravel().tolist() for _, symbols in content.parts)]


def assert_round_trip(content: Content) -> bytes:
    payload = encoded(content)
    assert decoded(payload, content) == expected(content)
    assert plainly_decoded(payload, content) == expected(content)
    return payload


def part(scale_indices: list[int], symbols: list[int]) -> Part:
    return np.array(scale_indices, np.uint8).reshape(-1, 1, 1), np.array(symbols, np.int32).reshape(-1, 1, 1)


def outcome(decode: Callable[[bytes, Content], list[list[int]]], payload: bytes, content: Content) -> object:
    """What a decoder makes of any payload: symbols, None for cut or damaged. Every other exception passes through."""
    try:
        return decode(payload, content)
    except (CorruptBitstream, TruncatedBitstream, Damaged):
        return None


# Round trips


SYMBOL = st.one_of(
    st.just(0),
    st.integers(-3, 3),
    st.integers(-700, 700),
    st.integers(1 - MAX_SYMBOL, MAX_SYMBOL - 1),
    st.sampled_from([1 - MAX_SYMBOL, MAX_SYMBOL - 1]),
)


@st.composite
def contents(draw: st.DrawFn, lowest: int = 0) -> Content:
    """Contents of all kinds, with scale indices from `lowest` up."""
    element = st.tuples(st.one_of(st.just(lowest), st.integers(lowest, LEVELS - 1)), SYMBOL)
    entries = draw(st.one_of(st.integers(1, 20), st.integers(1, 1 << 16)))
    indices = draw(st.lists(st.integers(0, entries - 1), max_size=20))
    parts = draw(st.lists(st.lists(element, max_size=30), max_size=4))
    split = [part([level for level, _ in elements], [symbol for _, symbol in elements]) for elements in parts]
    return Content(entries, np.array(indices, np.int32), split)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(contents())
def test_both_decoders_return_what_was_encoded(content: Content) -> None:
    assert_round_trip(content)


@pytest.mark.parametrize("size", [*range(10), 1000, 1003])
@pytest.mark.parametrize("levels", [2, 5, LEVELS])
def test_a_part_of_any_size_round_trips(size: int, levels: int) -> None:
    random = np.random.default_rng(size)
    scale_indices = random.integers(0, levels, size)
    symbols = np.where(scale_indices > 0, random.integers(-3, 4, size), 0)
    assert_round_trip(Content(parts=[part(scale_indices.tolist(), symbols.tolist())]))


@pytest.mark.parametrize("seed", range(6))
def test_long_parts_with_outliers_round_trip(seed: int) -> None:
    generator = np.random.default_rng(seed)
    parts = []
    for _ in range(4):
        scale_indices = generator.integers(0, LEVELS, (8, 9, 11), np.uint8)
        scales = DEFAULT_GRID.smallest * DEFAULT_GRID.ratio ** scale_indices.astype(np.float64)
        symbols = np.rint(generator.normal(0, scales)).astype(np.int32)
        outliers = generator.random(symbols.shape) < 0.02
        symbols[outliers] = generator.integers(1 - MAX_SYMBOL, MAX_SYMBOL, int(outliers.sum()))
        parts.append((scale_indices, symbols))
    assert_round_trip(Content(1000, generator.integers(0, 1000, (3, 5), np.int32), parts))


@pytest.mark.parametrize("level", [0, 1, 64, LEVELS - 1])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 3, 2)])
def test_a_part_of_zeros_round_trips_at_every_scale(level: int, shape: tuple[int, int, int]) -> None:
    zeros = np.full(shape, level, np.uint8), np.zeros(shape, np.int32)
    assert_round_trip(Content(parts=[zeros] * 4))


def test_any_element_of_a_part_may_be_the_only_one_that_is_not_zero() -> None:
    for place in range(6):
        symbols = [0] * 6
        symbols[place] = -1
        assert_round_trip(Content(parts=[part([0, 5, 0, 5, 0, 127], symbols)]))


def test_an_escape_keeps_its_sign_and_magnitude() -> None:
    for level in (0, 1, 50, LEVELS - 1):
        reach = int(TABLE.reach[level])
        powers = [reach + offset for width in range(ESCAPE_WIDTHS) for offset in ((1 << width) - 1, 1 << width)]
        symbols = [sign * magnitude for magnitude in powers for sign in (1, -1)]
        assert_round_trip(Content(parts=[part([level] * len(symbols), symbols)]))


def test_symbols_up_to_the_promised_magnitude_can_be_coded_at_every_scale() -> None:
    symbols = [MAX_SYMBOL - 1, 1 - MAX_SYMBOL] * LEVELS
    assert_round_trip(Content(parts=[part(sorted([*range(LEVELS)] * 2), symbols)]))


def test_a_part_without_elements_takes_no_bytes() -> None:
    assert assert_round_trip(Content(parts=[part([], [])])) == b""


def test_a_zero_group_of_the_smallest_scale_costs_one_flag_whatever_its_size() -> None:
    zeros = part([0] * 100_000, [0] * 100_000)
    assert len(encoded(Content(parts=[zeros] * 4))) <= 1


@pytest.mark.parametrize("entries", [2, 3, 23, 1000, 1024, 16384, 65535, 65536])
def test_the_first_and_last_codebook_entries_round_trip(entries: int) -> None:
    indices = np.array([0, entries - 1] * 20 + [entries // 2], np.int32)
    assert_round_trip(Content(entries, indices))


def test_a_codebook_of_one_entry_takes_no_bytes() -> None:
    assert assert_round_trip(Content(1, np.zeros((40, 40), np.int32))) == b""


def test_an_empty_payload_decodes_as_zero_bytes() -> None:
    content = Content(16, np.zeros((2, 3), np.int32), [part([0, 0, 0], [0, 0, 0])])
    assert decoded(b"", content) == decoded(bytes(100), content) == plainly_decoded(b"", content) == expected(content)


def test_an_empty_payload_holds_no_symbols_that_take_more_than_the_bytes_an_encoder_leaves_out() -> None:
    content = Content(16, np.zeros((2, 3), np.int32), [part([0, 3, 127], [0, 0, 0])])
    assert outcome(decoded, bytes(100), content) == outcome(plainly_decoded, bytes(100), content) is not None
    assert outcome(decoded, b"", content) is outcome(plainly_decoded, b"", content) is None


def test_bytes_after_the_payload_change_no_symbol_when_they_are_zero() -> None:
    content = Content(100, np.arange(30, dtype=np.int32), [part([30] * 7, [0, 1, -2, 3, 900, 0, 1])])
    payload = encoded(content)
    for more in range(1, 20):
        assert decoded(payload + bytes(more), content) == expected(content)


# The format itself


@pytest.mark.parametrize(
    ("content", "payload"),
    [
        pytest.param(Content(256, np.array([1, 2, 255], np.int32)), "0102ff", id="indices"),
        pytest.param(Content(10, np.array([9, 0, 5, 3], np.int32)), "e7c2", id="indices not a power of two"),
        pytest.param(Content(parts=[part([0, 0], [0, 0])]), "", id="zero group"),
        pytest.param(Content(parts=[part([0, 0], [0, 1])]), "ffffe0", id="outlier in the zero group"),
        pytest.param(Content(parts=[part([127, 60, 127, 0], [64, -1, -30, 0])]), "d6ce83", id="three groups"),
        pytest.param(Content(parts=[part([40, 40, 40], [-20, 1, 2**23 - 1])]), "fffffa723d72993e21", id="escapes"),
        pytest.param(
            Content(4, np.array([3, 1], np.int32), [part([k * 30] * 2, [k, -k]) for k in range(4)]), "dd95d9", id="all"
        ),
    ],
)
def test_these_bytes_mean_these_symbols(content: Content, payload: str) -> None:
    assert encoded(content).hex() == payload
    assert decoded(bytes.fromhex(payload), content) == expected(content)
    assert plainly_decoded(bytes.fromhex(payload), content) == expected(content)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(contents(lowest=1))  # at scale index 0, a flag of 1 before zeros would mean the same as a flag of 0
def test_no_payload_a_byte_shorter_means_the_same_unless_zeros_end_it(content: Content) -> None:
    payload = encoded(content)
    if payload and payload[-1] != 0:
        # Read as a binary fraction, only these two neighbours could lie in the payload's interval.
        below, length = int.from_bytes(payload[:-1], "big"), len(payload) - 1
        for shorter in (n.to_bytes(length, "big") for n in (below, below + 1) if n < 1 << 8 * length):
            assert outcome(decoded, shorter, content) != expected(content)


@pytest.mark.parametrize("seed", range(3))
def test_a_payload_is_what_the_range_coder_of_constriction_writes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    indices, symbols = generator.integers(0, 1000, 50, np.int32), generator.integers(-3, 4, 200, np.int32)
    level = 40 + seed
    peer = constriction.stream.queue.RangeEncoder()
    peer.encode(indices, constriction.stream.model.Uniform(1000))
    weights = (TABLE.frequencies[level] - 1).astype(np.float64)  # it gives each symbol one more
    peer.encode(symbols + TABLE.reach[level], constriction.stream.model.Categorical(weights, perfect=False))
    words = peer.get_compressed().astype(">u4").tobytes()
    content = Content(1000, indices, [(np.full(200, level, np.uint8), symbols)])
    assert decoded(words, content) == expected(content)
    assert encoded(content)[:-9] == words[: len(encoded(content)) - 9]


# Cost


def ideal_bits(scale_indices: NDArray[np.uint8], symbols: NDArray[np.int32]) -> float:
    """Cost of a part by the table alone."""
    bits = 0.0
    for level in np.unique(scale_indices).tolist():
        values = symbols[scale_indices == level].astype(np.int64)
        if level == 0:
            bits -= np.log2(ALL_ZERO_FREQUENCIES[int(values.any())] / 2**24)
            if not values.any():
                continue
        reach = int(TABLE.reach[level])
        escaped = np.abs(values) > reach
        coded = np.where(escaped, 2 * reach + 1, values + reach)
        bits -= float(np.log2(TABLE.frequencies[level][coded] / 2**24).sum())
        excess = (np.abs(values[escaped]) - reach).tolist()
        bits += sum(np.log2(ESCAPE_WIDTHS) + int(e).bit_length() for e in excess)
    return bits


@pytest.mark.parametrize("outliers", [0, 200])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 20), (10, 50), (40, 90), (90, 128), (0, 128)])
def test_a_payload_is_at_most_half_a_percent_above_its_ideal_cost(low: int, high: int, outliers: int) -> None:
    generator = np.random.default_rng([low, high, outliers])
    scale_indices = generator.integers(low, high, 100_000, np.uint8)
    scales = DEFAULT_GRID.smallest * DEFAULT_GRID.ratio ** scale_indices.astype(np.float64)
    symbols = np.rint(generator.normal(0, scales)).astype(np.int32)
    symbols[:outliers] = generator.integers(-5000, 5000, outliers)
    content = Content(parts=[(scale_indices, symbols)])
    payload = encoded(content)
    ideal = ideal_bits(scale_indices, symbols)
    assert ideal - 64 <= 8 * len(payload) <= 1.005 * ideal + 64
    assert decoded(payload, content) == expected(content)


@pytest.mark.parametrize("entries", [3, 1000, 16384])
def test_indices_cost_the_logarithm_of_the_entries(entries: int) -> None:
    indices = np.random.default_rng(entries).integers(0, entries, 20_000, np.int32)
    ideal = 20_000 * np.log2(entries)
    assert ideal - 64 <= 8 * len(encoded(Content(entries, indices))) <= 1.005 * ideal + 64


@pytest.mark.parametrize("entries", [2, 3, 1000, 1024, 10_000, 16384, 65535])
def test_a_payload_is_as_long_as_the_document_has_a_decoder_demand(entries: int) -> None:
    for index in (0, entries // 2, entries - 1):
        payload = encoded(Content(entries, np.full(4096, index, np.int32)))
        largest = 2**24 - (entries - 1) * (2**24 // entries)
        assert len(payload) >= np.floor(4096 * (24 - np.log2(largest)) / 8) - 8, f"entry {index}"
        assert len(payload) >= least_payload_bytes(4096, entries), f"entry {index}"


def test_symbols_of_a_normal_distribution_cost_about_its_entropy() -> None:
    generator = np.random.default_rng(7)
    scales = np.full(100_000, 8.0, np.float32)
    symbols = np.rint(generator.normal(0, scales)).astype(np.int32)
    payload = encoded(Content(parts=[(level_of(scales, DEFAULT_GRID), symbols)]))
    entropy = 100_000 * np.log2(8 * np.sqrt(2 * np.pi * np.e))
    assert 8 * len(payload) == pytest.approx(entropy, rel=0.01)


# What is refused


@pytest.mark.parametrize("sign", [1, -1])
def test_a_symbol_that_no_escape_can_state_is_refused_at_every_scale(sign: int) -> None:
    for level in range(LEVELS):
        limit = int(TABLE.reach[level]) + MAX_SYMBOL
        assert_round_trip(Content(parts=[part([level], [sign * (limit - 1)])]))
        with pytest.raises(EngineFailed, match="too large to code"):
            encoded(Content(parts=[part([level, level], [0, sign * limit])]))


@pytest.mark.parametrize("symbol", [-(2**31), 2**31 - 1])
def test_the_extreme_32_bit_symbols_are_refused(symbol: int) -> None:
    with pytest.raises(EngineFailed, match="too large to code"):
        encoded(Content(parts=[part([5], [symbol])]))


@pytest.mark.parametrize("indices", [[-1], [0, 16], [3, 2**31 - 1]])
def test_an_index_outside_the_codebook_is_refused(indices: list[int]) -> None:
    with pytest.raises(EngineFailed, match="z indices"):
        encoded(Content(16, np.array(indices, np.int32)))


def test_an_index_outside_a_codebook_of_one_entry_is_refused() -> None:
    with pytest.raises(EngineFailed, match="z indices"):
        encoded(Content(1, np.array([1], np.int32)))


@pytest.mark.parametrize("index", [LEVELS, 255])
def test_a_scale_index_beyond_the_table_is_refused_in_both_directions(index: int) -> None:
    content = Content(parts=[part([0, index], [0, 0])])
    with pytest.raises(EngineFailed, match=f"scale index {index} is out of range"):
        encoded(content)
    with pytest.raises(EngineFailed, match=f"scale index {index} is out of range"):
        decoded(bytes(20), content)


def test_any_bytes_decode_to_symbols_or_are_called_corrupt_by_both_decoders_alike() -> None:
    generator = np.random.default_rng(0)
    corrupt = 0
    for round_ in range(3000):
        scale_indices = generator.integers(0, (1, 4, LEVELS)[round_ % 3], 24, np.uint8)
        entries = int(generator.choice([1, 2, 10, 1000, 16384]))
        content = Content(entries, np.zeros(3, np.int32), [(scale_indices, np.zeros(24, np.int32))] * 2)
        payload = generator.bytes(int(generator.integers(0, 60)))
        if round_ % 4 == 0:  # the top of the range, where no symbol may lie
            payload = b"\xff" * int(generator.integers(1, 9)) + payload
        result = outcome(decoded, payload, content)
        assert result == outcome(plainly_decoded, payload, content)
        corrupt += result is None
    assert 100 < corrupt < 1500


@pytest.mark.parametrize("seed", range(3))
def test_a_payload_of_likely_symbols_that_was_cut_is_noticed_without_any_checksum(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scale_indices = generator.integers(0, 60, 2000, np.uint8)
    scales = DEFAULT_GRID.smallest * DEFAULT_GRID.ratio ** scale_indices.astype(np.float64)
    symbols = np.rint(generator.normal(0, scales)).astype(np.int32)
    content = Content(100, np.arange(10, dtype=np.int32), [(scale_indices, symbols)])
    payload = encoded(content)
    for length in range(len(payload) - 8):
        with pytest.raises((TruncatedBitstream, CorruptBitstream)):
            decoded(payload[:length], content)


def test_a_damaged_byte_anywhere_gives_symbols_or_corrupt_bitstream() -> None:
    generator = np.random.default_rng(1)
    scale_indices = generator.integers(0, LEVELS, 200, np.uint8)
    symbols = generator.integers(-40, 41, 200, np.int32)
    content = Content(100, np.arange(10, dtype=np.int32), [(scale_indices, symbols)])
    payload = encoded(content)
    for place in range(len(payload)):
        damaged = bytearray(payload)
        damaged[place] ^= int(generator.integers(1, 256))
        result = outcome(decoded, bytes(damaged), content)
        assert result == outcome(plainly_decoded, bytes(damaged), content)
        assert result != expected(content) or place == len(payload) - 1


@pytest.mark.parametrize("escape", [1, 1 << 20])
@pytest.mark.parametrize("zero", [1, 1 << 10, 1 << 22])
@pytest.mark.parametrize("reach", [1, 4, 5, 8, 9, 1000])
def test_every_symbol_of_any_table_round_trips_however_it_is_searched(reach: int, zero: int, escape: int) -> None:
    rest = (1 << PROBABILITY_BITS) - zero - escape
    row = np.full(2 * reach + 2, rest // (2 * reach), np.int64)
    row[reach], row[-1] = zero, escape
    row[0] += (1 << PROBABILITY_BITS) - int(row.sum())
    models = SymbolModels(ScaleTable(np.array([1, reach], np.int32), (np.array([1, (1 << 24) - 3, 1, 1]), row)))
    symbols = np.tile(np.arange(-reach - 1, reach + 2, dtype=np.int32), 1 + 50 // reach)
    np.random.default_rng(0).shuffle(symbols)
    scale_indices = np.ones(len(symbols), np.uint8)
    scale_indices[:7], symbols[:7] = 0, [0, 0, -1, 0, 1, 2, 0]
    encoder = PayloadEncoder(models)
    encoder.put_part(symbols, scale_indices)
    payload = encoder.finish()
    assert np.array_equal(PayloadDecoder(models, payload).get_part(scale_indices), symbols)
    plain = PlainDecoder(payload)
    plain.indices(0, 1)
    rows = [[1, (1 << 24) - 3, 1, 1], row.tolist()]
    assert plain.part(scale_indices.tolist(), rows) == symbols.tolist()
