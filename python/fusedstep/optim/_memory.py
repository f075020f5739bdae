"""Where an optimizer's arrays are, the CPU's memory or a GPU's: how they are looked at, allocated and copied there."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from fusedstep import _array, _core, _device
from fusedstep._array import Array

Name = Callable[[int], str]


class Parameter(NamedTuple):
    """An array that an optimizer updates."""

    array: Any
    address: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: Any  # a NumPy dtype; of arrays in CUDA memory its name
    name: str  # in errors

    @property
    def half(self) -> bool:
        """Whether it is stored in 16 bits, and computed in float32."""
        return self.dtype in ("float16", "bfloat16")

    @property
    def scalar(self) -> Any:
        """The dtype of its states."""
        return "float32" if self.half else self.dtype


class Memory(Protocol):
    """What optimizers ask of either."""

    def parameter(self, obj: Any, name: str) -> Parameter:
        """Check an array that will be updated in place."""

    def plan(self, keys: Sequence[str] | None, single: bool) -> Any:
        """Make the compiled plan."""

    def empty_state(self, like: Parameter) -> Any:
        """Allocate a state, which is yet to be written."""

    def fill(self, to: Any, value: Any) -> None:
        """Write a number, an ndarray or an array of this memory into a state."""

    def master(self, of: Parameter) -> Any:
        """Copy a half-precision parameter as float32; None for another one."""

    def on_cpu(self, state: Any) -> Array:
        """Return a state as an ndarray, a copy where it is elsewhere."""


class _CPU:
    def parameter(self, obj: Any, name: str) -> Parameter:
        array = _array.parameter(obj, name)
        return Parameter(array, array.ctypes.data, array.nbytes, array.shape, array.dtype, name)

    def plan(self, keys: Sequence[str] | None, single: bool) -> Any:
        return _core.Plan(keys, single)

    def empty_state(self, like: Parameter) -> Array:
        return _core.zeros(like.shape, like.dtype)

    def fill(self, to: Array, value: Any) -> None:
        to[...] = value

    def master(self, of: Parameter) -> Any:
        raise ValueError(f"master: expected float16 or bfloat16 arrays in CUDA memory, got {of.name} in CPU memory")

    def on_cpu(self, state: Array) -> Array:
        return state


class _GPU:
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


def memory_of(arrays: Sequence[Any], name_of: Name) -> Memory:
    """Find the memory that all arrays are in; TypeError where they differ."""
    device = _device.common(arrays, name_of)
    return _CPU() if device is None else _GPU(device)
