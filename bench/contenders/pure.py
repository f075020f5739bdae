"""Pure Python: lists and floats, at a size that it can finish."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from fusedstep import _pure

from bench import contenders, inputs
from bench.cases import AnyCase, CellCase, OptimCase, SequenceCase
from bench.contenders import Step

CELLS: dict[str, Callable[..., Any]] = {"lstm": _pure.lstm_cell, "gru": _pure.gru_cell}


class Contender(contenders.Contender):
    def fit(self, case: OptimCase | CellCase | SequenceCase) -> AnyCase:
        return case.for_python()

    def optim(self, case: OptimCase) -> Step:
        ((p, g),) = ((p.tolist(), g.tolist()) for p, g in inputs.tensors(case))
        states = ", ".join(f"s{i}" for i in range(case.states))
        call = {
            "adam": f"step(p, g, {states}, next(t), lr, 0.9, 0.999, 1e-8)",
            "rmsprop": f"step(p, g, {states}, lr, 0.99, 1e-8)",
            "adagrad": f"step(p, g, {states}, next(t), lr, 1e-10)",
        }
        names: dict[str, Any] = {"step": getattr(_pure, f"{case.method}_step"), "p": p, "g": g}
        names |= {"t": itertools.count(1), "lr": inputs.LEARNING_RATE}
        names |= {f"s{i}": [0.0] * len(p) for i in range(case.states)}
        return Step(call[case.method], names, result=lambda: [np.array(p)])

    def cell(self, case: CellCase) -> Step:
        x, state, weights = inputs.cell(case)
        function = CELLS[case.method]
        args = [x[0].tolist(), *(a[0].tolist() for a in state), *(w.tolist() for w in weights.values())]
        return Step("cell(*args)", {"cell": function, "args": args}, lambda: [*np.atleast_2d(function(*args))[:, None]])

    def sequence(self, case: SequenceCase) -> Step:
        given = inputs.sequence(case)
        function, weights = CELLS[case.method], [w.tolist() for w in given.weights.values()]

        def run(x: list[list[float]], *state: list[float]) -> tuple[list[list[float]], tuple[list[float], ...]]:
            y = []
            for x_t in x:
                new = function(x_t, *state, *weights)
                state = new if case.method == "lstm" else (new,)
                y.append(state[0])
            return y, state

        names: dict[str, Any] = {"run": run, "args": [given.x[:, 0].tolist(), *(a[0].tolist() for a in given.state)]}

        def result() -> list[Any]:
            y, state = names["y"], names["state"]
            return [np.array(y)[:, None], *(np.array([a]) for a in state)]

        return Step("y, state = run(*args)", names, result)
