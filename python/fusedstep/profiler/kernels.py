"""How fast the kernels' own parts are on this machine: what a prediction takes beside bandwidths and the peak.

Each is measured by a call that has little else in it, or by what one call takes beyond another.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fusedstep import _core
from fusedstep._cost import SIGMOID

# Of an optimizer's step that one thread takes (csrc/cpu/multi_tensor.cpp) and finds in L2.
STEP_ELEMENTS = 30_000
ROWS, WIDTH = 48, 192  # of a step whose time is that of its products
TENSORS = 64  # of an optimizer's step whose time is theirs

Call = Callable[[], Any]
Timer = Callable[[Call, float], float]  # the seconds of a call, of some rounds that take so many seconds


def _rounds(f: Call, seconds: float) -> list[float]:
    """Return the seconds of a call in each of several rounds, about so many seconds in all, after some to warm up."""
    repeats, taken = 1, 0.0
    while taken < seconds / 16:
        repeats *= 2
        start = time.perf_counter()
        for _ in range(repeats):
            f()
        taken = time.perf_counter() - start
    rounds: list[float] = []
    end = time.perf_counter() + seconds
    while not rounds or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(repeats):
            f()
        rounds.append((time.perf_counter() - start) / repeats)
    return rounds


def fastest(f: Call, seconds: float) -> float:
    """Return the seconds of a call in the fastest round: what the machine can do."""
    return min(_rounds(f, seconds))


def mean(f: Call, seconds: float) -> float:
    """Return the seconds of a call over all rounds: what the machine does now."""
    return float(np.mean(_rounds(f, seconds)))


class Probe(NamedTuple):
    """Calls to time, and what follows from their seconds."""

    calls: tuple[Call, ...]
    figure: Callable[..., float]

    def measure(self, seconds: float, timer: Timer = fastest) -> float:
        """Time every call for about so many seconds."""
        return self.figure(*(timer(call, seconds) for call in self.calls))


def _of(call: Call) -> Probe:
    return Probe((call,), lambda seconds: seconds)


def _rate(amount: float, *calls: Call) -> Probe:
    """Return the probe of so much of work a second, in 1e9: of the last call, beyond the first where there are two."""
    return Probe(calls, lambda first, last=0.0: amount / max(last - first if last else first, 1e-9) / 1e9)


def _stepper(rule: str, elements: int) -> tuple[Callable[..., Any], list[Any]]:
    """Return the step of a plan of one tensor, and its gradient: a rule whose hyperparameters are all 0."""
    hyper, states = _core.rules()[rule]
    p, g, *state = (_core.zeros((elements,), np.float32) for _ in range(2 + states))
    g[...] = 1
    plan = _core.Plan(None, False)
    plan.add_group(rule, [0.0] * len(hyper), False, [p], [tuple(state)])
    return plan.stepper(), [g]


# The probes of `rates`.


def _products() -> Probe:
    from fusedstep.rnn import LSTM  # noqa: PLC0415 - the package is whole when this is asked for

    stream = LSTM(WIDTH, WIDTH, rng=0).stream(ROWS)
    x, out = np.zeros((ROWS, WIDTH), np.float32), np.empty((ROWS, WIDTH), np.float32)
    return _rate(2 * 4 * WIDTH * 2 * WIDTH * ROWS, lambda: stream.step(x, out))


def _functions() -> Probe:
    values = np.linspace(-4, 4, 4096, dtype=np.float32)
    return _rate(SIGMOID * values.size, lambda: _core.math("sigmoid", values))


def _roots() -> Probe:
    step, grads = _stepper("adagrad", STEP_ELEMENTS)
    return _rate(STEP_ELEMENTS, lambda: step(grads, None, 1.0, False, False))


def _norms() -> Probe:
    step, grads = _stepper("adagrad", STEP_ELEMENTS)
    return _rate(
        STEP_ELEMENTS,
        lambda: step(grads, None, 1.0, False, False),
        lambda: step(grads, None, 1.0, True, False),
    )


def packed_width(threads: int) -> int:
    """Return the width, whole panels, of an LSTM's step of one row whose weights so many threads pack.

    csrc/cpu/rnn.h has each of several take 2¹⁷ of them, of 8 · width².
    """
    return 112 if threads == 1 else 64 * math.ceil(2 * math.sqrt(threads))


def packing(threads: int = 1) -> Probe:
    """Return what measures weights that are packed, on so many threads."""
    from fusedstep.rnn import LSTMCell  # noqa: PLC0415

    width = packed_width(threads)
    frozen, unfrozen = (LSTMCell(width, width, rng=0) for _ in range(2))
    frozen.freeze()
    row, state = np.zeros(width, np.float32), (np.zeros(width, np.float32),) * 2
    new = tuple(np.empty(width, np.float32) for _ in range(2))
    return _rate(8 * width**2, lambda: frozen(row, state, out=new), lambda: unfrozen(row, state, out=new))


# The probes of `calls`: the smallest call of each kind, as Python makes it.


def _optimizer() -> Probe:
    from fusedstep.optim import Adam  # noqa: PLC0415

    adam, grad = Adam(np.ones(1, np.float32)), np.ones(1, np.float32)
    return _of(lambda: adam.step(grad))


def _tensor() -> Probe:
    from fusedstep.optim import Adam  # noqa: PLC0415

    params, grads = ([np.ones(1, np.float32) for _ in range(TENSORS)] for _ in range(2))
    one, many = Adam(params[0].copy()), Adam(params)
    return Probe(
        (lambda: one.step(grads[0]), lambda: many.step(grads)),
        lambda single, several: max(several - single, 1e-9) / (TENSORS - 1),
    )


def _cell() -> Probe:
    from fusedstep.rnn import LSTMCell  # noqa: PLC0415

    cell, row = LSTMCell(1, 1, rng=0).freeze(), np.zeros(1, np.float32)
    state, new = (row, row.copy()), (row.copy(), row.copy())
    return _of(lambda: cell(row, state, out=new))


def _stream() -> Probe:
    from fusedstep.rnn import LSTM  # noqa: PLC0415

    stream, row, new = LSTM(1, 1, rng=0).stream(), np.zeros(1, np.float32), np.zeros(1, np.float32)
    return _of(lambda: stream.step(row, new))


def _sequence() -> Probe:
    from fusedstep.rnn import LSTM  # noqa: PLC0415

    module, x = LSTM(1, 1, rng=0), np.zeros((1, 1, 1), np.float32)
    return _of(lambda: module(x))


def _sequence_backward() -> Probe:
    from fusedstep.rnn import LSTM  # noqa: PLC0415

    module, x = LSTM(1, 1, rng=0), np.zeros((1, 1, 1), np.float32)
    y, _, _ = module.forward(x)
    return Probe(
        (lambda: module.forward(x), lambda: module.backward(module.forward(x)[2], y)),
        lambda forward, both: max(both - forward, forward / 2),
    )


def _loss() -> Probe:
    from fusedstep import loss  # noqa: PLC0415

    row = np.zeros(1, np.float32)
    return _of(lambda: loss.mse(row, 0.0))


RATES: dict[str, Callable[[], Probe]] = {
    "products": _products,
    "functions": _functions,
    "roots": _roots,
    "norms": _norms,
    "packing": packing,
}
CALLS: dict[str, Callable[[], Probe]] = {
    "optimizer": _optimizer,
    "tensor": _tensor,
    "cell": _cell,
    "stream": _stream,
    "sequence": _sequence,
    "sequence_backward": _sequence_backward,
    "loss": _loss,
}


def probe(name: str) -> Probe:
    """Return what measures one of `RATES`, of one thread in 1e9 a second of float32, or the seconds of one of `CALLS`.

    FLOPs of the products of many rows, and of the gates' functions; elements whose update takes a root and a division;
    elements of a norm; and weights that are packed. Seconds of the smallest call of each kind, and of each further
    tensor.
    """
    return (RATES | CALLS)[name]()
