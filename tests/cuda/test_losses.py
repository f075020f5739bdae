"""The losses' formulas as a CUDA thread would run them, on one value at a time: the CPU's bits."""

import ctypes
import functools

import fusedstep
import numpy as np
import pytest
from fusedstep import loss

from tests.cuda_host import build
from tests.loss.methods import METHODS

DTYPES = (np.float32, np.float64)
HYPER = {  # of the options, in the order that the loss takes them
    "smooth_l1": lambda beta=1.0: (beta,),
    "huber": lambda delta=1.0: (delta,),
    "focal": lambda alpha=0.25, gamma=2.0: (*((1, 1) if alpha is None else (1 - alpha, alpha)), gamma),
    "kl_div": lambda log_target=False: (log_target,),
    "hinge": lambda margin=1.0, squared=False: (margin, squared),
}


@functools.cache
def library():
    found = ctypes.CDLL(str(build.library("losses", "plain", {"tests/cuda_host/losses.cpp": build.KERNELS})))
    found.loss_name.restype = ctypes.c_char_p
    return found


def names():
    return [library().loss_name(i).decode() for i in range(library().loss_count())]


def pointers(*arrays):
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def test_every_loss_is_there():
    assert set(names()) == set(fusedstep._core.losses()) == {method.name for method in METHODS}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_elements_have_the_cpus_bits(method, dtype):
    for options in method.options:
        x, t = method.draw(np.random.default_rng(1), 1001, dtype)
        values, grad = method(x, t, reduction="none", **options)
        found, slope, one = np.empty_like(x), np.empty_like(x), np.ones_like(x)
        hyper = np.array(HYPER.get(method.name, lambda: (0.0,))(**options), np.float64)
        library().loss_run(
            names().index(method.name),
            dtype == np.float64,
            ctypes.c_void_p(hyper.ctypes.data),
            pointers(x, t, one),
            pointers(found, slope),
            ctypes.c_size_t(x.size),
        )
        np.testing.assert_array_equal(found, values)
        np.testing.assert_array_equal(slope, grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 10, 32])
def test_a_row_has_the_cpus_bits(classes, dtype):
    run = getattr(library(), "row_float" if dtype == np.float32 else "row_double")
    run.restype = ctypes.c_double
    x = np.random.default_rng(2).normal(0, 3, (40, classes)).astype(dtype)
    for smoothing, z in ((0.1, 0.0), (0.1, 1e-3)):
        values, grad = loss.cross_entropy(
            x, np.arange(40) % classes, reduction="none", label_smoothing=smoothing, z_loss=z
        )
        for r, row in enumerate(x):
            slope = np.empty_like(row)
            found = run(
                ctypes.c_void_p(row.ctypes.data),
                ctypes.c_size_t(classes),
                ctypes.c_size_t(r % classes),
                ctypes.c_double(smoothing),
                ctypes.c_double(z),
                ctypes.c_void_p(slope.ctypes.data),
            )
            assert dtype(found) == values[r]
            np.testing.assert_array_equal(slope, grad[r])


def test_likelihood():
    library().nll_loss.restype = ctypes.c_double
    assert library().nll_loss(ctypes.c_double(-0.5), ctypes.c_double(3)) == 1.5
