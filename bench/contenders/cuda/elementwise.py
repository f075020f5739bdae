"""CuPy's ElementwiseKernel: one kernel a tensor, as Chainer's optimizers do it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cupy

from bench import contenders, inputs
from bench.cases import OptimCase
from bench.contenders import Step
from bench.contenders.cuda import cupy_clock


@dataclass(frozen=True)
class Method:
    """`update` is C and Python alike: of g, p and the states, in place, and the scalars that `scalars` gives for t."""

    states: tuple[str, ...]
    names: tuple[str, ...]  # of the scalars
    scalars: Callable[[int], tuple[float, ...]]
    update: str


RATE = inputs.LEARNING_RATE
ADAM = "m += 0.1f * (g - m); v += 0.001f * (g * g - v); p -= step * m / (sqrt(v) * scale + 1e-8f)"
METHODS = {
    "adam": Method(("m", "v"), ("step", "scale"), lambda t: (RATE / (1 - 0.9**t), 1 / math.sqrt(1 - 0.999**t)), ADAM),
    "adamw": Method(
        ("m", "v"),
        ("step", "scale", "keep"),
        lambda t: (RATE / (1 - 0.9**t), 1 / math.sqrt(1 - 0.999**t), 1 - RATE * 0.01),
        f"p *= keep; {ADAM}",
    ),
    "rmsprop": Method(
        ("v",), ("rate",), lambda _: (RATE,), "v += 0.01f * (g * g - v); p -= rate * g / (sqrt(v) + 1e-8f)"
    ),
    "adagrad": Method(("s",), ("rate",), lambda _: (RATE,), "s += g * g; p -= rate * g / (sqrt(s) + 1e-10f)"),
}


def kernel(method: Method) -> Callable[..., Any]:
    """Return the function of g, scalars, p and states."""
    given = ", ".join(f"float32 {name}" for name in ("g", *method.names))
    changed = ", ".join(f"float32 {name}" for name in ("p", *method.states))
    return cupy.ElementwiseKernel(given, changed, method.update, "update")


class Optimizer:
    """Holds parameters, states and the count of steps; `function` is called for each tensor."""

    def __init__(self, method: Method, params: list[Any], function: Callable[..., Any]) -> None:
        self.method, self.params, self.function = method, params, function
        self.states = [[cupy.zeros_like(p) for _ in method.states] for p in params]
        self.t = 0

    def step(self, grads: list[Any]) -> None:
        self.t += 1
        scalars = self.method.scalars(self.t)
        for p, g, states in zip(self.params, grads, self.states, strict=True):
            self.function(g, *scalars, p, *states)


class Contender(contenders.Contender):
    make = staticmethod(kernel)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        cupy.cuda.Stream(non_blocking=True).use()

    def describe(self) -> dict[str, Any]:
        return {"version": cupy.__version__}

    def optim(self, case: OptimCase) -> Step:
        params, grads = ([cupy.asarray(a) for a in arrays] for arrays in zip(*inputs.tensors(case), strict=True))
        method = METHODS[case.method]
        return Step(
            "opt.step(g)",
            {"opt": Optimizer(method, params, self.make(method)), "g": grads},
            result=lambda: [cupy.asnumpy(p) for p in params],
            clock=cupy_clock(),
        )
