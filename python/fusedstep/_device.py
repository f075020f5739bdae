"""Arrays on a GPU: the one place that knows CuPy.

Memory comes from CuPy's pool, work goes to its current stream, matrix products are its own. CuPy and the compiled
module are imported when an array in CUDA memory is first seen.
"""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from fusedstep import _record
from fusedstep._array import Array

# DLPack's kDLCUDA and kDLCUDAManaged.
_CUDA = (2, 13)


def is_cuda(obj: object) -> bool:
    """Tell whether `obj` is an array in CUDA memory."""
    if isinstance(obj, np.ndarray):
        return False
    device = getattr(type(obj), "__dlpack_device__", None)
    if device is not None:
        try:
            kind: int = device(obj)[0]
        except (BufferError, TypeError, ValueError):  # torch's tensors without memory
            return False
        return kind in _CUDA
    return hasattr(type(obj), "__cuda_array_interface__")


def describe(obj: object) -> str:
    """Say what an argument is, and where."""
    device = getattr(obj, "device", None)
    return type(obj).__name__ if device is None else f"{type(obj).__name__} on {device}"


@functools.cache
def _modules() -> tuple[ModuleType, Any]:
    """Import CuPy and the compiled module, and look for a driver."""
    try:
        from fusedstep import _cuda  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "arrays in CUDA memory need fusedstep built with CUDA; this build is without it (FUSEDSTEP_CUDA=ON)"
        ) from error
    try:
        import cupy  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("arrays in CUDA memory need CuPy: pip install 'fusedstep[cuda13]'") from error
    _cuda.check_driver()
    return cupy, _cuda


def wait_for(stream: int) -> None:
    """Let CuPy's current stream wait for what is now in another one, given by its address."""
    cupy, _ = _modules()
    cupy.cuda.get_current_stream().wait_event(cupy.cuda.ExternalStream(stream).record())


def common(arrays: Sequence[Any], name_of: Callable[[int], str]) -> "Device | None":
    """Find where the arrays of a call are.

    Parameters
    ----------
    arrays : sequence of object
        Arrays; None is passed over.
    name_of : callable
        What errors call the array at an index.

    Returns
    -------
    Device or None
        The GPU that all are on; None where none is in CUDA memory.

    Raises
    ------
    TypeError
        Some are in CUDA memory and some not, or on different GPUs.
    """
    for obj in arrays:
        if obj is not None and not isinstance(obj, np.ndarray):
            break
    else:
        return None
    on_cuda = [i for i, obj in enumerate(arrays) if obj is not None and is_cuda(obj)]
    if not on_cuda:
        return None
    first = on_cuda[0]
    for i, obj in enumerate(arrays):
        if obj is not None and i not in on_cuda:
            raise TypeError(
                f"{name_of(i)}: expected an array in CUDA memory as {name_of(first)} is, got {describe(obj)}"
            )
    numbers = [_number(arrays[i]) for i in on_cuda]
    for i, number in zip(on_cuda, numbers, strict=True):
        if number != numbers[0]:
            raise TypeError(
                f"{name_of(i)}: expected an array on GPU {numbers[0]} as {name_of(first)} is, got one on GPU {number}"
            )
    return Device(numbers[0])


def _number(obj: Any) -> int:
    """Return the number of the GPU that an array is on."""
    if hasattr(type(obj), "__dlpack_device__"):
        return int(obj.__dlpack_device__()[1])
    cupy, _ = _modules()
    pointer = obj.__cuda_array_interface__["data"][0]
    # An empty array has no address.
    return int(cupy.cuda.runtime.pointerGetAttributes(pointer).device if pointer else cupy.cuda.runtime.getDevice())


def copy(obj: Any) -> Array:
    """Copy any array in CUDA memory to the CPU; waits for it."""
    cupy, _ = _modules()
    own = cupy.asarray(obj) if hasattr(obj, "__cuda_array_interface__") else cupy.from_dlpack(obj)
    array: Array = cupy.asnumpy(own)
    return array


