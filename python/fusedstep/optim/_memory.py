"""Where an optimizer's arrays are, the CPU's memory or a GPU's: how they are looked at, allocated and copied there."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fusedstep import _array, _core, _device
from fusedstep._array import Array

Name = Callable[[int], str]


class Parameter:
    """An array that an optimizer updates.

    Attributes
    ----------
    dtype : dtype or str
        NumPy's, or the name of that of an array in CUDA memory.
    name : str
        What errors call it.
    """

    __slots__ = ("address", "array", "dtype", "name", "nbytes", "shape")

    def __init__(self, array: Any, address: int, nbytes: int, shape: tuple[int, ...], dtype: Any, name: str) -> None:
        self.array, self.address, self.nbytes = array, address, nbytes
        self.shape, self.dtype, self.name = shape, dtype, name

    @property
    def half(self) -> bool:
        """Whether it is stored in 16 bits, and computed in float32."""
        return self.dtype in ("float16", "bfloat16")

    @property
    def scalar(self) -> Any:
        """The dtype of its states."""
        return "float32" if self.half else self.dtype


class _CPU:
    """What optimizers ask of memory; that of the CPU."""

    def parameter(self, obj: Any, name: str) -> Parameter:
        """Check an array that will be updated in place."""
        array = _array.parameter(obj, name)
        return Parameter(array, array.ctypes.data, array.nbytes, array.shape, array.dtype, name)

    def plan(self, keys: Sequence[str] | None, single: bool) -> Any:
        """Make the compiled plan."""
        return _core.Plan(keys, single)

    def empty_state(self, like: Parameter) -> Any:
        """Allocate a state, which is yet to be written."""
        return _core.zeros(like.shape, like.dtype)

    def fill(self, to: Any, value: Any) -> None:
        """Write a number, an ndarray or an array of this memory into a state."""
        to[...] = value

    def master(self, of: Parameter) -> Any:
        """Copy a half-precision parameter as float32; None for another one."""
        raise ValueError(f"master: expected float16 or bfloat16 arrays in CUDA memory, got {of.name} in CPU memory")

    def on_cpu(self, state: Any) -> Array:
        """Return a state as an ndarray, a copy where it is elsewhere."""
        array: Array = state
        return array


class _GPU(_CPU):
    """The same of a GPU's."""

    def __init__(self, device: _device.Device) -> None:
        self.device = device

    def parameter(self, obj: Any, name: str) -> Parameter:
        address, shape, dtype = self.device.core.parameter(obj, name, self.device)
        itemsize = {"float64": 8, "float32": 4}.get(dtype, 2)
        return Parameter(obj, address, int(np.prod(shape)) * itemsize, shape, dtype, name)

    def plan(self, keys: Sequence[str] | None, single: bool) -> Any:
        return self.device.core.Plan(keys, single, self.device)

    def empty_state(self, like: Parameter) -> Any:
        return self.device.empty(like.shape, like.scalar)

    def fill(self, to: Any, value: Any) -> None:
        self.device.stream()  # on this GPU, or an error
        if isinstance(value, np.ndarray):
            to.set(np.ascontiguousarray(value, to.dtype))
        else:
            to[...] = value

    def master(self, of: Parameter) -> Any:
        if not of.half:
            return None
        bits = self.device.view(of.array, of.address, of.shape, "uint16" if of.dtype == "bfloat16" else "float16")
        # A bfloat16 is the upper half of a float32.
        return (bits.astype("uint32") << 16).view("float32") if of.dtype == "bfloat16" else bits.astype("float32")

    def on_cpu(self, state: Any) -> Array:
        return self.device.asnumpy(state)


def memory_of(arrays: Sequence[Any], name_of: Name) -> _CPU:
    """Find the memory that all arrays are in; TypeError where they differ."""
    device = _device.common(arrays, name_of)
    return _CPU() if device is None else _GPU(device)
