"""Sums over the rows of arrays on a GPU."""

from typing import Any

import numpy as np

from fusedstep._device import Device


def sum_rows(device: Device, a: Any, b: Any, to: list[Any], *, add: bool) -> None:
    """Sum a, or a·b, over the first axis."""
    room = device.empty((device.core.sums_size(*a.shape),), np.float64)
    device.core.column_sums(a, b, to, add, room, device.launch_stream())
