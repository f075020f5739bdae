"""What modules and cells need of arrays in CPU memory; `_cuda` has the same names for arrays on a GPU."""

from typing import Any

import numpy as np

from fusedstep import _array, _core
from fusedstep._array import Array

name = "cpu"
# New arrays (shape, dtype): not yet written; large ones that calls return; zeros.
empty, result, zeros = np.empty, _core.empty, np.zeros
# An object's memory as an array, for a name in errors; what may be copied into the weights; where gradients go.
view, source, parameter = _array.view, _array.view, _array.parameter
contiguous = np.ascontiguousarray
overlap, check_apart = np.may_share_memory, _array.check_apart
dropout = _core.dropout
Layer, Cell, Stream, Noise = _core.Layer, _core.Cell, _core.Stream, _core.Noise


def aligned(array: Array) -> bool:
    """Whether elements are aligned to their size."""
    return array.flags.aligned


def assign(to: Array, array: Array) -> None:
    """Copy into a weight."""
    to[...] = array


def host(array: Array) -> Array:
    """Give the array in CPU memory."""
    return array


def from_host(array: Array) -> Array:
    """Give an array of CPU memory here."""
    return array


def mask(obj: Any, _: str) -> Array:
    """View a mask."""
    return np.asarray(obj)


def integers(obj: Any, _: str) -> Array:
    """View integers in CPU memory."""
    return np.asarray(obj)


def taped_weights(_: Any, weights: Any) -> Any:
    """Give the weights that a step back takes: the arrays themselves, which a frozen cell keeps as they are."""
    return weights
