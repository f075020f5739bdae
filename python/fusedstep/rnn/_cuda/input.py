"""A sequence on a GPU as products take it."""

from collections.abc import Callable
from typing import Any

from fusedstep._device import Device


def flat(array: Any) -> Any:
    """View (a, b, n) as (a·b, n)."""
    return array.reshape(array.shape[0] * array.shape[1], array.shape[2])


class Input:
    """x (T, B, I) as products take it: contiguous in one of both orders, zeros where a row has ended."""

    def __init__(self, device: Device, x: Any, lengths: Any) -> None:
        T, B, width = x.shape
        self.device = device
        self.dtype = x.dtype
        self.shape = T, B
        self.batch_first = T > 1 and B > 1 and abs(x.strides[1]) > abs(x.strides[0])
        self.copied = lengths is not None or not self._ordered(x).flags.c_contiguous
        self.array = self.room(width) if self.copied else x
        if self.copied:
            device.core.copy_rows(x, self.array, lengths, device.launch_stream())

    def _ordered(self, array: Any) -> Any:
        return array.swapaxes(0, 1) if self.batch_first else array

    def room(self, width: int, make: Callable[..., Any] | None = None) -> Any:
        """Make an array (T, B, width) in the order of x."""
        T, B = self.shape
        shape = (B, T, width) if self.batch_first else (T, B, width)
        return self._ordered((make or self.device.empty)(shape, self.dtype))

    def has_order(self, array: Any) -> bool:
        """Whether an array lies as `room` makes them."""
        return bool(self._ordered(array).flags.c_contiguous)

    def rows(self, array: Any) -> Any:
        """View such an array as (T·B, width)."""
        return flat(self._ordered(array))
