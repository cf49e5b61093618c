"""Memory of the CPU that others lend: by the buffer protocol, `__array_interface__` or DLPack; never copied."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_ON_HOST = (1, 3)
"""DLPack's numbers for memory that the CPU reads: its own, and what CUDA pinned."""


class SupportsBuffer(Protocol):
    """What speaks Python's buffer protocol: memoryview, ctypes arrays, mmap, objects of C and C++ extensions.

    `collections.abc.Buffer` of Python 3.12, for 3.11 too.
    """

    def __buffer__(self, flags: int, /) -> memoryview:
        """Lend the memory."""
        ...


class SupportsArrayInterface(Protocol):
    """What says by numpy's protocol where its elements lie, such as an image of Pillow."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Address, shape, strides and type."""
        ...


class SupportsDlpack(Protocol):
    """What speaks DLPack, such as a tensor of torch, CuPy or JAX, on the CPU or on a device."""

    def __dlpack__(self, *, stream: int | None = None) -> object:
        """Give a capsule."""
        ...

    def __dlpack_device__(self) -> tuple[int, int]:
        """Give type and number of the device."""
        ...


LentPixels = NDArray[np.uint8] | SupportsBuffer | SupportsArrayInterface | SupportsDlpack
"""What an image may lie in; where the engine is on a device, also `__cuda_array_interface__` without DLPack."""


def host_array(value: object, name: str) -> NDArray[Any] | None:
    """Take an array, or what others lend, as an array on the same memory, which it keeps alive.

    Args:
        value: what a caller holds, with any strides.
        name: what the caller calls it, for errors.

    Returns:
        The array; None where the value lends no memory of the CPU.

    Raises:
        TypeError: it lends elements that numpy does not know, or refuses to lend them.
    """
    if isinstance(value, np.ndarray):
        return value
    # First, since it tells a shape where the buffer of the same object may be flat.
    interface = getattr(value, "__array_interface__", None)
    if interface is not None:
        return _from_interface(interface, value, name)
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        return _from_dlpack(value, name)
    except (BufferError, ValueError) as error:
        raise TypeError(f"{name} does not lend its memory: {error}") from error
    return _from_view(view, name)


def _from_view(view: memoryview, name: str) -> NDArray[Any]:
    # numpy would take what it does not know for a sequence, and copy it number by number.
    if view.format.lstrip("@=<>!") != "B" or view.suboffsets:
        what = "rows behind pointers" if view.suboffsets else f"elements of format {view.format!r}"
        raise TypeError(f"{name} must be of uint8; got a buffer with {what}")
    return np.asarray(view)


class _Lent:
    """Carries an interface that was asked for once, and keeps alive what it points into."""

    def __init__(self, interface: object, owner: object) -> None:
        self.__array_interface__ = interface
        self._owner = owner


def _from_interface(interface: object, owner: object, name: str) -> NDArray[Any]:
    if isinstance(interface, dict):
        if interface.get("mask") is not None:
            raise TypeError(f"{name} is masked; hand over the data alone")
        if interface.get("data") is None:
            interface = {**interface, "data": owner}  # the object's own buffer, says the protocol
    try:
        return np.asarray(_Lent(interface, owner))
    except (TypeError, ValueError, KeyError, AttributeError, BufferError) as error:
        raise TypeError(f"{name} has an __array_interface__ that cannot be used: {error}") from error


def _from_dlpack(value: object, name: str) -> NDArray[Any] | None:
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        return None
    if int(value.__dlpack_device__()[0]) not in _ON_HOST:
        return None
    try:
        return np.from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise TypeError(f"{name} cannot be read by DLPack: {error}") from error
