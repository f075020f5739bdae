"""How fast the kernels' own parts are on this machine: what a prediction takes beside bandwidths and the peak.

Each is measured by a call that has little else in it.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fusedstep import _core
from fusedstep._cost import SIGMOID

RATES = ("products", "functions", "roots", "norms", "packing")
CALLS = ("optimizer", "tensor", "cell", "stream", "sequence", "sequence_backward", "loss")
STEP_ELEMENTS = 1 << 17  # of an optimizer's step, for each thread: in a cache, on pages of the usual size
ROWS, WIDTH = 48, 192  # of a step whose time is that of its products
PACKED_WIDTH = 112  # of a step whose weights one thread packs: csrc/cpu/rnn.h has it share more work


def seconds_of(f: Callable[[], Any], seconds: float) -> float:
    """Return the seconds of a call: of the fastest of several rounds, about so many seconds in all."""
    repeats, taken = 1, 0.0
    while taken < seconds / 16:
        repeats *= 2
        start = time.perf_counter()
        for _ in range(repeats):
            f()
        taken = time.perf_counter() - start
    best = taken / repeats
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(repeats):
            f()
        best = min(best, (time.perf_counter() - start) / repeats)
    return best


def _stepper(rule: str, elements: int) -> tuple[Callable[..., Any], list[Any]]:
    """Return the step of a plan of one tensor, and its gradient: a rule whose hyperparameters are all 0."""
    hyper, states = _core.rules()[rule]
    p, g, *state = (_core.zeros((elements,), np.float32) for _ in range(2 + states))
    g[...] = 1
    plan = _core.Plan(None, False)
    plan.add_group(rule, [0.0] * len(hyper), False, [p], [tuple(state)])
    return plan.stepper(), [g]


def rates(seconds: float, scale: float) -> dict[str, float]:
    """Measure `RATES` of one thread, in units of 1e9 a second, of float32; all threads reach `scale` times as much.

    FLOPs of the products of many rows, and of the gates' functions; elements whose update takes a root and a division;
    elements of a norm; and weights that are packed.
    """
    from fusedstep.rnn import LSTM, LSTMCell  # noqa: PLC0415 - the package is whole when this is asked for

    stream = LSTM(WIDTH, WIDTH, rng=0).stream(ROWS)
    x, out = np.zeros((ROWS, WIDTH), np.float32), np.empty((ROWS, WIDTH), np.float32)
    values = np.linspace(-4, 4, 4096, dtype=np.float32)
    elements = STEP_ELEMENTS * _core.num_threads()
    step, grads = _stepper("adagrad", elements)
    cell = LSTMCell(PACKED_WIDTH, PACKED_WIDTH, rng=0)
    row, state = np.zeros(PACKED_WIDTH, np.float32), (np.zeros(PACKED_WIDTH, np.float32),) * 2
    new = tuple(np.empty(PACKED_WIDTH, np.float32) for _ in range(2))
    plain = seconds_of(lambda: step(grads, None, 1.0, False, False), seconds)
    checked = seconds_of(lambda: step(grads, None, 1.0, True, False), seconds)
    unfrozen = seconds_of(lambda: cell(row, state, out=new), seconds)
    cell.freeze()
    frozen = seconds_of(lambda: cell(row, state, out=new), seconds)
    return {
        "products": 2 * 4 * WIDTH * 2 * WIDTH * ROWS / seconds_of(lambda: stream.step(x, out), seconds) / 1e9,
        "functions": SIGMOID * values.size / seconds_of(lambda: _core.math("sigmoid", values), seconds) / 1e9,
        "roots": elements / plain / scale / 1e9,
        "norms": elements / max(checked - plain, 1e-9) / scale / 1e9,
        "packing": 8 * PACKED_WIDTH**2 / max(unfrozen - frozen, 1e-9) / 1e9,
    }


def calls(seconds: float) -> dict[str, float]:
    """Measure `CALLS`: seconds of the smallest call of each kind, as Python makes it; and of each further tensor."""
    from fusedstep import loss  # noqa: PLC0415
    from fusedstep.optim import Adam  # noqa: PLC0415
    from fusedstep.rnn import LSTM, LSTMCell  # noqa: PLC0415

    tensors = 64
    grads = [np.ones(1, np.float32) for _ in range(tensors)]
    one, many = Adam(np.ones(1, np.float32)), Adam([np.ones(1, np.float32) for _ in grads])
    cell, module = LSTMCell(1, 1, rng=0).freeze(), LSTM(1, 1, rng=0)
    stream, row = module.stream(), np.zeros(1, np.float32)
    x = np.zeros((1, 1, 1), np.float32)
    y, _, _ = module.forward(x)
    single = seconds_of(lambda: one.step(grads[0]), seconds)
    several = seconds_of(lambda: many.step(grads), seconds)
    state, new = (row, row.copy()), (row.copy(), row.copy())
    forward = seconds_of(lambda: module.forward(x), seconds)
    return {
        "optimizer": single,
        "tensor": max(several - single, 1e-9) / (tensors - 1),
        "cell": seconds_of(lambda: cell(row, state, out=new), seconds),
        "stream": seconds_of(lambda: stream.step(row, new[0]), seconds),
        "sequence": seconds_of(lambda: module(x), seconds),
        "sequence_backward": max(
            seconds_of(lambda: module.backward(module.forward(x)[2], y), seconds) - forward, forward / 2
        ),
        "loss": seconds_of(lambda: loss.mse(row, 0.0), seconds),
    }
