"""Images that lie in the memory of others: read and written there."""

from __future__ import annotations

import array
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.engines.test_host_arrays import LENDERS, Interface
from tests.runtime.conftest import SMALL
from tests.runtime.held_engine import HeldLoader, held_codec

import glc


@pytest.fixture(scope="module")
def demo() -> Iterator[glc.Codec]:
    with glc.Codec.open(threads=1) as opened:
        yield opened


@pytest.mark.parametrize("lender", list(LENDERS))
def test_an_image_is_encoded_from_and_decoded_into_what_others_lend(lender: str, demo: glc.Codec) -> None:
    data = demo.encode(SMALL)
    assert demo.encode(LENDERS[lender](SMALL.copy())) == data
    out = LENDERS[lender](np.zeros_like(SMALL))
    assert demo.decode(data, out=out) is out
    # Decoded, it is encoded like what a call without `out` gives.
    assert demo.encode(out) == demo.encode(demo.decode(data))


def test_the_engine_reads_the_very_memory_of_the_caller() -> None:
    loader = HeldLoader()
    with held_codec(loader) as codec:
        codec.encode(SMALL)
        for image in (SMALL, SMALL.data, Interface(SMALL), torch.from_numpy(SMALL.copy())):
            loader.fed.clear()
            codec.encode(image)
            (fed,) = (feeds["image"] for feeds in loader.fed if "image" in feeds)
            address = image.data_ptr() if isinstance(image, torch.Tensor) else SMALL.ctypes.data
            assert fed.ctypes.data == address
            assert fed.strides[1:] == SMALL.strides


@pytest.mark.parametrize(
    "window",
    [
        lambda canvas: canvas[3:43, 5:75],
        lambda canvas: canvas[42:2:-1, 74:4:-1],
        lambda canvas: canvas[::2, ::2][:40, :70],
    ],
    ids=["a window", "upside down", "every second pixel"],
)
@pytest.mark.parametrize("lender", ["numpy", "memoryview", "array interface", "DLPack"])
def test_an_image_is_decoded_into_a_part_of_a_larger_one(
    window: Callable[[Any], Any], lender: str, demo: glc.Codec
) -> None:
    data = demo.encode(SMALL)
    canvas = np.full((90, 150, 3), 9, np.uint8)
    expected = canvas.copy()
    window(expected)[...] = demo.decode(data)
    demo.decode(data, out=LENDERS[lender](window(canvas)))
    np.testing.assert_array_equal(canvas, expected)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        pytest.param(bytes(60), ValueError, r"shape \(H, W, 3\).*got \(60,\)", id="bytes have no shape"),
        pytest.param(array.array("B", bytes(60)), ValueError, r"got \(60,\)", id="nor has an array of Python's"),
        pytest.param(array.array("f", [0]), TypeError, "uint8; got a buffer with elements of format 'f'", id="floats"),
        pytest.param(torch.zeros(4, 5, 3), TypeError, "uint8; got float32", id="a tensor of floats"),
        pytest.param(torch.zeros(3, 4, 5, dtype=torch.uint8), ValueError, r"got \(3, 4, 5\)", id="channels first"),
        pytest.param("photo.png", TypeError, "buffer protocol, __array_interface__ or DLPack; got str", id="a path"),
    ],
)
def test_what_holds_no_image_says_what_was_expected(
    image: Any, error: type[Exception], message: str, demo: glc.Codec
) -> None:
    with pytest.raises(error, match=f"^image must .*{message}"):
        demo.encode(image)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        pytest.param(memoryview(SMALL.tobytes()).cast("B", SMALL.shape), ValueError, "read-only", id="bytes"),
        pytest.param(bytearray(SMALL.nbytes), ValueError, r"shape \(8400,\); the image has \(40, 70, 3\)", id="flat"),
        pytest.param((ctypes.c_float * 3)(), TypeError, "uint8; got a buffer with elements of format", id="floats"),
        pytest.param([0], TypeError, "got list", id="a list"),
    ],
)
def test_what_cannot_be_written_says_why(out: Any, error: type[Exception], message: str, demo: glc.Codec) -> None:
    data = demo.encode(SMALL)
    with pytest.raises(error, match=f"^out .*{message}"):
        demo.decode(data, out=out)
