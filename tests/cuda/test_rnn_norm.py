"""Layer normalisation on a GPU: the CPU's results and bits at awkward widths, whatever the order of threads and the
other rows; and what its kernels and arrays are."""

import fusedstep
import numpy as np
import pytest
from fusedstep.rnn import GRU, LSTM, gru, gru_backward, lstm, lstm_backward
from fusedstep.rnn._cuda.norm import stretches

from tests.cuda.norm_launches import NORMED
from tests.cuda.rnn_cases import ORDERS, UNITS, assert_close, exact, module_on_gpu, ordered, to_gpu, to_host
from tests.cuda.test_rnn_sequences import run, states_and_inputs
from tests.rnn.cells import DTYPES, arrays_of, assert_same_bits, flat
from tests.rnn.sequences import draw

kinds = pytest.mark.parametrize("kind", NORMED)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
# Less than a block of units and a bit more, warps and a bit more; more than a block of threads takes at once.
WIDTHS = (1, 15, 16, 31, 33, 130, 530)
THREADS = 512


@kinds
@dtypes
@pytest.mark.parametrize("H", WIDTHS[1:])  # of one unit N(w h) has the size of h in no digit: dh is but rounding
def test_results_are_the_cpus(cupy, kind, dtype, H):
    case = draw(kind, 3, 2, 3, H, dtype)
    assert_close(to_host(run(to_gpu(cupy, case), module_on_gpu(case))), run(case, case.module()), UNITS[kind])


@kinds
@dtypes
@pytest.mark.parametrize("H", WIDTHS)
@pytest.mark.parametrize("tape", ["full", "lean"])
def test_bits_are_the_cpus_where_products_are_exact(cupy, kind, dtype, H, tape):
    """Backward one gate alone passes W_hh, so that its product is exact too."""
    for gate in range(3):
        case = exact(draw(kind, 3, 2, 3, H, dtype), gate)
        actual = to_host(to_gpu(cupy, case).run(module_on_gpu(case), tape=tape))
        assert_same_bits(states_and_inputs(actual), states_and_inputs(case.run(tape=tape)))


@kinds
@dtypes
def test_mean_far_above_the_deviations(cupy, kind, dtype):
    """Rows of W x + 1000, spread by 1, and one that does not deviate at all: the CPU's bits, and finite gradients."""
    case = exact(draw(kind, 3, 4, 6, 40, dtype), 0)
    case.weights["weight_ih_l0"][:, 0] = 1000  # all rows of W_ih alike
    case.x[..., 0] = 1
    case.x[:, 3, 1:] = 0
    actual, desired = to_host(to_gpu(cupy, case).run(module_on_gpu(case))), case.run()
    assert_same_bits({name: actual[name] for name in "yh"}, {name: desired[name] for name in "yh"})
    assert all(np.isfinite(array).all() for array in actual.values())


@pytest.mark.parametrize("zoneout", [(0.3, 0.0), (0.0, 0.3)], ids=str)
@pytest.mark.parametrize("tape", ["full", "lean"])
def test_zoneout_of_one_state(cupy, zoneout, tape):
    """N(c) is of the c that the step computes, also where it does not stay."""
    case = exact(draw("layer_norm_lstm", 4, 3, 3, 20), 2)
    actual = to_host(to_gpu(cupy, case).run(module_on_gpu(case, zoneout=zoneout), seed=3, tape=tape))
    assert_same_bits(states_and_inputs(actual), states_and_inputs(case.run(case.module(zoneout=zoneout), seed=3)))


@kinds
@pytest.mark.parametrize("order", ORDERS)
def test_order_of_threads_shows_in_no_bit(cupy, device, kind, order):
    case = draw(kind, 2, 5, 3, 70, bidirectional=True, shortest=1)
    module, gpu = module_on_gpu(case), to_gpu(cupy, case)
    desired = to_host(run(gpu, module))
    with ordered(device, *ORDERS[order]):
        assert_same_bits(to_host(run(gpu, module)), desired)


