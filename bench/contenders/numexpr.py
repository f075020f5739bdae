"""numexpr: one compiled expression for the losses of the elements, one for their gradient; custom losses alone."""

from typing import Any

import numexpr
import numpy as np

from bench import contenders, inputs, losses
from bench.cases import LossCase
from bench.contenders import Array, Step


class Contender(contenders.Contender):
    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        numexpr.set_num_threads(threads)

    def describe(self) -> dict[str, Any]:
        return {"version": numexpr.__version__}

    def loss(self, case: LossCase) -> Step:
        p, t = inputs.loss(case)
        value_of, slope_of = losses.NUMEXPR[case.method]
        names: dict[str, Any] = {"p": p, "t": t, "n": p.dtype.type(p.size)}
        names |= {name: p.dtype.type(c) for name, c in losses.NUMEXPR_CONSTANTS.get(case.method, {}).items()}

        def f() -> tuple[Any, Array]:
            value = np.mean(numexpr.evaluate(value_of, names))
            return value, numexpr.evaluate(slope_of, names)

        own: dict[str, Any] = {"f": f}
        return Step("value, grad = f()", own, lambda: [np.float64(own["value"]), own["grad"]])
