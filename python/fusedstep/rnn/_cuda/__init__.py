"""What modules and cells need of arrays on a GPU; `_cpu` has the same names for arrays in CPU memory.

Arrays are CuPy's, of its pool, and all work goes to its current stream. Nothing waits for the device.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fusedstep import _array, _device
from fusedstep._array import Array
from fusedstep._device import Device
from fusedstep.rnn._cuda.arguments import extent, overlap
from fusedstep.rnn._cuda.cell import Cell, cell_backward, cell_forward
from fusedstep.rnn._cuda.layer import Layer
from fusedstep.rnn._cuda.run import Noise
from fusedstep.rnn._cuda.stream import Stream

name = "cuda"


class Place:
    """The memory of one GPU.

    Attributes
    ----------
    device : Device
        Which.
    """

    name = name
    Noise = Noise

    def __init__(self, device: Device) -> None:
        self.device = device
        self.empty = self.result = device.empty
        self.zeros = device.zeros
        self.view = self.mask = device.array
        self.parameter = device.real

    @classmethod
    def current(cls) -> "Place":
        """Give that of CuPy's current device."""
        return cls(Device.current())

    @staticmethod
    def aligned(array: Any) -> bool:
        """Whether elements are aligned to their size."""
        return bool(array.data.ptr % array.itemsize == 0)

    @staticmethod
    def contiguous(array: Any) -> Any:
        """Give the array, or a C-contiguous copy."""
        return array if array.flags.c_contiguous else array.copy()

    overlap = staticmethod(overlap)

    @staticmethod
    def check_apart(arrays: Sequence[Any], name_of: Callable[[int], str]) -> None:
        """Raise ValueError where two contiguous arrays share memory."""
        extents = sorted((*extent(array), i) for i, array in enumerate(arrays) if array.size)
        for (_, end, first), (begin, _, second) in itertools.pairwise(extents):
            if begin < end:
                raise ValueError(f"{name_of(second)}: expected memory of its own, got an overlap with {name_of(first)}")

    def dropout(self, x: Any, y: Any, p: float, seed: int, layer: int, step: int, row: int) -> None:
        """Apply a dropout mask to (T, B, n): the CPU's."""
        recording = self.device.recording()
        self.device.core.dropout(x, y, p, seed, layer, step, row, self.device.launch_stream())
        if recording:
            recording.add("dropout", "dropout", x.dtype, 0, (x.size,))

    def source(self, obj: Any, name: str) -> Any:
        """View what may be copied into the weights: an array of the GPU or of CPU memory."""
        return self.view(obj, name) if _device.is_cuda(obj) else _array.view(obj, name)

    def assign(self, to: Any, array: Any) -> None:
        """Copy into a weight."""
        to[...] = self.from_host(array) if isinstance(array, np.ndarray) else array

    def host(self, array: Any) -> Array:
        """Copy to CPU memory."""
        return self.device.asnumpy(array)

    def from_host(self, array: Array) -> Any:
        """Copy from CPU memory."""
        return self.device.from_numpy(array)

    @staticmethod
    def integers(obj: Any, name: str) -> Array:
        """View integers in CPU memory: they decide how many steps there are."""
        if _device.is_cuda(obj):
            raise TypeError(f"{name}: expected integers in CPU memory, got {_device.describe(obj)}")
        return np.asarray(obj)

    def cell_forward(self, *arguments: Any) -> Any:
        """Take a step: `_core.cell_forward`."""
        return cell_forward(self.device, *arguments)

    def cell_backward(self, *arguments: Any) -> Any:
        """Take a step back: `_core.cell_backward`."""
        return cell_backward(self.device, *arguments)

    @staticmethod
    def taped_weights(cell: Cell, _: Any) -> Any:
        """Give the weights that a step back takes: a frozen cell's arrays may be written meanwhile."""
        return cell.used[0]

    def Layer(self, kind: str, weights: list[dict[str, Any]]) -> Layer:
        """Make what runs a layer of these directions."""
        return Layer(self.device, kind, weights)

    def Cell(self, kind: str, weights: dict[str, Any]) -> Cell:
        """Make what takes a cell's steps."""
        return Cell(self.device, kind, weights)

    def Stream(self, kind: str, layers: list[dict[str, Any]], batch: int, _: int, weights: str, noise: Any) -> Stream:
        """Make what takes a module's steps one at a time."""
        return Stream(self.device, kind, layers, batch, weights, noise)
