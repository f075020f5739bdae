"""Products of int8 codes on a GPU: of weights that are codes, and of rows that become codes as they come.

The CPU's codes and scales (csrc/cpu/int8.h), kept as float32, which cuBLAS multiplies: the same results to rounding,
and neither its speed nor its saving. It tells on a GPU what a model quantised so will do on a CPU.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedstep._array import Array
from fusedstep._device import Device

WIDTH = 1 << 17  # the CPU's limit (kInt8Width, csrc/core/dtype.h)


def quantized(rows: Array) -> tuple[Array, Array]:
    """Give the codes of float32 rows, and the scale of each: csrc/cuda/quantize.cuh, by NumPy."""
    scales = np.abs(rows).max(axis=1) / np.float32(127)
    regular = (scales > 0) & np.isfinite(scales)
    divisors = np.where(regular, scales, np.float32(1))[:, None]
    codes = np.rint(np.clip(rows / divisors, -127, 127))
    return np.where(regular[:, None], codes, np.float32(0)), scales


class Codes(NamedTuple):
    """A weight matrix (N, K): its codes, in float32, and the scale of each row."""

    codes: Any
    scales: Any

    @classmethod
    def of(cls, device: Device, array: Any) -> "Codes":
        """Quantise an array, which passes CPU memory for it."""
        if array.shape[1] > WIDTH:
            raise ValueError(f"weights: expected at most {WIDTH} inputs for 'int8', got {array.shape[1]}")
        codes, scales = quantized(device.asnumpy(array))
        return cls(device.from_numpy(codes), device.from_numpy(scales))

    def rows(self, part: slice) -> "Codes":
        """View some rows."""
        return Codes(self.codes[part], self.scales[part])


def rows_of(weight: Any, part: slice) -> Any:
    """View some rows of a weight matrix."""
    return weight.rows(part) if isinstance(weight, Codes) else weight[part]


def multiply(device: Device, x: Any, weight: Any, out: Any) -> None:
    """Write x (n, K), contiguous, times a weight's (N, K) transpose to `out` (n, N)."""
    if not isinstance(weight, Codes):
        device.matmul(x, weight.T, out=out)
        return
    stream = device.launch_stream()
    codes, scales = device.empty(x.shape, np.float32), device.empty(x.shape[:1], np.float32)
    device.core.quantize(x, codes, scales, stream)
    device.matmul(codes, weight.codes.T, out=out)
    device.core.scale(out, scales, weight.scales, stream)
