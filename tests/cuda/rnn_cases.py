"""What the tests of the recurrent side share: kinds, cases on the GPU, and weights whose products are exact."""

import contextlib
import ctypes
from dataclasses import replace

import fusedstep
import numpy as np
from fusedstep.rnn import CELLS
from fusedstep.rnn._cuda import layer as cuda_layer
from fusedstep.rnn._cuda import run as cuda_run

from tests.rnn.sequences import MODULES, cell_kind

MULTIPROCESSORS = 4  # of the stand-in for CUDA's runtime, where nothing else is said
PROJECTED = tuple(kind for kind in MODULES if kind.startswith("projected"))
NORMED = tuple(kind for kind in MODULES if kind.startswith("layer_norm"))
KINDS = (*CELLS, *PROJECTED, *NORMED)  # cells have neither of the latter, and no persistent kernel takes them
# What results may differ by, in units of rounding. The norm of a row that hardly deviates enlarges what went before: up
# to 51 were seen where the CPU's and these were 43 and 28 away from the same in double.
UNITS = dict.fromkeys(KINDS, 16) | dict.fromkeys(NORMED, 96)


def to_gpu(cupy, case):
    """A step or a case with its arrays on the GPU; lengths stay."""
    case = case.map(cupy.asarray)
    return case if getattr(case, "reset", None) is None else replace(case, reset=cupy.asarray(case.reset))


def gates_of(kind):
    return fusedstep._core.cells()[cell_kind(kind)]["gates"]


def to_host(results):
    return {name: array.get() for name, array in results.items()}


def module_on_gpu(case, **options):
    return case.module(**options).to("cuda")


def assert_close(actual, desired, units=16):
    """Compare dicts of arrays, normwise, within so many units of rounding.

    A chain of fmas and cuBLAS' sums (here NumPy's) round differently; over the few hundred terms of the tests' sums and
    few steps the errors were seen to stay below 9 units.
    """
    assert actual.keys() == desired.keys()
    for name, expected in desired.items():
        got = actual[name]
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype), name
        scale = max(np.abs(expected).max(initial=0), np.finfo(expected.dtype).tiny)
        error = np.abs(got - expected).max(initial=0) / scale / np.finfo(expected.dtype).eps
        assert error < units, f"{name}: {error:.1f} units"


# Orders of blocks and threads, with a seed, and how many threads of the system take part.
ORDERS = {"reverse": ("reverse", 0, 1), "random": ("random", 3, 1), "two threads": ("random", 4, 2)}


@contextlib.contextmanager
def ordered(host, order, seed=0, threads=1):
    """Run blocks and threads in another order."""
    assert host.library.cuda_host_order(order.encode(), ctypes.c_uint32(seed))
    host.library.cuda_host_threads(threads)
    try:
        yield
    finally:
        host.library.cuda_host_order(b"forward", ctypes.c_uint32(0))
        host.library.cuda_host_threads(1)


@contextlib.contextmanager
def path(way, monkeypatch, host=None, device=None):
    """Take "steps" one by one or by "persistent" kernels, on a device of so many (multiprocessors, shared bytes)."""
    with monkeypatch.context() as patch:
        for module in (cuda_layer, cuda_run):
            patch.setattr(module, "PERSISTENT_ROWS", {"steps": 0, "persistent": 1 << 20}[way])
        if device is None:
            yield
            return
        core = fusedstep._cuda
        sweep, fits = core.persistent_sweep, core.persistent_fits
        patch.setattr(core, "persistent_sweep", lambda *args: sweep(*args[:-1], device))
        patch.setattr(core, "persistent_fits", lambda *args: fits(*args[:-1], device))
        host.library.cuda_host_multiprocessors(device[0])
        try:
            yield
        finally:
            host.library.cuda_host_multiprocessors(MULTIPROCESSORS)


def exact(case, gate=None):
    """A step or a case whose products with the weights are exact, in whatever order their terms are added.

    Inputs are small integers, weights powers of two. A row of W_ih has one weight at most, and so has a column; a row
    of W_hh has one, of its own unit, and where `gate` is given those of the other gates have none: then a gradient that
    passed W_hh is one term too, else one for each gate. A row of W_hr has one, of its own unit.
    """
    gates = gates_of(case.kind)
    rng = np.random.default_rng(5)
    dtype = case.x.dtype

    def changed(name, w):
        if name.startswith("weight_ih"):
            inputs = np.arange(w.shape[1])
            w = np.zeros_like(w)
            w[rng.permutation(len(w))[inputs], inputs] = rng.choice([0.5, 1, 2], len(inputs))
        elif name.startswith("weight_hh"):
            powers = rng.choice([0.5, -1, 2, -0.25], (gates, w.shape[1])).astype(dtype)
            diagonals = [np.diag(row * (gate in (None, i))) for i, row in enumerate(powers)]
            w = np.concatenate([np.pad(d, [(0, len(w) // gates - len(d)), (0, 0)]) for d in diagonals])
        elif name.startswith("weight_hr"):
            w = np.eye(*w.shape, dtype=dtype) * rng.choice([0.5, -1, 2], (len(w), 1)).astype(dtype)
        return w

    weights = {name: changed(name, w) for name, w in case.weights.items()}
    return replace(case, x=rng.integers(-3, 4, case.x.shape).astype(dtype), weights=weights)
