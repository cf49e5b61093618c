"""The seam between the codec and engines: specifications of tensors, and what feeds are held against."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from glc.engines import Array, TensorSpec
from glc.engines.processor import available_threads, processor_name
from glc.engines.protocol import check_feeds
from glc.errors import EngineFailed

IMAGE = TensorSpec("image", "uint8", (1, None, None, 3))
ROW = TensorSpec("q_row", "float32", (1, 4, 1, 1))


@pytest.mark.parametrize(
    ("array", "accepted"),
    [
        pytest.param(np.zeros((1, 2, 9, 3), np.uint8), True, id="any size"),
        pytest.param(np.zeros((1, 0, 9, 3), np.uint8), True, id="no rows"),
        pytest.param(np.zeros((1, 4, 18, 3), np.uint8)[:, ::2, ::-2], True, id="any strides"),
        pytest.param(np.zeros((1, 2, 9, 4), np.uint8), False, id="a fixed size is another"),
        pytest.param(np.zeros((2, 2, 9, 3), np.uint8), False, id="a batch"),
        pytest.param(np.zeros((2, 9, 3), np.uint8), False, id="an axis is missing"),
        pytest.param(np.zeros((1, 1, 2, 9, 3), np.uint8), False, id="an axis too many"),
        pytest.param(np.zeros((1, 2, 9, 3), np.int8), False, id="int8"),
        pytest.param(np.zeros((1, 2, 9, 3), bool), False, id="bool"),
        pytest.param(np.zeros((1, 2, 9, 3), np.float32), False, id="float32"),
    ],
)
def test_a_spec_accepts_its_data_type_and_shape_alone(array: Any, accepted: bool) -> None:
    assert IMAGE.accepts(array) is accepted


def test_a_spec_does_not_accept_another_byte_order() -> None:
    assert ROW.accepts(np.zeros((1, 4, 1, 1), np.dtype("=f4")))
    assert not ROW.accepts(np.zeros((1, 4, 1, 1), np.dtype("=f4").newbyteorder()))


def test_a_spec_reads_well_in_messages() -> None:
    assert str(IMAGE) == "image uint8 [1, *, *, 3]"
    assert str(TensorSpec("scalar", "int32", ())) == "scalar int32 []"


def test_specs_are_equal_by_value() -> None:
    assert TensorSpec("image", "uint8", (1, None, None, 3)) == IMAGE
    assert TensorSpec("image", "uint8", (1, None, None, 4)) != IMAGE


def test_right_feeds_pass_in_any_order() -> None:
    feeds: dict[str, Array] = {"q_row": np.ones((1, 4, 1, 1), np.float32), "image": np.ones((1, 5, 6, 3), np.uint8)}
    check_feeds((IMAGE, ROW), feeds)
    check_feeds((), {})


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        pytest.param({}, "expected the inputs ['image', 'q_row']; got []", id="nothing"),
        pytest.param({"image": 0}, "expected the inputs ['image', 'q_row']; got ['image']", id="one is missing"),
        pytest.param(
            {"image": np.zeros((1, 5, 6, 3), np.uint8), "q_row": np.ones((1, 4), np.float32)},
            "expected the input q_row float32 [1, 4, 1, 1]; got float32 [1, 4]",
            id="another shape",
        ),
        pytest.param(
            {"image": np.zeros((1, 5, 6, 3)), "q_row": np.ones((1, 4, 1, 1), np.float32)},
            "expected the input image uint8 [1, *, *, 3]; got float64 [1, 5, 6, 3]",
            id="another data type",
        ),
    ],
)
def test_wrong_feeds_say_what_was_expected_and_what_came(feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineFailed, match=f"^{re.escape(message)}$"):
        check_feeds((IMAGE, ROW), feeds)


def test_the_processor_is_named_in_one_line_with_a_digest_of_its_features() -> None:
    name = processor_name()
    assert name.isprintable()
    assert re.search(r" [0-9a-f]{8}$", name)


def test_this_process_may_use_at_least_one_thread() -> None:
    assert available_threads() >= 1