@kinds
def test_a_row_does_not_see_the_others(cupy, kind):
    case = exact(draw(kind, 4, 9, 3, 20), 1)  # products are cuBLAS', which promises nothing, but where they are exact
    whole = to_host(to_gpu(cupy, case).run(module_on_gpu(case)))
    for row in (0, 8):
        one = case.rows([row])
        alone = to_host(to_gpu(cupy, one).run(module_on_gpu(one)))
        for name in ("y", "h", "dx", "dh"):
            assert_same_bits([alone[name]], [whole[name][:, [row]]])


@kinds
@dtypes
def test_rows_that_no_shared_memory_holds_unasked(cupy, device, kind, dtype):
    """One step of a row so wide that its sums take more than 48 KiB: by the formula, and by the block that it is."""
    H, (gates, *_, has_c, _) = 17000, NORMED[kind][0]
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    names = ("h", "c")[: 1 + has_c]
    arrays = {name: normal(1, gates * H) for name in ("input", "hidden")} | {f"{n}0": normal(1, H) for n in names}
    gains = {name: normal(gates * H) for name in ("gain_ih", "gain_hh")} | ({"gain_c": normal(H)} if has_c else {})
    x, h = arrays["input"], arrays["hidden"]
    on_gpu = {name: cupy.asarray(array) for name, array in (arrays | gains).items()}
    on_gpu |= {f"{name}1": cupy.empty((1, H), dtype) for name in names}
    addresses = {name: array.data.ptr for name, array in on_gpu.items()}
    device.launches()
    fusedstep._cuda.Sweep(kind, dtype == np.float32, 1, H, addresses).forward(0, 0)
    (launch,) = device.launches()
    assert launch.dynamic_bytes > 48 << 10
    assert_close({"h": on_gpu["h1"].get()}, {"h": stepped(kind, x, h, arrays, gains).astype(dtype)}, UNITS[kind])


def stepped(kind, x, h, arrays, gains):
    """h after a step, in double, of the products of x and of h."""
    x, h, *others = (array.astype(float) for array in (x, h, *arrays.values()))
    gains = {name: array.astype(float) for name, array in gains.items()}
    norm = fusedstep.rnn.layer_norm.normalized
    if kind == "layer_norm_gru":
        H = others[2].shape[1]
        of_x, of_h = (
            gains[name] * np.concatenate([norm(a[:, : 2 * H]), norm(a[:, 2 * H :])], axis=1)
            for name, a in (("gain_ih", x), ("gain_hh", h))
        )
        r, z = (1 / (1 + np.exp(-(of_x + of_h)[:, i * H : (i + 1) * H])) for i in range(2))
        return (1 - z) * np.tanh(of_x[:, 2 * H :] + r * of_h[:, 2 * H :]) + z * others[2]
    i, f, g, o = np.split(gains["gain_ih"] * norm(x) + gains["gain_hh"] * norm(h), 4, axis=1)
    i, f, o = (1 / (1 + np.exp(-a)) for a in (i, f, o))
    return o * np.tanh(gains["gain_c"] * norm(f * others[3] + i * np.tanh(g)))


@kinds
@pytest.mark.parametrize(("H", "threads"), [(1, 32), (33, 64), (THREADS + 1, THREADS)])
def test_a_step_is_one_launch_of_a_block_for_each_row(cupy, device, kind, H, threads):
    T, B = 3, 5
    case = draw(kind, T, B, 2, H)
    module, gpu = module_on_gpu(case), to_gpu(cupy, case)
    args, keywords, gradients = gpu.arguments()
    device.launches()
    _, _, tape = module.forward(*args, **keywords)
    forward = device.launches()
    module.backward(tape, *gradients)
    back = device.launches()
    for launches in (forward[1:], back[:T]):  # after the one that makes the state before; before sums over all steps
        assert [(launch.blocks, launch.threads) for launch in launches] == [(B, threads)] * T


