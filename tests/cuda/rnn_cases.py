"""What the tests of the recurrent side share: kinds, cases on the GPU, and weights whose products are exact."""

import contextlib
import ctypes
from ctypes import c_uint32, c_uint64
from dataclasses import replace

import fusedstep
import numpy as np
from fusedstep.rnn import CELLS, _cuda_layer, _cuda_run

KINDS = tuple(CELLS)  # layer normalisation and projections are not there on CUDA


def to_gpu(cupy, case):
    """A step or a case with its arrays on the GPU; lengths stay."""
    case = case.map(cupy.asarray)
    return case if getattr(case, "reset", None) is None else replace(case, reset=cupy.asarray(case.reset))


def to_host(results):
    return {name: array.get() for name, array in results.items()}


def module_on_gpu(case, **options):
    return case.module(**options).to("cuda")


def assert_close(actual, desired, factor=16):
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
        assert error < factor, f"{name}: {error:.1f} units"


class Record(ctypes.Structure):
    _fields_ = (
        ("stream", c_uint64),
        ("blocks", c_uint32),
        ("threads", c_uint32),
        ("dynamic_bytes", c_uint64),
        ("cooperative", c_uint32),
        ("unused", c_uint32),
    )


class Runtime:
    """The stand-in for CUDA's runtime that the extension module was linked with."""

    def __init__(self):
        self.library = ctypes.CDLL(fusedstep._cuda.__file__)
        self.library.cuda_host_records.restype = ctypes.c_size_t

    def records(self):
        """What was launched since the last call."""
        room = (Record * 4096)()
        return list(room[: self.library.cuda_host_records(room, ctypes.c_size_t(len(room)))])

    @contextlib.contextmanager
    def order(self, name, seed=0, threads=1):
        """The order in which blocks and threads run, on so many threads of the system."""
        self._set(name, seed, threads)
        try:
            yield
        finally:
            self._set("forward", 0, 1)

    def _set(self, name, seed, threads):
        assert self.library.cuda_host_order(name.encode(), c_uint32(seed))
        self.library.cuda_host_threads(threads)


ORDERS = {"reverse": ("reverse", 0, 1), "random": ("random", 3, 1), "two threads": ("random", 4, 2)}


@contextlib.contextmanager
def path(name, monkeypatch, device=None):
    """Run with "steps", a product and a kernel each, or "persistent" kernels, on a device of (blocks, shared bytes)."""
    with monkeypatch.context() as patch:
        rows = {"steps": 0, "persistent": 1 << 20}[name]
        patch.setattr(_cuda_layer, "PERSISTENT_ROWS", rows)
        patch.setattr(_cuda_run, "PERSISTENT_ROWS", rows)
        if device is not None:
            core = fusedstep._cuda
            library = ctypes.CDLL(core.__file__)
            library.cuda_host_multiprocessors(device[0])
            sweep, fits = core.persistent_sweep, core.persistent_fits
            patch.setattr(core, "persistent_sweep", lambda *args: sweep(*args[:-1], device))
            patch.setattr(core, "persistent_fits", lambda *args: fits(*args[:-1], device))
        yield


def exact(case, gate=None):
    """A step or a case whose products with the weights are exact, in whatever order their terms are added.

    Inputs are small integers, weights powers of two. A row of W_ih has one weight at most, and so has a column; a row
    of W_hh has one, of its own unit, and where `gate` is given those of the other gates have none: then a gradient that
    passed W_hh is one term too, else one for each gate.
    """
    gates = fusedstep._core.cells()[case.kind]["gates"]
    rng = np.random.default_rng(5)
    dtype = case.x.dtype

    def changed(name, w):
        if name.startswith("weight_ih"):
            inputs = np.arange(w.shape[1])
            w = np.zeros_like(w)
            w[rng.permutation(len(w))[inputs], inputs] = rng.choice([0.5, 1, 2], len(inputs))
        elif name.startswith("weight_hh"):
            powers = rng.choice([0.5, -1, 2, -0.25], (gates, w.shape[1])).astype(dtype)
            w = np.concatenate([np.diag(row * (gate in (None, i))) for i, row in enumerate(powers)])
        return w

    weights = {name: changed(name, w) for name, w in case.weights.items()}
    return replace(case, x=rng.integers(-3, 4, case.x.shape).astype(dtype), weights=weights)
