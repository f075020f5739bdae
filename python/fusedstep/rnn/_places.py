"""Where weights are: `_cpu`, or a place on a GPU that has the same names; and the way between them."""

import importlib
from collections.abc import Mapping
from typing import Any

from fusedstep import _device
from fusedstep.rnn import _cpu


def place_of(weights: Mapping[str, Any]) -> Any:
    """Give the place of arrays; TypeError where it is not one."""
    names = list(weights)
    device = _device.common(list(weights.values()), names.__getitem__)
    return _cpu if device is None else _on_cuda().Place(device)


def moved(weights: Mapping[str, Any], place: Any, device: Any, frozen: bool) -> dict[str, Any]:
    """Copy weights to a place that is called by its name; where they are there, leave them."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device: expected 'cpu' or 'cuda', got {device!r}")
    if frozen:
        raise ValueError("to: expected weights that are not frozen; unfreeze() first")
    if device == place.name:
        return dict(weights)
    to = _cpu if device == "cpu" else _on_cuda().Place.current()
    return {name: to.from_host(place.host(array)) for name, array in weights.items()}


def _on_cuda() -> Any:
    """Import what is for CUDA arrays where there are some."""
    return importlib.import_module("fusedstep.rnn._cuda")
