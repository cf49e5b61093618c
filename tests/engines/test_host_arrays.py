"""Memory that others lend: taken where it lies, whatever way they lend it, and kept alive."""

from __future__ import annotations

import array
import ctypes
import gc
import mmap
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from glc.engines.host_arrays import host_array

PIXELS = (np.arange(4 * 5 * 3) % 256).astype(np.uint8).reshape(4, 5, 3)


class Interface:
    """Speaks `__array_interface__` alone."""

    def __init__(self, pixels: NDArray[np.uint8], **changes: Any) -> None:
        self.pixels = pixels
        self.__array_interface__ = {**pixels.__array_interface__, **changes}


class Dlpack:
    """Speaks DLPack alone."""

    def __init__(self, pixels: NDArray[np.uint8], device: tuple[int, int] = (1, 0)) -> None:
        self.pixels, self.device = pixels, device

    def __dlpack__(self, **options: Any) -> object:
        return self.pixels.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def _ctypes_array(pixels: NDArray[np.uint8]) -> Any:
    kind: Any = ctypes.c_uint8
    for side in reversed(pixels.shape):
        kind = kind * side
    return kind.from_buffer_copy(pixels.tobytes())


LENDERS: dict[str, Callable[[NDArray[np.uint8]], Any]] = {
    "numpy": lambda pixels: pixels,
    "memoryview": lambda pixels: memoryview(pixels.data),
    "memoryview of a bytearray": lambda pixels: memoryview(bytearray(pixels.tobytes())).cast("B", pixels.shape),
    "memoryview of an mmap": lambda pixels: _mapped(pixels),
    "ctypes": _ctypes_array,
    "array interface": Interface,
    "array interface on its own buffer": lambda pixels: _Flat(pixels),
    "DLPack": Dlpack,
    "pinned, by DLPack": lambda pixels: Dlpack(pixels, (3, 0)),
    "torch": torch.from_numpy,
}


class _Flat(bytearray):
    """A buffer without a shape, which its interface tells."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        super().__init__(pixels.tobytes())
        self.__array_interface__ = {"shape": pixels.shape, "typestr": "|u1", "version": 3, "data": None}


def _mapped(pixels: NDArray[np.uint8]) -> memoryview:
    mapped = mmap.mmap(-1, pixels.nbytes)
    mapped.write(pixels.tobytes())
    return memoryview(mapped).cast("B", pixels.shape)


def _taken(value: object) -> NDArray[Any]:
    found = host_array(value, "image")
    assert found is not None
    return found


@pytest.mark.parametrize("lender", list(LENDERS))
def test_what_is_lent_is_taken_where_it_lies_and_can_be_written(lender: str) -> None:
    value = LENDERS[lender](PIXELS.copy())
    found, again = _taken(value), _taken(value)
    np.testing.assert_array_equal(found, PIXELS)
    assert found.dtype == np.uint8
    assert found.ctypes.data == again.ctypes.data  # twice the same memory: no copy
    found[1, 2] = 77, 88, 99
    np.testing.assert_array_equal(again[1, 2], (77, 88, 99))


@pytest.mark.parametrize("lender", ["numpy", "memoryview", "array interface", "DLPack"])
@pytest.mark.parametrize(
    "view",
    [PIXELS[::-1], PIXELS[:, ::-2], PIXELS[..., ::-1], PIXELS[1:3, 1:4], PIXELS.transpose(1, 0, 2)],
    ids=["upside down", "every second from the right", "channels reversed", "a window", "transposed"],
)
def test_strides_are_kept(lender: str, view: NDArray[np.uint8]) -> None:
    found = _taken(LENDERS[lender](view))
    np.testing.assert_array_equal(found, view)
    assert found.strides == view.strides
    assert found.ctypes.data == view.ctypes.data


def test_read_only_memory_stays_so() -> None:
    frozen = PIXELS.copy()
    frozen.flags.writeable = False
    for value in (frozen, frozen.data, memoryview(frozen.tobytes()), Interface(frozen)):
        assert not _taken(value).flags.writeable


@pytest.mark.parametrize("lender", [Interface, Dlpack])
def test_what_lends_lives_as_long_as_the_array(lender: Callable[[NDArray[np.uint8]], Any]) -> None:
    class Owned(np.ndarray[Any, Any]):
        """An array that can be watched."""

    memory = PIXELS.copy().view(Owned)
    watched = weakref.ref(memory)
    found = _taken(lender(memory))
    del memory
    gc.collect()
    assert watched() is not None
    np.testing.assert_array_equal(found, PIXELS)
    del found
    gc.collect()
    assert watched() is None


def test_a_buffer_is_held_while_it_is_used_and_free_afterwards() -> None:
    memory = bytearray(12)
    found = _taken(memory)
    with pytest.raises(BufferError):
        memory.append(1)
    del found
    memory.append(1)


def test_an_image_of_pillow_is_taken() -> None:
    np.testing.assert_array_equal(_taken(Image.fromarray(PIXELS)), PIXELS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(array.array("f", [1]), "uint8; got a buffer with elements of format 'f'", id="floats"),
        pytest.param(memoryview(b"abc").cast("b"), "uint8; got a buffer with elements of format 'b'", id="int8"),
        pytest.param(Interface(PIXELS, mask=PIXELS), "masked", id="masked"),
        pytest.param(Interface(PIXELS, shape=None), "__array_interface__ that cannot be used", id="no shape"),
        pytest.param(Interface(PIXELS, typestr="?!"), "__array_interface__ that cannot be used", id="no type"),
        pytest.param(torch.zeros(3, requires_grad=True), "cannot be read by DLPack", id="with a gradient"),
    ],
)
def test_what_cannot_be_taken_says_why(value: object, message: str) -> None:
    with pytest.raises(TypeError, match=f"^image .*{message}"):
        host_array(value, "image")


@pytest.mark.parametrize(
    "value", ["text", None, 5, [[1]], object(), Dlpack(PIXELS, (2, 0))], ids=lambda one: type(one).__name__
)
def test_what_lends_nothing_of_the_cpu_is_left_to_the_engine(value: object) -> None:
    assert host_array(value, "image") is None
