"""What the losses share: how arguments are checked, and where value and gradient go."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusedstep import _core
from fusedstep._array import Array, view
from fusedstep._device import describe, is_cuda

# The core's numbers of the reductions. A weighted mean divides by the sum of the weights, "batchmean" by the first
# dimension.
NONE, SUM, MEAN, WEIGHTED_MEAN, BATCH_MEAN = range(5)
INFINITY = float("inf")
REDUCTIONS = {"none": NONE, "sum": SUM, "mean": MEAN}


def reduction_of(reduction: str, known: dict[str, int] = REDUCTIONS) -> int:
    """Return the core's number of a reduction."""
    if reduction not in known:
        names = ", ".join(repr(name) for name in known)
        raise ValueError(f"reduction: expected one of {names}, got {reduction!r}")
    return known[reduction]


def number(value: Any, name: str, low: float, high: float, *, above: bool = False) -> float:
    """Return a finite number in [low, high], or in (low, high] with `above`."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not (low < value if above else low <= value) or not value <= high or not np.isfinite(value):
        limits = f"{'(' if above else '['}{low:g}, {high:g}{')' if np.isinf(high) else ']'}"
        raise ValueError(f"{name} must be in {limits}, got {value}")
    return float(value)


def real(obj: Any, name: str) -> Array:
    """View an array that must be float32 or float64 and C-contiguous."""
    if is_cuda(obj):
        raise NotImplementedError(
            f"{name}: expected an array in CPU memory, got {describe(obj)}; on a GPU there are the losses of "
            "fusedstep.loss.custom"
        )
    array = view(obj, name)
    if array.dtype.type not in (np.float32, np.float64) or not array.dtype.isnative:
        raise TypeError(f"{name}: expected a float32 or float64 array, got dtype {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array, got shape {array.shape} with strides {array.strides}")
    return array


def gradient(input: Array, out: Any, grad: bool) -> Array | None:  # noqa: A002
    """Return the array that the gradient is written to: `out` where it is given."""
    if not grad:
        if out is not None:
            raise ValueError("out: expected None where grad=False")
        return None
    return _core.empty(input.shape, input.dtype) if out is None else view(out, "out")


def result(value: Any, out: Any, grad: Array | None) -> Any:
    """Return value and gradient, or the value alone."""
    if grad is None:
        return value
    return value, (grad if out is None else out)


def elementwise(
    name: str,
    hyper: Sequence[float],
    input: Any,  # noqa: A002
    target: Any,
    weight: Any,
    reduction: int,
    out: Any,
    grad: bool,
    pos_weight: Any = None,
) -> Any:
    """Run a loss of each element by itself."""
    x = real(input, "input")
    values = _core.empty(x.shape, x.dtype) if reduction == NONE else None
    to = gradient(x, out, grad)
    others = (float(a) if isinstance(a, np.generic) else a for a in (target, weight, pos_weight))
    t, w, p = (1.0 if a is None else a for a in others)
    value = _core.loss_elements(name, hyper, x, t, w, p, reduction, to, values)
    return result(values if reduction == NONE else value, out, to)
