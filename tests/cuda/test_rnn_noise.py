"""Zoneout and recurrent dropout on a GPU: the CPU's masks bit for bit, and its results."""

import fusedstep
import numpy as np
import pytest
from fusedstep.rnn import CELLS, lstm, lstm_backward
from fusedstep.rnn._cuda.run import Noise

from tests.cuda.rnn_cases import (
    KINDS,
    ORDERS,
    UNITS,
    assert_close,
    exact,
    gates_of,
    module_on_gpu,
    ordered,
    path,
    to_gpu,
    to_host,
)
from tests.cuda.test_rnn_sequences import CASES, run, some_kinds, states_and_inputs
from tests.rnn.cells import DTYPES, arrays_of, assert_same_bits, flat
from tests.rnn.sequences import draw
from tests.rnn.test_noise import EVERY_STEP, NOISES, drawn, stays

SEED = 2**63 + 5
kinds = pytest.mark.parametrize("kind", KINDS)
paths = pytest.mark.parametrize("way", ["steps", "persistent"])
noises = pytest.mark.parametrize("noise", NOISES)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize(("B", "H"), [(0, 3), (1, 1), (9, 33), (4, 64)], ids=str)
def test_masks_of_recurrent_dropout_are_the_cpus(cupy, device, dtype, B, H):
    noise = Noise(0.4, (0.0, 0.0), True, SEED, 2**31 + 2 * 3, 11, 7)
    there = drawn(0.4, 0, EVERY_STEP, 7 + np.arange(B), H, 3, SEED)
    desired = np.where(there, 0, 1 / (1 - 0.4)).astype(dtype)
    for order in (("forward",), *ORDERS.values()):
        mask = cupy.empty((B, H), dtype)
        with ordered(device, *order):
            fusedstep._cuda.recurrent_mask(noise, mask, 0)
        assert_same_bits([mask.get()], [desired])


@pytest.mark.parametrize("row", [0, 7])
@pytest.mark.parametrize(("S", "B", "H"), [(0, 2, 3), (2, 0, 3), (3, 1, 1), (2, 9, 33), (5, 4, 64)], ids=str)
def test_masks_of_zoneout_are_the_cpus(cupy, device, S, B, H, row):
    """Two rows share a draw, wherever rows begin."""
    rates = 0.3, 0.6
    noise = Noise(0.0, rates, True, SEED, 2**31 + 2 * 3, 11, row)
    desired = np.zeros((S, B, H), np.uint8)
    for step in range(S):
        for state, rate in enumerate(rates):
            bits = stays(rate, state, 11 + step, row + np.arange(B), H, 3, SEED)
            desired[step] |= (bits << state).astype(np.uint8)
    for order in (("forward",), *ORDERS.values()):
        to = cupy.empty((S, B, H), np.uint8)
        with ordered(device, *order):
            fusedstep._cuda.zoneout_mask(noise, to, 0)
        assert_same_bits([to.get()], [desired])


def both(cupy, case, **options):
    """Training and inference on the GPU, and on the CPU."""
    desired = run(case, case.module(**options))
    return to_host(run(to_gpu(cupy, case), module_on_gpu(case, **options))), desired


@kinds
@noises
@pytest.mark.parametrize(("way", "name"), [("steps", "layers"), ("steps", "resets"), ("persistent", "layers")])
def test_results_are_the_cpus(cupy, monkeypatch, kind, noise, way, name):
    with path(way, monkeypatch):
        assert_close(*both(cupy, draw(kind, **CASES[name]), **NOISES[noise]), UNITS[kind])


@some_kinds
@noises
def test_results_in_double_are_the_cpus(cupy, kind, noise):
    assert_close(*both(cupy, draw(kind, **CASES["layers"], dtype=np.float64), **NOISES[noise]), UNITS[kind])


@pytest.mark.parametrize(
    ("kind", "way"), [*((kind, "steps") for kind in KINDS), *((kind, "persistent") for kind in CELLS)]
)
def test_bits_are_the_cpus_where_products_are_exact(cupy, monkeypatch, kind, way):
    """Of h, a multiple of 1/(1−p) = 2."""
    noise = {"recurrent_dropout": 0.5, "zoneout": 0.3}
    gates = [None] if way == "persistent" else range(gates_of(kind))
    for gate in gates:
        case = exact(draw(kind, **CASES["layers"]), gate)
        with path(way, monkeypatch):
            actual, desired = both(cupy, case, **noise)
        assert_same_bits(states_and_inputs(actual), states_and_inputs(desired))


@pytest.mark.parametrize("zoneout", [(0.25, 0.0), (0.0, 0.25)], ids=str)
@pytest.mark.parametrize("kind", ["peephole_lstm", "projected_peephole_lstm"])
@paths
def test_zoneout_of_one_state(cupy, monkeypatch, kind, way, zoneout):
    with path(way, monkeypatch):
        assert_close(*both(cupy, draw(kind, **CASES["layers"]), zoneout=zoneout))


@paths
def test_pieces_have_the_masks_of_the_whole(cupy, monkeypatch, way):
    case = draw("lstm", 6, 5, 3, 8)
    module = module_on_gpu(case, recurrent_dropout=0.25, zoneout=0.5)
    x, state = cupy.asarray(case.x), None
    with path(way, monkeypatch):
        y, _, _ = module.forward(x, seed=3)
        for begin, end in ((0, 2), (2, 6)):
            part, state, _ = module.forward(x[begin:end], state, seed=3, origin=(begin, 0))
            assert_close({"y": part.get()}, {"y": y.get()[begin:end]})
        rows, _, _ = module.forward(x[:, 3:], seed=3, origin=(0, 3))
        assert_close({"y": rows.get()}, {"y": y.get()[:, 3:]})


def test_function_has_the_noise(cupy):
    case = draw("lstm", 4, 3, 5, 6)
    gpu = to_gpu(cupy, case)
    noise = {"recurrent_dropout": 0.25, "zoneout": (0.5, 0.0)}
    (x, state, _), _, gradients = gpu.arguments()
    y, new, tape = lstm(x, state, gpu.weights, **noise, tape="full", seed=5)
    results = flat(lstm_backward(tape, *gradients)) | {"y": y, **dict(zip("hc", arrays_of(new), strict=True))}
    assert_same_bits(to_host(results), to_host(gpu.run(module_on_gpu(case, **noise), seed=5)))


@paths
def test_nothing_waits_for_the_gpu(cupy, monkeypatch, way):
    case = draw("peephole_lstm", **CASES["layers"])
    module, gpu = module_on_gpu(case, **NOISES["both"]), to_gpu(cupy, case)
    with path(way, monkeypatch):
        gpu.run(module)
    assert cupy.state.copies == 0