class Device:
    """One GPU: memory, the current stream and matrix products on it.

    Attributes
    ----------
    number : int
        As CUDA counts.
    core : module
        ``fusedstep._cuda``.
    """

    __slots__ = ("core", "cupy", "number")

    def __init__(self, number: int) -> None:
        self.cupy, self.core = _modules()
        self.number = number

    @classmethod
    def current(cls) -> "Device":
        """Return CuPy's current GPU."""
        cupy, _ = _modules()
        return cls(int(cupy.cuda.runtime.getDevice()))

    def stream(self) -> int:
        """Return the address of CuPy's current stream; RuntimeError where CuPy's current device is another one."""
        cuda = self.cupy.cuda
        current = cuda.runtime.getDevice()
        if current != self.number:
            raise RuntimeError(
                f"the arrays are on GPU {self.number}, and CuPy's current device is {current}: "
                f"call within `with cupy.cuda.Device({self.number}):`"
            )
        address: int = cuda.get_current_stream().ptr
        return address

    def launch_stream(self) -> int:
        """Return the same, and let this thread's launches by the compiled module go to this GPU."""
        address = self.stream()
        self.core.use_gpu(self.number)
        return address

    def recording(self) -> _record.Recording | None:
        """Begin to record a call on the current stream for the profiler, if a profile is open."""
        return _record.begin(self)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return a CuPy array that is yet to be written."""
        return self.cupy.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return a CuPy array of zeros."""
        return self.cupy.zeros(shape, dtype)

    def real(self, obj: Any, name: str) -> Any:
        """View an array that must be float32 or float64 and C-contiguous."""
        array = self.array(obj, name)
        if array.dtype.type not in (np.float32, np.float64):
            raise TypeError(f"{name}: expected a float32 or float64 array, got dtype {array.dtype}")
        if not array.flags.c_contiguous:
            raise ValueError(
                f"{name}: expected a C-contiguous array, got shape {array.shape} with strides {array.strides}"
            )
        return array

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        """Write the matrix product of CuPy arrays."""
        self.cupy.matmul(a, b, out=out)

    def broadcast(self, array: Any, shape: tuple[int, ...]) -> Any:
        """View a CuPy array in a larger shape."""
        return self.cupy.broadcast_to(array, shape)

    def array(self, obj: Any, name: str) -> Any:
        """View an array in this GPU's memory as CuPy's, whoever made it; TypeError where it is elsewhere."""
        if not is_cuda(obj):
            raise TypeError(f"{name}: expected an array in CUDA memory, got {describe(obj)}")
        number = _number(obj)
        if number != self.number:
            raise TypeError(f"{name}: expected an array on GPU {self.number}, got one on GPU {number}")
        if isinstance(obj, self.cupy.ndarray):
            return obj
        detach = getattr(obj, "detach", None)  # torch refuses to export a tensor that requires a gradient
        source = detach() if callable(detach) else obj
        exports = hasattr(type(source), "__cuda_array_interface__")
        return self.cupy.asarray(source) if exports else self.cupy.from_dlpack(source)

    def from_numpy(self, array: Array) -> Any:
        """Copy an array of the CPU."""
        return self.cupy.asarray(array)

    def asnumpy(self, array: Any) -> Array:
        """Copy a CuPy array to the CPU; waits for the current stream."""
        copy: Array = self.cupy.asnumpy(array)
        return copy

    def view(self, obj: Any, address: int, shape: tuple[int, ...], dtype: Any) -> Any:
        """View memory that `obj` owns as a CuPy array."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = self.cupy.cuda.UnownedMemory(address, nbytes, obj, self.number)
        return self.cupy.ndarray(shape, dtype, self.cupy.cuda.MemoryPointer(memory, 0))

    def scalars(self, nbytes: int, fields: Sequence[tuple[str, int]]) -> tuple[Any, ...]:
        """Return fresh memory of so many bytes, as a CuPy array, and 0-d views at (dtype, offset) in it."""
        memory = self.cupy.empty(nbytes, np.uint8)
        return memory, *(self.cupy.ndarray((), dtype, memory.data + offset) for dtype, offset in fields)
