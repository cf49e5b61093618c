"""The scale table: what `to_arrays` writes is read back, and nothing that is not a table is."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray

from glc.errors import BundleInvalid
from glc.export.scale_levels import DEFAULT_GRID, build_scale_table
from glc.runtime.scale_table import ScaleTable

TOTAL = 1 << 24


def int32(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def rest(*frequencies: int) -> tuple[int, ...]:
    """These frequencies and one more that makes them add up to 2^24."""
    return (*frequencies, TOTAL - sum(frequencies))


def test_a_table_survives_the_trip_through_an_npz_file() -> None:
    table = build_scale_table(DEFAULT_GRID)
    file = io.BytesIO()
    np.savez(file, **table.to_arrays())  # type: ignore[arg-type]
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        again = ScaleTable.from_arrays(arrays["scale_reach"], arrays["scale_frequencies"])
    assert again.reach.tolist() == table.reach.tolist()
    assert [row.tolist() for row in again.frequencies] == [row.tolist() for row in table.frequencies]


def test_the_arrays_are_int32_vectors_with_the_rows_in_turn() -> None:
    rows = (np.array(rest(5, 6, 7)), np.array(rest(1, 2, 3, 4, 5)))
    arrays = ScaleTable(int32(1, 2), rows).to_arrays()
    assert {name: array.dtype for name, array in arrays.items()} == {
        "scale_reach": np.int32,
        "scale_frequencies": np.int32,
    }
    assert arrays["scale_reach"].tolist() == [1, 2]
    assert arrays["scale_frequencies"].tolist() == [*rest(5, 6, 7), *rest(1, 2, 3, 4, 5)]


@pytest.mark.parametrize("levels", [1, 256])
def test_the_fewest_and_the_most_levels_are_read(levels: int) -> None:
    table = ScaleTable.from_arrays(int32(*[1] * levels), int32(*rest(1, 1, 1) * levels))
    assert len(table.frequencies) == levels
    assert table.frequencies[-1].tolist() == [1, 1, 1, TOTAL - 3]


@pytest.mark.parametrize(
    ("reach", "frequencies"),
    [
        pytest.param(np.array([1]), int32(*rest(1, 1, 1)), id="reach is int64"),
        pytest.param(np.array([1.0]), int32(*rest(1, 1, 1)), id="reach is float"),
        pytest.param(np.array([1], ">i4"), int32(*rest(1, 1, 1)), id="reach is in the other byte order"),
        pytest.param(int32(1), np.array(rest(1, 1, 1)), id="frequencies are int64"),
        pytest.param(int32(1), np.array(rest(1, 1, 1), np.float32), id="frequencies are float"),
        pytest.param(int32(1), np.array(rest(1, 1, 1), object), id="frequencies are objects"),
        pytest.param(int32(1).reshape(()), int32(*rest(1, 1, 1)), id="reach is a scalar"),
        pytest.param(int32(1).reshape(1, 1), int32(*rest(1, 1, 1)), id="reach is a matrix"),
        pytest.param(int32(1), int32(*rest(1, 1, 1)).reshape(1, 4), id="frequencies are a matrix"),
        pytest.param(int32(), int32(), id="no levels"),
        pytest.param(int32(), int32(*rest(1, 1, 1)), id="frequencies without levels"),
        pytest.param(int32(1), int32(), id="levels without frequencies"),
        pytest.param(int32(*[1] * 257), int32(*rest(1, 1, 1) * 257), id="more than 256 levels"),
        pytest.param(int32(0), int32(*rest(1)), id="reach 0"),
        pytest.param(int32(-1, 2), int32(*rest(1, 1, 1, 1, 1)), id="negative reach"),
        pytest.param(int32(-(2**31)), int32(*rest(1, 1, 1)), id="smallest int32 reach"),
        pytest.param(int32(2**31 - 1), int32(*rest(1, 1, 1)), id="largest int32 reach"),
        pytest.param(int32(1), int32(*rest(1, 1)), id="a frequency short"),
        pytest.param(int32(1), int32(*rest(1, 1, 1, 1)), id="a frequency too many"),
        pytest.param(int32(1, 2), int32(*rest(1, 1, 1, 1, 1), *rest(1, 1, 1)), id="reaches in another order"),
        pytest.param(int32(1), int32(1, 0, 1, TOTAL - 2), id="a frequency of 0"),
        pytest.param(int32(1), int32(1, -1, 1, TOTAL - 1), id="a negative frequency"),
        pytest.param(int32(1), int32(1, 1, 1, TOTAL - 4), id="a sum below 2^24"),
        pytest.param(int32(1), int32(1, 1, 1, TOTAL - 2), id="a sum above 2^24"),
        pytest.param(int32(1, 1), int32(1, 1, 1, TOTAL - 2, 1, 1, 1, TOTAL - 4), id="sums right only together"),
        pytest.param(int32(3), int32(*[2**30] * 3, *[1] * 4, 2**30 + TOTAL - 4), id="a sum right only modulo 2^32"),
    ],
)
def test_arrays_that_are_no_table_are_refused(reach: NDArray[np.generic], frequencies: NDArray[np.generic]) -> None:
    with pytest.raises(BundleInvalid, match="scale table"):
        ScaleTable.from_arrays(reach, frequencies)


def test_the_error_names_the_row_at_fault() -> None:
    with pytest.raises(BundleInvalid, match="row 2 must hold 4 positive integers"):
        ScaleTable.from_arrays(int32(1, 1, 1), int32(*rest(1, 1, 1) * 2, 1, 1, 1, 1))


def test_a_table_cannot_be_built_with_a_reach_for_each_of_other_rows() -> None:
    with pytest.raises(BundleInvalid, match="scale table"):
        ScaleTable(int32(1, 1), (np.array(rest(1, 1, 1)),))
