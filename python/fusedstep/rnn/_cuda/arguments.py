"""The checks of a step's arguments on a GPU, with the errors of the CPU's (csrc/python)."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusedstep._device import Device


@functools.cache
def _cells(core: Any) -> dict[str, Any]:
    cells: dict[str, Any] = core.recurrent_cells()
    return cells


def cell_of(device: Device, kind: str) -> Any:
    """Give what the kernels say of a cell: gates, states, values (of a tape), state_gates, separate, peepholes."""
    return _cells(device.core)[kind]


def float_array(device: Device, obj: Any, name: str) -> Any:
    """View an array of float32 or float64."""
    array = device.array(obj, name)
    if array.dtype.type not in (np.float32, np.float64):
        raise TypeError(f"{name}: expected a float32 or float64 array, got dtype {array.dtype}")
    if array.data.ptr % array.itemsize:
        raise ValueError(f"{name}: expected elements aligned to their size, got a misaligned array")
    return array


def check_shape(array: Any, name: str, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")


def check_dtype(array: Any, name: str, like: Any) -> None:
    if array.dtype != like.dtype:
        raise TypeError(f"{name}: expected dtype {like.dtype}, got {array.dtype}")


def check_contiguous(array: Any, name: str) -> None:
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array, got shape {array.shape} with strides {array.strides}")


def rows(array: Any, name: str, like: Any, vector: bool, B: int, n: int) -> Any:
    """Check B rows of n elements, which may lie apart, or one row given as a vector; give (B, n)."""
    check_dtype(array, name, like)
    check_shape(array, name, (n,) if vector else (B, n))
    if vector or (n > 1 and array.strides[1] != array.itemsize) or (array.size and array.strides[0] <= 0):
        check_contiguous(array, name)
    return array[None] if vector else array


def extent(array: Any) -> tuple[int, int]:
    """Give the addresses of an array's first byte and past its last."""
    first = last = int(array.data.ptr)
    if array.size == 0:
        return first, first
    for n, stride in zip(array.shape, array.strides, strict=True):
        first, last = first + min(0, stride * (n - 1)), last + max(0, stride * (n - 1))
    return first, last + int(array.itemsize)


def overlap(a: Any, b: Any) -> bool:
    """Whether two arrays may share memory."""
    (begin, end), (first, last) = extent(a), extent(b)
    return begin < last and first < end


def checked_weights(device: Device, kind: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Check the weights of a step, and give those that are there."""
    cell = cell_of(device, kind)
    gates, peepholes = cell["gates"], len(cell["peepholes"])
    arrays = {name: float_array(device, obj, name) for name, obj in weights.items() if obj is not None}
    for name in ("weight_ih", "weight_hh"):
        if name not in arrays:
            raise TypeError(f"{name}: expected an array, got None")
    if ("weight_ch" in arrays) != (peepholes > 0):
        got = f"{kind} has no peepholes" if "weight_ch" in arrays else "expected an array, got None"
        raise ValueError(f"weight_ch: {got}")
    ih, hh = arrays["weight_ih"], arrays["weight_hh"]
    if hh.ndim != 2 or hh.shape[1] < 1 or hh.shape[0] != gates * hh.shape[1]:
        raise ValueError(f"weight_hh: expected shape ({gates}*hidden_size, hidden_size), got {hh.shape}")
    GH, H = hh.shape
    if ih.ndim != 2:
        raise ValueError(f"weight_ih: expected shape ({GH}, input_size), got {ih.shape}")
    shapes = {"weight_ih": (GH, ih.shape[1]), "bias_ih": (GH,), "bias_hh": (GH,), "weight_ch": (peepholes, H)}
    for name, shape in shapes.items():
        if name in arrays:
            check_shape(arrays[name], name, shape)
    for name, array in arrays.items():
        check_dtype(array, name, ih)
        check_contiguous(array, name)
    return arrays
