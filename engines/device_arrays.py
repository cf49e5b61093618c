"""Tensors on a GPU: ours, and those of other libraries, taken by DLPack or `__cuda_array_interface__`, not copied."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from glc.engines.cuda import LEGACY_STREAM

_CUDA = 2
"""DLPack's number for memory of a CUDA device."""

_KINDS = {0: "int", 1: "uint", 2: "float"}
"""DLPack's numbers of the types that are exchanged."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTensor:
    """Contiguous elements in the memory of a GPU."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    after: int | None = None
    """Stream whose work must end before they are read or written."""
    owner: object = None
    """What keeps the memory alive; None where a workspace does."""

    @property
    def size_bytes(self) -> int:
        """Of all elements."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


def from_foreign(value: object, name: str) -> DeviceTensor:
    """Take a tensor of another library where it lies.

    Args:
        value: speaks DLPack or `__cuda_array_interface__`.
        name: what the caller calls it, for errors.

    Raises:
        TypeError: it does neither, lies elsewhere, is not contiguous, or has a type of element that is not exchanged.
    """
    # First, since what torch gives by the interface does not name the stream that still writes it.
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        kind = int(value.__dlpack_device__()[0])
        if kind != _CUDA:
            raise TypeError(f"{name} is on DLPack device type {kind}; expected {_CUDA}, CUDA, or a numpy array")
        return _from_capsule(value.__dlpack__(stream=LEGACY_STREAM), name)
    if hasattr(value, "__cuda_array_interface__"):
        return _from_interface(value.__cuda_array_interface__, value, name)
    raise TypeError(
        f"{name} must be a numpy array, or speak the buffer protocol, __array_interface__, DLPack or "
        f"__cuda_array_interface__; got {type(value).__name__}"
    )


def _from_interface(told: dict[str, Any], owner: object, name: str) -> DeviceTensor:
    dtype, shape = np.dtype(told["typestr"]), tuple(map(int, told["shape"]))
    _require_contiguous(shape, told.get("strides"), dtype.itemsize, name)
    if told.get("mask") is not None:
        raise TypeError(f"{name} is masked; hand over the data alone")
    address, read_only = told["data"]
    if read_only and name == "out":
        raise TypeError("out is read-only")
    # Version 3 names a stream, or None where the data is there already; before, it can but be the default one.
    return DeviceTensor(int(address), shape, dtype, told.get("stream", LEGACY_STREAM), owner)


class _Tensor(ctypes.Structure):
    """DLTensor of DLPack's ABI."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_capsule(capsule: object, name: str) -> DeviceTensor:
    """Read a capsule. It is kept, not consumed: its producer frees the tensor when the capsule goes."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = ctypes.cast(get(capsule, b"dltensor"), ctypes.POINTER(_Tensor)).contents
    if tensor.code not in _KINDS or tensor.lanes != 1:
        raise TypeError(f"{name} has elements of DLPack type {tensor.code}; expected uint8")
    dtype = np.dtype(f"{_KINDS[tensor.code]}{tensor.bits}")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = [dtype.itemsize * s for s in tensor.strides[: tensor.ndim]] if tensor.strides else None
    _require_contiguous(shape, strides, dtype.itemsize, name)
    return DeviceTensor((tensor.data or 0) + tensor.byte_offset, shape, dtype, LEGACY_STREAM, capsule)


def _require_contiguous(shape: tuple[int, ...], strides: Any, itemsize: int, name: str) -> None:
    expected, step = [], itemsize
    for size in reversed(shape):
        expected.append(step)
        step *= size
    if strides is not None and any(
        size > 1 and found != wanted for size, found, wanted in zip(shape, strides, reversed(expected), strict=True)
    ):
        raise TypeError(f"{name} is not contiguous: rows of pixels, each red, green, blue, must follow each other")
