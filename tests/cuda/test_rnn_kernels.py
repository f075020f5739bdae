"""The kernels beside the steps: sums over rows, dropout, copies; and that sweeps refuse arrays that do not fit."""

import fusedstep
import numpy as np
import pytest
from fusedstep.rnn._cuda.sums import sum_rows

from tests.cuda.rnn_cases import ORDERS, ordered
from tests.rnn.cells import DTYPES, assert_same_bits

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


@pytest.fixture
def gpu(cupy):
    assert cupy
    return fusedstep._device.Device.current()


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


@dtypes
@pytest.mark.parametrize("n", [0, 1, 9, 512, 513, 1100])
@pytest.mark.parametrize("columns", [1, 33])
def test_sums_over_rows(cupy, gpu, device, dtype, n, columns):
    a, b = normal(n, 2 * columns, dtype=dtype), normal(n, columns, dtype=dtype, seed=1)
    on_gpu = cupy.asarray(a)[:, columns:], cupy.asarray(b)
    for other, terms in ((None, a[:, columns:]), (on_gpu[1], a[:, columns:].astype(np.longdouble) * b)):
        desired = terms.astype(np.longdouble).sum(axis=0)
        to = [cupy.asarray(np.full(columns, 3, dtype)) for _ in range(2)]
        sum_rows(gpu, on_gpu[0], other, to, add=False)
        scale = np.abs(terms).sum(axis=0) + 1e-30
        tolerance = np.finfo(dtype).eps + 1100 * np.finfo(np.float64).eps
        assert np.all(np.abs(to[0].get() - desired) <= tolerance * scale)
        assert_same_bits([to[0].get()], [to[1].get()])
        once = to[0].get()
        for order in ORDERS.values():
            with ordered(device, *order):
                sum_rows(gpu, on_gpu[0], other, to[:1], add=False)
            assert_same_bits([to[0].get()], [once])
        sum_rows(gpu, on_gpu[0], other, to[:1], add=True)
        assert np.all(np.abs(to[0].get() - 2 * desired) <= 3 * tolerance * scale)


@dtypes
@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 3, 1), (3, 2, 4), (2, 5, 131)], ids=str)
def test_dropout_has_the_cpus_masks(cupy, device, dtype, shape):
    x, y = normal(*shape, dtype=dtype), np.zeros(shape, dtype)
    key = (0.3, 2**63 + 5, 7, 11, 2**31 - 1)  # p, seed, layer, step, row
    if x.size:
        fusedstep._core.dropout(x, y, *key)
    given = cupy.asarray(x)
    for order in (("forward",), *ORDERS.values()):
        to = cupy.empty(shape, dtype)
        with ordered(device, *order):
            fusedstep._cuda.dropout(given, to, *key, 0)
        assert_same_bits([to.get()], [y])
    fusedstep._cuda.dropout(given, given, *key, 0)  # in place
    assert_same_bits([given.get()], [y])


@dtypes
def test_rows_are_copied_from_any_layout(cupy, dtype):
    x = normal(6, 4, 37, dtype=dtype)
    lengths = np.array([6, 0, 3, 1])
    given = cupy.asarray(x)
    for mask in (None, lengths):
        to = cupy.empty((4, 6, 37), dtype).swapaxes(0, 1)
        fusedstep._cuda.copy_rows(given, to, None if mask is None else cupy.asarray(mask), 0)
        there = np.ones((6, 4), bool) if mask is None else np.arange(6)[:, None] < mask
        assert_same_bits([to.get()], [np.where(there[..., None], x, 0).astype(dtype)])
    to = cupy.empty((3, 2, 37), dtype)
    fusedstep._cuda.copy_rows(given[::-2, 1::2], to, None, 0)
    assert_same_bits([to.get()], [x[::-2, 1::2]])


@dtypes
@pytest.mark.parametrize("n", [0, 1, 255, 257])
def test_add(cupy, dtype, n):
    a, b = normal(n, dtype=dtype), normal(n, dtype=dtype, seed=1)
    to = cupy.asarray(a)
    fusedstep._cuda.add(to, cupy.asarray(b), 0)
    assert_same_bits([to.get()], [a + b])


def sweep_arrays(cupy, **replaced):
    T, B, H = 3, 2, 4
    shapes = {"weight_hh": (4 * H, H), "input": (T, B, 4 * H), "y": (T, B, H), "hidden": (B, 4 * H)}
    shapes |= dict.fromkeys(("initial_h", "initial_c", "h0", "h1", "c0", "c1"), (B, H))
    arrays = {name: cupy.zeros(shape, np.float32) for name, shape in shapes.items()} | replaced
    return ("lstm", T, T, B, H, False, {name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize("name", ["weight_hh", "input", "y", "hidden", "initial_c", "h1"])
def test_a_sweep_refuses_arrays_of_another_shape_or_dtype(cupy, name):
    *sizes, arrays = sweep_arrays(cupy)
    for array, error in ((cupy.zeros((2, 3), np.float32), ValueError), (arrays[name].astype(np.int32), TypeError)):
        with pytest.raises(error, match=f"^{name}: "):
            fusedstep._cuda.Sweep(*sizes, arrays | {name: array})


def test_a_sweep_refuses_what_it_lacks(cupy):
    for name, call in (("initial_c", "begin"), ("hidden", "forward"), ("c1", "forward"), ("dinput", "backward")):
        sweep = fusedstep._cuda.Sweep(*sweep_arrays(cupy, **{name: None}))
        with pytest.raises(KeyError, match="saved|" + name):
            getattr(sweep, call)(*[0] * (1 + (call != "begin")))
    sweep = fusedstep._cuda.Sweep(*sweep_arrays(cupy))
    with pytest.raises(ValueError, match=r"^step"):
        sweep.forward(3, 0)
    with pytest.raises(ValueError, match=r"^lstm has one product"):
        sweep.reset_stage(0, 0)
    with pytest.raises(KeyError, match="no cell is called rnn"):
        fusedstep._cuda.Sweep("rnn", *sweep_arrays(cupy)[1:])
    arrived = cupy.zeros((fusedstep._cuda.arrivals,), np.uint32)
    with pytest.raises(ValueError, match="does not fit"):
        fusedstep._cuda.persistent_sweep([sweep], False, arrived, 0, (1, 64))
    with pytest.raises(ValueError, match="1 or 2 sweeps"):
        fusedstep._cuda.persistent_sweep([], False, arrived, 0, None)
