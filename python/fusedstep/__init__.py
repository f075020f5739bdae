"""Fused optimizer updates and recurrent cells for NumPy, with the same bits on every machine.

Examples
--------
>>> import numpy as np
>>> import fusedstep
>>> w = np.ones(3, dtype=np.float32)
>>> opt = fusedstep.optim.Adam(w, lr=0.1)
>>> opt.step(np.full(3, 0.5, dtype=np.float32)).applied
True
"""

import importlib
from typing import TYPE_CHECKING, Any

from fusedstep import optim, rnn
from fusedstep._core import build_info, num_threads, set_num_threads

if TYPE_CHECKING:
    from fusedstep import loss, profiler
    from fusedstep.profiler import cost, machine, profile

__version__: str = build_info()["version"]

__all__ = [
    "__version__",
    "build_info",
    "cost",
    "loss",
    "machine",
    "num_threads",
    "optim",
    "profile",
    "profiler",
    "rnn",
    "set_num_threads",
]
_PROFILER = ("cost", "machine", "profile")


def __getattr__(name: str) -> Any:
    """Import losses and profiler when they are first asked for: they would be half of the package's import."""
    if name in ("loss", "profiler"):
        return importlib.import_module(f"fusedstep.{name}")
    if name in _PROFILER:
        return getattr(importlib.import_module("fusedstep.profiler"), name)
    raise AttributeError(f"module 'fusedstep' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List also what is not imported yet."""
    return sorted({*globals(), *__all__})
