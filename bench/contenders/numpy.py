"""NumPy as its users write it: about ten passes for Adam, and a product with each weight for a cell."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench import contenders, inputs, losses
from bench.cases import CellCase, LossCase, OptimCase, SequenceCase
from bench.contenders import Array, Step

Arrays = list[Array]


class Optimizer:
    """Parameters, states and a step count. `step` is one of the methods below for each tensor."""

    def __init__(self, case: OptimCase, params: Arrays) -> None:
        self.method = {"adam": adam, "adamw": adamw, "rmsprop": rmsprop, "adagrad": adagrad}[case.method]
        self.params = params
        self.states = [[np.zeros_like(p) for _ in range(case.states)] for p in params]
        self.t = 0

    def step(self, grads: Arrays) -> None:
        self.t += 1
        for p, g, states in zip(self.params, grads, self.states, strict=True):
            self.method(p, g, *states, t=self.t, lr=inputs.LEARNING_RATE)


def adam(p: Array, g: Array, m: Array, v: Array, *, t: int, lr: float) -> None:
    m *= 0.9
    m += 0.1 * g
    v *= 0.999
    v += 0.001 * g * g
    p -= lr / (1 - 0.9**t) * m / (np.sqrt(v) / math.sqrt(1 - 0.999**t) + 1e-8)


def adamw(p: Array, g: Array, m: Array, v: Array, *, t: int, lr: float) -> None:
    p *= 1 - lr * 0.01
    adam(p, g, m, v, t=t, lr=lr)


def rmsprop(p: Array, g: Array, v: Array, *, t: int, lr: float) -> None:  # noqa: ARG001
    v *= 0.99
    v += 0.01 * g * g
    p -= lr * g / (np.sqrt(v) + 1e-8)


def adagrad(p: Array, g: Array, s: Array, *, t: int, lr: float) -> None:  # noqa: ARG001
    s += g * g
    p -= lr * g / (np.sqrt(s) + 1e-10)


def sigmoid(x: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-x))
    return result


def lstm(x: Array, h: Array, c: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> Arrays:
    i, f, g, o = np.split(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def gru(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> Arrays:
    x_r, x_z, x_n = np.split(x @ w_ih.T + b_ih, 3, axis=1)
    h_r, h_z, h_n = np.split(h @ w_hh.T + b_hh, 3, axis=1)
    z = sigmoid(x_z + h_z)
    return [(1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h]


CELLS = {"lstm": lstm, "gru": gru}


def sequence(function: Callable[..., Arrays], x: Array, state: Sequence[Array], weights: Arrays) -> tuple[Array, ...]:
    """Return y and the last state."""
    y = np.empty((*x.shape[:2], state[0].shape[1]), x.dtype)
    for t, x_t in enumerate(x):
        state = function(x_t, *state, *weights)
        y[t] = state[0]
    return y, *state


class Contender(contenders.Contender):
    def describe(self) -> dict[str, Any]:
        """Add the BLAS kernels that NumPy runs, where threadpoolctl can say."""
        facts: dict[str, Any] = {"version": np.__version__}
        if importlib.util.find_spec("threadpoolctl"):
            from threadpoolctl import threadpool_info, threadpool_limits  # noqa: PLC0415

            threadpool_limits(self.threads, "blas")
            keys = ("internal_api", "version", "architecture", "num_threads")
            facts["blas"] = [
                {key: pool.get(key) for key in keys} for pool in threadpool_info() if pool["user_api"] == "blas"
            ]
        return facts

    def optim(self, case: OptimCase) -> Step:
        params, grads = (list(arrays) for arrays in zip(*inputs.tensors(case), strict=True))
        return Step("opt.step(g)", {"opt": Optimizer(case, params), "g": grads}, result=lambda: params)

    def cell(self, case: CellCase) -> Step:
        x, state, weights = inputs.cell(case)
        function = CELLS[case.method]
        args = (x, *state, *weights.values())
        return Step("cell(*args)", {"cell": function, "args": args}, result=lambda: function(*args))

    def sequence(self, case: SequenceCase) -> Step:
        given = inputs.sequence(case)
        args = (CELLS[case.method], given.x, given.state, list(given.weights.values()))
        names: dict[str, Any] = {"sequence": sequence, "args": args}
        return Step("new = sequence(*args)", names, result=lambda: list(names["new"]))

    def loss(self, case: LossCase) -> Step:
        names: dict[str, Any] = {"f": losses.NUMPY[case.method], "args": inputs.loss(case)}
        return Step("value, grad = f(*args)", names, lambda: [np.float64(names["value"]), names["grad"]])
