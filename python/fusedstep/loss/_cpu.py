"""What custom losses need of arrays in CPU memory; `_cuda` has the same names for arrays on a GPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusedstep import _array, _core
from fusedstep._array import Array
from fusedstep.loss import _base
from fusedstep.loss._compile import Broadcast, Program

# New arrays (shape, dtype), not yet written, and zeros; the first argument; where the gradient goes; other arguments.
empty, zeros = _core.empty, np.zeros
real, gradient, view = _base.real, _base.gradient, _array.view


def run(
    program: Program, arrays: Sequence[Any], numbers: Sequence[float], targets: Sequence[Any], out: Any
) -> list[Any]:
    """Run a program.

    Parameters
    ----------
    program : Program
        What is run.
    arrays, numbers : sequence
        Its inputs, the first of which gives shape and dtype, and its uniforms.
    targets : sequence of ndarray, Broadcast or None
        Of each output, the array that is written; or over what it is summed: everything, for None.
    out : ndarray or None
        The target that may lie where an input lies.

    Returns
    -------
    list
        The targets, with arrays and floats for what was to be summed.
    """
    x: Array = arrays[0]
    outputs = [(np.zeros(to.shape), True) if isinstance(to, Broadcast) else (to, False) for to in targets]
    sums = program.expression.run(x, arrays, program.inputs, numbers, outputs, out)
    return [
        total if array is None else array.astype(x.dtype) if added else array
        for (array, added), total in zip(outputs, sums, strict=True)
    ]
