"""Weights frozen as int8 on a GPU: the codes of the CPU, its results to rounding, sums that are exact."""

import fusedstep
import numpy as np
import pytest
from fusedstep.rnn import GRU, LSTM
from fusedstep.rnn._cuda.int8 import quantized

from tests.cuda.rnn_cases import KINDS, ORDERS, assert_close, module_on_gpu, ordered, to_gpu, to_host
from tests.rnn.cells import arrays_of, assert_same_bits
from tests.rnn.sequences import draw
from tests.rnn.test_sequence_int8 import CASES, codes

kinds = pytest.mark.parametrize("kind", KINDS)


def awkward(rows, n):
    """Rows of many sizes, among them zeros, denormal numbers, and one that is not finite."""
    x = np.random.default_rng([rows, n]).standard_normal((rows, n)).astype(np.float32)
    x *= np.logspace(-3, 3, rows, dtype=np.float32)[:, None]
    if rows > 6:
        x[1], x[2, n // 2], x[3, -1], x[4] = 0, np.nan, -np.inf, 1e-45
        x[5] *= np.float32(1e-38)
    return x


@pytest.mark.parametrize(("rows", "n"), [(0, 3), (1, 1), (9, 31), (17, 33), (8, 200)], ids=str)
def test_codes_and_scales_are_the_cpus(cupy, device, rows, n):
    x = awkward(rows, n)
    with np.errstate(invalid="ignore"):
        desired, scales = codes(x) if rows else (x.astype(np.int32), x[:, :1])
    for order in (("forward",), *ORDERS.values()):
        to, of_rows = cupy.empty((rows, n), np.float32), cupy.empty((rows,), np.float32)
        with ordered(device, *order):
            fusedstep._cuda.quantize(cupy.asarray(x), to, of_rows, 0)
        assert np.array_equal(to.get(), desired)
        assert np.array_equal(of_rows.get(), scales[:, 0], equal_nan=True)
    if rows:
        with np.errstate(invalid="ignore"):
            of_weights = quantized(x)
        assert np.array_equal(of_weights[0], desired)
        assert np.array_equal(of_weights[1], scales[:, 0], equal_nan=True)


@pytest.mark.parametrize(("rows", "n"), [(0, 3), (3, 0), (1, 1), (9, 33)], ids=str)
def test_products_take_both_scales(cupy, rows, n):
    products, of_rows, of_columns = (
        np.arange(3, 3 + np.prod(s), dtype=np.float32).reshape(s) for s in ((rows, n), rows, n)
    )
    to = cupy.asarray(products)
    fusedstep._cuda.scale(to, cupy.asarray(of_rows), cupy.asarray(of_columns), 0)
    assert_same_bits([to.get()], [products * (of_rows[:, None] * of_columns)])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "projected" not in kind and kind != "gru_reset_before"])
def test_a_step_is_the_cpus(cupy, kind):
    """Of one product with each matrix, whose codes are the same then."""
    case = draw(kind, 1, 7, 21, 30, bidirectional=True)
    actual = to_host(to_gpu(cupy, case).infer(module_on_gpu(case).freeze("int8")))
    assert_close(actual, case.infer(case.module().freeze("int8")))


@kinds
@pytest.mark.parametrize("name", ["row", "directions", "reset"])
def test_sequences_are_nearly_the_cpus(cupy, kind, name):
    """Where h is rounded otherwise, a code of it may be the next one."""
    case = draw(kind, **CASES[name])
    actual = to_host(to_gpu(cupy, case).infer(module_on_gpu(case).freeze("int8")))
    desired, full = case.infer(case.module().freeze("int8")), case.infer()
    for of, expected in desired.items():
        error = np.abs(actual[of] - expected)
        assert error.mean() < 0.1 * np.abs(expected - full[of]).mean()
        assert error.max() <= 0.05 * np.abs(expected).max()


@kinds
@pytest.mark.parametrize("zoneout", [0.0, 0.25])
def test_a_stream_equals_the_sequence(cupy, kind, zoneout):
    """To the bit: the sums are exact."""
    case = draw(kind, 6, 3, 21, 40, num_layers=2).from_zeros()
    module, x = module_on_gpu(case, zoneout=zoneout), cupy.asarray(case.x)
    stream = module.stream(3, weights="int8")
    y, new = module.freeze("int8")(x)
    steps = [stream.step(x_t).get() for x_t in x]
    assert_same_bits([np.stack(steps)], [y.get()])
    assert_same_bits([s.get() for s in arrays_of(stream.state)], [s.get() for s in arrays_of(new)])
    assert 0 < stream.quantization_error(x) < 0.05


def test_a_row_that_is_not_finite_gives_nan(cupy):
    case = draw("lstm", 2, 3, 4, 5)
    case.x[0, 1, 2] = np.inf
    y, _ = module_on_gpu(case).freeze("int8")(cupy.asarray(case.x))
    assert np.isnan(y.get()).any(axis=(0, 2)).tolist() == [False, True, False]


@pytest.mark.usefixtures("cupy")
def test_rows_that_are_too_wide_are_refused():
    for module in (LSTM(131073, 1), LSTM(131073, 1).to("cuda")):
        with pytest.raises(ValueError, match=r"^weights: expected at most 131072 inputs for 'int8', got 131073"):
            module.freeze("int8")
        assert not module.frozen


def test_writes_do_not_show_and_nothing_is_taped(cupy):
    module, x = GRU(3, 5, rng=0).to("cuda").freeze("int8"), cupy.asarray(np.ones((2, 1, 3), np.float32))
    desired = module(x)[0].get()
    for array in module.weights.values():
        array[...] = 0
    assert_same_bits([module(x)[0].get()], [desired])
    with pytest.raises(ValueError, match=r"^forward: .*int8"):
        module.forward(x)
