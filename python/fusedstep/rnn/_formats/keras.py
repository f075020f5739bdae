"""What Keras' layers give as their weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fusedstep._array import Array
from fusedstep.rnn._formats.common import (
    GATES,
    Direction,
    Found,
    expect_shape,
    kind_of,
    length,
    reordered,
    stacked,
    views_of,
)


def _keras_direction(
    family: str, arrays: Mapping[str, Array], width: int | None, H: int | None
) -> tuple[Direction, bool | None]:
    """Read kernel, recurrent kernel and bias, by what errors call them; also the kind of GRU, where the bias tells."""
    (title, kernel), (recurrent_title, recurrent), *biases = arrays.items()
    H = length(recurrent, 0) if H is None else H
    columns = GATES[family] * H
    expect_shape(recurrent_title, recurrent, H, columns, of=family)
    expect_shape(title, kernel, length(kernel, 0) if width is None else width, columns, of=family)
    own, reset_after = {"weight_ih": kernel.T, "weight_hh": recurrent.T}, None
    for bias_title, bias in biases:
        reset_after = family == "GRU" and bias.ndim == 2
        expect_shape(bias_title, bias, *((2, columns) if reset_after else (columns,)), of=family)
        own["bias_ih"], own["bias_hh"] = bias if reset_after else (bias, np.zeros_like(bias))
    return {name: reordered(array, family, "keras") for name, array in own.items()}, reset_after


def read_keras(family: str, arrays: Any, reset_after: Any) -> Found:
    """Read what ``get_weights`` of a layer returns, or of several as a sequence of such."""
    if not isinstance(arrays, list | tuple):
        raise TypeError(f"arrays: expected a list of arrays, as get_weights returns, got {type(arrays).__name__}")
    nested = bool(arrays) and all(isinstance(item, list | tuple) for item in arrays)
    sources = {f"arrays[{k}]": layer for k, layer in enumerate(arrays)} if nested else {"arrays": arrays}
    D = 2 if len(next(iter(sources.values()))) > 3 else 1
    for title, layer in sources.items():
        if len(layer) not in (2 * D, 3 * D):
            raise ValueError(
                f"{title}: expected 2 or 3 arrays of one direction, 4 or 6 of two, as many directions in all layers, "
                f"got {len(layer)} arrays"
            )
    views = views_of({f"{title}[{j}]": array for title, layer in sources.items() for j, array in enumerate(layer)})
    layers: list[list[Direction]] = []
    told: set[bool | None] = set()
    width, H = None, None
    for title, layer in sources.items():
        names = [f"{title}[{j}]" for j in range(len(layer))]
        layers.append([])
        for d in range(D):
            own = names[d * len(names) // D : (d + 1) * len(names) // D]
            direction, kind = _keras_direction(family, {name: views[name] for name in own}, width, H)
            width, H = direction["weight_ih"].shape[1], direction["weight_hh"].shape[1]
            layers[-1].append(direction)
            told.add(kind)
        width = D * direction["weight_hh"].shape[1]
    if {True, False} <= told:
        raise ValueError("arrays: expected GRUs of one kind, got biases both of shape (2, 3*H) and of (3*H,)")
    options, weights = stacked(family, layers)
    for kind in told:
        options |= kind_of(
            family, kind, reset_after, "arrays without a bias do not tell the kind (Keras' default: True)"
        )
    return options, weights
