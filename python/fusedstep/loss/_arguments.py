"""A custom loss's arguments: their names, where they are, and which gradients are wanted."""

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fusedstep import _device
from fusedstep._array import view
from fusedstep.loss import _cpu

NUMBERS = (int, float, np.number, np.bool_)
RESERVED = {"reduction", "wrt", "out", "grad", "seed", "count"}


def signature(f: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the names of a function's arguments, and their defaults."""
    import inspect  # noqa: PLC0415 - takes a while, and is seldom needed

    names: list[str] = []
    defaults: dict[str, Any] = {}
    for name, parameter in inspect.signature(f).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"f: expected named parameters, got {parameter}")
        if name in RESERVED and len(names) > 1:
            raise ValueError(f"f: expected another name than {name}, which a call has a meaning for")
        names.append(name)
        if parameter.default is not parameter.empty:
            defaults[name] = parameter.default
    if len(names) < 2:
        raise TypeError(f"f: expected the arguments pred and target first, got ({', '.join(names)})")
    return names, defaults


def place_of(names: list[str], pred: Any, target: Any, parameters: dict[str, Any]) -> Any:
    """Return where the arrays are: `_cpu`, or a place on a GPU."""
    if isinstance(pred, np.ndarray) and isinstance(target, np.ndarray | float) and not parameters:
        return _cpu
    given = {names[0]: pred, names[1]: target, **parameters}
    arrays = {name: value for name, value in given.items() if not isinstance(value, NUMBERS)}
    device = _device.common(list(arrays.values()), list(arrays).__getitem__)
    return _cpu if device is None else importlib.import_module("fusedstep.loss._cuda").Place(device)


def wanted_names(wrt: str | Iterable[str], names: list[str], grad: bool) -> tuple[str, ...]:
    """Return the arguments whose gradients are wanted."""
    wanted = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    for name in wanted:
        if name not in names:
            raise ValueError(f"wrt: expected names among {', '.join(names)}, got {name!r}")
    if wanted and not grad:
        raise ValueError("wrt: expected none with grad=False")
    return wanted


def wide(value: Any, name: str) -> Any:
    """Return an argument in float64."""
    return value if isinstance(value, float) else np.asarray(view(value, name), np.float64)