@pytest.mark.parametrize("bias", [True, False])
@kinds
def test_functions_use_the_weights_as_they_are(cupy, kind, bias):
    case = draw(kind, 4, 3, 5, 6, num_layers=2, bias=bias)
    gpu = to_gpu(cupy, case)
    forward, backward = (lstm, lstm_backward) if "lstm" in kind else (gru, gru_backward)
    (x, state, _), _, gradients = gpu.arguments()
    y, new, tape = forward(x, state, gpu.weights, tape="full")
    assert all(tape._module.weights[name] is w for name, w in gpu.weights.items())
    results = flat(backward(tape, *gradients)) | {"y": y, **dict(zip("hc", arrays_of(new), strict=False))}
    assert_same_bits(to_host(results), to_host(gpu.run(module_on_gpu(case))))


@kinds
def test_gradients_of_gains_and_biases_are_added(cupy, kind):
    case = draw(kind, 4, 3, 5, 6)
    module, gpu = module_on_gpu(case), to_gpu(cupy, case)
    once = to_host(gpu.run(module))
    out = {name: cupy.asarray(np.full_like(w, 2**-20)) for name, w in case.weights.items()}
    gpu.run(module, out=out, accumulate=True)
    for name in (name for name in out if name.startswith(("gain", "bias"))):
        np.testing.assert_allclose(out[name].get(), once[name] + np.float32(2**-20), rtol=3e-7, err_msg=name)


@pytest.mark.usefixtures("cupy")
def test_a_sweep_refuses_what_it_lacks(cupy):
    T, B, H = 2, 3, 4
    states = dict.fromkeys(("initial_h", "initial_c", "h0", "h1", "c0", "c1", "dh", "dc", "through"), (B, H))
    of_steps = dict.fromkeys(("y", "states", "normed_c", "dnormed_c"), (T, B, H))
    gates = dict.fromkeys(("input", "dinput", "dstate"), (T, B, 4 * H))
    shapes = {"weight_hh": (4 * H, H), "gain_ih": (4 * H,), "gain_hh": (4 * H,), "gain_c": (H,), "hidden": (B, 4 * H)}
    shapes |= states | of_steps | gates | {"saved": (T, B, 12 * H), "statistics": (T, B, 6)}
    arrays = {name: cupy.zeros(shape, np.float32) for name, shape in shapes.items()}

    def sweep(**changed):
        given = {name: array for name, array in (arrays | changed).items() if array is not None}
        return fusedstep._cuda.Sweep("layer_norm_lstm", T, T, B, H, False, given)

    for name in ("gain_ih", "gain_hh", "gain_c"):
        with pytest.raises(KeyError, match=name):
            sweep(**{name: None})
    for name in ("statistics", "normed_c", "dnormed_c", "dstate"):
        with pytest.raises(KeyError, match=name):
            sweep(**{name: None}).backward(0, 0)
    for name in ("gain_ih", "gain_hh", "gain_c", "bias_c", "statistics", "normed_c", "dnormed_c"):
        with pytest.raises(ValueError, match=f"^{name}: got shape"):
            sweep(**{name: cupy.zeros((7, 1, 1), np.float32)})


def test_stretches_of_slots():
    assert list(stretches(range(4))) == [(0, 0, 4)]
    assert list(stretches([0, 1, 3])) == [(0, 0, 2), (2, 3, 1)]
    assert list(stretches([])) == []


@kinds
def test_nothing_waits_for_the_gpu(cupy, kind):
    case = draw(kind, 4, 3, 5, 6, num_layers=2, shortest=1)
    noise = {"dropout": 0.5, "recurrent_dropout": 0.25, "zoneout": 0.25}
    gpu = to_gpu(cupy, case)
    for tape in ("full", "lean"):
        gpu.run(module_on_gpu(case, **noise), tape=tape)
    assert cupy.state.copies == 0


@pytest.mark.parametrize("module", [LSTM, GRU], ids=lambda module: module.__name__)
def test_there_and_back(cupy, module):
    """A module that moves to the GPU has its gains there, and brings them back."""
    m = module(3, 4, layer_norm=True, rng=0)
    before = {name: w.copy() for name, w in m.weights.items()}
    assert all(isinstance(w, cupy.ndarray) for w in m.to("cuda").weights.values())
    assert_same_bits(dict(m.to("cpu").weights), before)
