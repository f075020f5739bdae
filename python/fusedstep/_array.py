"""Arrays of other libraries as NumPy views, and the checks that constructors make."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def view(obj: object, name: str) -> Array:
    """View an array-like's memory as an ndarray, without a copy.

    Parameters
    ----------
    obj : array_like
        An ndarray, a CPU tensor of torch (a parameter too), or anything with the buffer protocol, ``__array__`` or
        ``__dlpack__`` over memory of its own.
    name : str
        What errors call it.

    Returns
    -------
    ndarray
        Shares memory with `obj`.

    Raises
    ------
    TypeError
        `obj` is not an array, or its memory cannot be shared (a list, a scalar, a tensor on a GPU).
    """
    if isinstance(obj, np.ndarray):
        return obj
    if not isinstance(obj, list | tuple | str | bytes | int | float | complex | dict):
        from fusedstep import _device  # noqa: PLC0415

        if _device.is_cuda(obj):  # whose exports would copy, or wait
            raise TypeError(f"{name}: expected a float32 or float64 array in CPU memory, got {_describe(obj)}")
        detach = getattr(obj, "detach", None)  # torch refuses to export a tensor that requires a gradient
        source = detach() if callable(detach) else obj
        for export in (_from_interface, _from_dlpack):
            array = export(source)
            if array is not None:
                return array
    raise TypeError(f"{name}: expected a float32 or float64 array in CPU memory, got {_describe(obj)}")


def _from_interface(obj: Any) -> Array | None:
    """View through the buffer protocol or ``__array__``; None where that copies or fails."""
    try:
        first, second = np.asarray(obj), np.asarray(obj)
    except (TypeError, ValueError, RuntimeError):
        return None
    shared = first.ctypes.data == second.ctypes.data or first.size == 0
    return first if shared and first.dtype != object else None


def _from_dlpack(obj: Any) -> Array | None:
    """View through DLPack; None where the producer refuses."""
    if not hasattr(obj, "__dlpack__"):
        return None
    try:
        return np.from_dlpack(obj)
    except (TypeError, ValueError, RuntimeError, BufferError):
        return None


def _describe(obj: object) -> str:
    device = getattr(obj, "device", None)
    kind = type(obj).__name__
    return kind if device is None or str(device) == "cpu" else f"{kind} on {device}"


def parameter(obj: object, name: str) -> Array:
    """View an array that will be updated in place.

    Raises
    ------
    TypeError
        It is not a float32 or float64 array in native byte order.
    ValueError
        It is not C-contiguous, aligned and writeable.
    """
    array = view(obj, name)
    if array.dtype.type not in (np.float32, np.float64) or not array.dtype.isnative:
        raise TypeError(f"{name}: expected a float32 or float64 array, got dtype {array.dtype}")
    for flag, rule in (
        (array.flags.c_contiguous, "a C-contiguous array"),
        (array.flags.aligned, "elements aligned to their size"),
    ):
        if not flag:
            raise ValueError(f"{name}: expected {rule}, got shape {array.shape} with strides {array.strides}")
    if not array.flags.writeable:
        raise ValueError(f"{name}: expected a writeable array, got a read-only one")
    return array


def check_apart(arrays: Sequence[Array], name_of: Callable[[int], str]) -> None:
    """Raise ValueError where two contiguous arrays share memory."""
    check_extents_apart([(a.ctypes.data, a.nbytes) for a in arrays], name_of)


def check_extents_apart(extents: Sequence[tuple[int, int]], name_of: Callable[[int], str]) -> None:
    """Raise ValueError where two of (address, number of bytes) overlap."""
    sorted_extents = sorted((begin, begin + nbytes, i) for i, (begin, nbytes) in enumerate(extents) if nbytes)
    for (_, end, first), (begin, _, second) in itertools.pairwise(sorted_extents):
        if begin < end:
            raise ValueError(f"{name_of(second)}: expected memory of its own, got an overlap with {name_of(first)}")
