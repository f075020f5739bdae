"""Frozen weights on a GPU: a snapshot, and the word that their arrays are not to be written.

CuPy's arrays have no read-only flag. So the compiled module keeps the addresses, and optimizers and whatever else of
this package would write there refuse; CuPy's own writes pass, and do not show before `unfreeze`. Nothing is packed:
cuBLAS takes weights as they are. As "bfloat16" they are float32 arrays of rounded values, as "int8" of codes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusedstep._array import Array
from fusedstep._device import Device
from fusedstep.rnn._cuda.int8 import Codes

MATRICES = ("weight_ih", "weight_hh", "weight_hr")


def rounded(array: Array) -> Array:
    """Round float32 to 8 significant bits, to nearest, ties to even: bfloat16's values."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def snapshot(device: Device, weights: Mapping[str, Any], form: str) -> dict[str, Any]:
    """Copy weights; as "bfloat16" or "int8" the matrices are rounded, for which they pass CPU memory."""

    def copied(name: str, array: Any) -> Any:
        if name not in MATRICES or form not in ("bfloat16", "int8"):
            return array.copy()
        if form == "int8":
            return Codes.of(device, array)
        return device.from_numpy(rounded(device.asnumpy(array)))

    return {name: copied(name, array) for name, array in weights.items()}


class Freezable:
    """Directions' weights, and while frozen what calls take in their place."""

    def __init__(self, device: Device, weights: Sequence[dict[str, Any]]) -> None:
        self.device = device
        self.weights = weights
        self._snapshot: list[dict[str, Any]] | None = None
        self._guard: Any = None

    @property
    def frozen(self) -> bool:
        """Whether there is a snapshot."""
        return self._snapshot is not None

    @property
    def used(self) -> Sequence[dict[str, Any]]:
        """What a call takes that begins now."""
        return self._snapshot or self.weights

    def freeze(self, form: str = "") -> None:
        """Take a snapshot of the weights as they are now."""
        self._snapshot = [snapshot(self.device, own, form) for own in self.weights]
        ranges = [(array.data.ptr, array.nbytes) for own in self.weights for array in own.values()]
        self._guard = self.device.core.Frozen(ranges)

    def unfreeze(self) -> None:
        """Drop it."""
        self._snapshot = self._guard = None
