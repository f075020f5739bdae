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

from fusedstep import loss, optim, rnn
from fusedstep._core import build_info, num_threads, set_num_threads
from fusedstep.profiler import machine

__version__: str = build_info()["version"]

__all__ = ["__version__", "build_info", "loss", "machine", "num_threads", "optim", "rnn", "set_num_threads"]
