"""What custom losses need of arrays on a GPU; `_cpu` has the same names for arrays in CPU memory.

Arrays are CuPy's, of its pool, and all work goes to its current stream. Nothing waits for the device: sums are arrays
of no dimension.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusedstep._device import Device
from fusedstep.loss._compile import Broadcast, Program
from fusedstep.loss._emit import OPTIONS, PIECE, PREAMBLE, WARP, Source, emitted

INTEGERS = (np.int32, np.int64, np.uint8, np.bool_)


class Place:
    """The memory of one GPU.

    Attributes
    ----------
    device : Device
        Which.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.empty, self.zeros = device.empty, device.zeros
        self.view, self.real = device.array, device.real

    def gradient(self, x: Any, out: Any, grad: bool) -> Any:
        """Return the array that the gradient is written to: `out` where it is given."""
        if not grad:
            if out is not None:
                raise ValueError("out: expected None where grad=False")
            return None
        if out is None:
            return self.empty(x.shape, x.dtype)
        array = self.real(out, "out")
        if array.dtype != x.dtype:
            raise TypeError(f"out: expected dtype {x.dtype}, got {array.dtype}")
        if array.shape != x.shape:
            raise ValueError(f"out: expected shape {x.shape}, got {array.shape}")
        return array

    def run(
        self, program: Program, arrays: Sequence[Any], numbers: Sequence[float], targets: Sequence[Any], out: Any
    ) -> list[Any]:
        """Run a program, as `_cpu.run`. What is summed to a shape is written in full before."""
        x = arrays[0]
        inputs = [self._broadcast(array, name, x, out) for array, name in zip(arrays, program.inputs, strict=True)]
        columns = x.shape[-1] if program.by_row else PIECE
        rows = -(-x.size // columns)
        sums = tuple(to is None for to in targets)
        written = [
            self.empty((rows,), np.float64) if to is None else self.empty(x.shape, x.dtype) if _spread(to) else to
            for to in targets
        ]
        recording = None
        if rows:
            recording = self.device.recording()
            self.device.stream()  # the arrays' GPU is the current one
            if sums not in program.kernels:
                program.kernels[sums] = _kernel(self.device.cupy, emitted(program, sums))
            program.kernels[sums](*inputs, *numbers, x.size, columns, *written, size=WARP * rows)
        results = [
            _total(self.device.cupy)(array) if to is None else _summed(array, to.shape) if _spread(to) else array
            for array, to in zip(written, targets, strict=True)
        ]
        if recording:
            name, *flops = program.expression.description
            columns = x.shape[-1] if program.by_row else 1
            recording.add("custom_loss", name, x.dtype, 0, (x.size, columns, *_moved(arrays, targets), *flops))
        return results

    def _broadcast(self, array: Any, name: str, x: Any, out: Any) -> Any:
        """View an input in the shape of the first one."""
        if array.dtype != x.dtype and array.dtype.type not in INTEGERS:
            raise TypeError(f"{name}: expected dtype {x.dtype}, int32, int64, uint8 or bool, got {array.dtype}")
        try:
            whole = self.device.cupy.broadcast_to(array, x.shape)
        except ValueError:
            message = f"{name}: expected a shape that broadcasts to {x.shape}, got {array.shape}"
            raise ValueError(message) from None
        in_place = array.data.ptr == x.data.ptr and _alike(array, x)
        if out is not None and _overlap(array, out) and not (in_place and out.data.ptr == x.data.ptr):
            raise ValueError(f"out: expected memory of its own, got an overlap with {name}")
        return whole


def _moved(arrays: Sequence[Any], targets: Sequence[Any]) -> tuple[int, int]:
    """Give the bytes read and written, for the profiler: sums to a shape are doubles, read and written."""
    sums = [16 * math.prod(to.shape) for to in targets if _spread(to)]
    return sum(int(array.nbytes) for array in arrays), sum(
        sums + [int(to.nbytes) for to in targets if to is not None and not _spread(to)]
    )


def _spread(to: Any) -> bool:
    return isinstance(to, Broadcast)


def _alike(a: Any, b: Any) -> bool:
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.flags.c_contiguous)


def _overlap(a: Any, b: Any) -> bool:
    """Whether the memory between the first and the last element of both overlaps."""
    (a_low, a_high), (b_low, b_high) = _extent(a), _extent(b)
    return a_low < b_high and b_low < a_high


def _extent(array: Any) -> tuple[int, int]:
    if not array.size:
        return 0, 0
    ends = [stride * (n - 1) for stride, n in zip(array.strides, array.shape, strict=True)]
    low = array.data.ptr + sum(min(end, 0) for end in ends)
    return low, array.data.ptr + sum(max(end, 0) for end in ends) + array.itemsize


def _kernel(cupy: Any, source: Source) -> Any:
    return cupy.ElementwiseKernel(
        *source, name="fusedstep_custom_loss", preamble=PREAMBLE, options=OPTIONS, no_return=True
    )


@functools.cache
def _total(cupy: Any) -> Any:
    """Return the sum of the rows' sums, in an order that their number decides."""
    return cupy.ReductionKernel("float64 x", "float64 y", "x", "a + b", "y = a", "0", name="fusedstep_total")


def _summed(array: Any, shape: tuple[int, ...]) -> Any:
    """Return the sum over the axes that `shape` was broadcast along, added in double."""
    extra = array.ndim - len(shape)
    axes = tuple(i for i in range(array.ndim) if i < extra or (shape[i - extra] == 1 and array.shape[i] != 1))
    return array.sum(axis=axes, dtype=np.float64).reshape(shape).astype(array.dtype)
