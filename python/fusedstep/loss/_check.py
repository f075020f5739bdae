"""A custom loss's gradient against finite differences."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fusedstep._array import Array


class Check(NamedTuple):
    """What `Custom.check` found: the largest error, where, and both gradients there."""

    error: float
    name: str
    at: tuple[int, ...]
    gradient: float
    difference: float


def checked(
    loss: Any, name: str, x: Array, target: Any, parameters: Mapping[str, Any], samples: int, seed: int
) -> Check:
    """Compare the gradient in `x`, called by its name, with central differences at elements drawn with `seed`."""
    _, gradient_of = loss(x, target, reduction="sum", **parameters)
    worst = Check(0.0, name, (), 0.0, 0.0)
    chosen = np.random.default_rng(seed).permutation(x.size)[:samples]
    for flat in map(int, chosen):
        index = tuple(map(int, np.unravel_index(flat, x.shape)))
        step = float(np.cbrt(np.finfo(np.float64).eps)) * max(1.0, abs(float(x[index])))
        at, sides = x[index], []
        for moved in (at + step, at - step):
            x[index] = moved
            sides.append((moved, loss(x, target, reduction="none", grad=False, **parameters)))
        x[index] = at
        (above, high), (below, low) = sides
        difference = float(np.sum(high - low) / (above - below))
        exact = float(gradient_of[index])
        error = abs(exact - difference) / max(1.0, abs(exact))
        if not error <= worst.error:
            worst = Check(error, name, index, exact, difference)
    return worst
