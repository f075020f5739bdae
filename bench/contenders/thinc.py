"""thinc's Adam. It takes one tensor a call and zeroes the gradient, which a sample's setup fills again."""

from typing import Any

import thinc
from thinc.api import Adam, NumpyOps, set_current_ops

from bench import contenders, inputs
from bench.cases import OptimCase
from bench.contenders import Step


class Contender(contenders.Contender):
    def describe(self) -> dict[str, Any]:
        return {"version": thinc.__version__}

    def optim(self, case: OptimCase) -> Step:
        set_current_ops(NumpyOps())
        ((p, g),) = inputs.tensors(case)
        opt = Adam(inputs.LEARNING_RATE, L2=0.0, grad_clip=0.0, beta1=0.9, beta2=0.999, eps=1e-8)
        names = {"opt": opt, "key": (0, "p"), "p": p, "g": g}
        return Step("opt(key, p, g)", names, result=lambda: [p], setup="g.fill(0.5)", zeroes=True)
