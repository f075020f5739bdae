"""Sums over the steps and rows of arrays on a GPU."""

from typing import Any

import numpy as np

from fusedstep._device import Device


def flat(array: Any) -> Any:
    """View (a, b, n) as (a·b, n)."""
    return array.reshape(array.shape[0] * array.shape[1], array.shape[2])


def sum_rows(device: Device, a: Any, b: Any, to: list[Any], *, add: bool) -> None:
    """Sum a, or a·b, over the first axis."""
    room = device.empty((device.core.sums_size(*a.shape),), np.float64)
    device.core.column_sums(a, b, to, add, room, device.launch_stream())
