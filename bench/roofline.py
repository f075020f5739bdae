"""What the arithmetic of a loss asks for: its operations at the peak of FMAs, divisions and roots at the divider's."""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from fusedstep import _core

from bench.timing import Sampler

CHAIN = 16  # divisions or roots of each element, which is loaded and stored once
ELEMENTS = 16384  # a thread: enough to run on all of them, and in their L2
DIVIDING = ("sigmoid", "tanh", "sigmoid_of")  # functions with one division; log and log1p of float have none


def peak(flops: int, seconds: float) -> float:
    """Return the seconds that so many operations take at the peak, measured in so many seconds."""
    return flops / (_core.fma_peak(np.float32, seconds) * 1e9)


def divisions(custom: Any) -> Counter[str]:
    """Return how often a custom loss, which has been called once, divides and takes roots for each element."""
    (plan,) = custom._plans.values()
    names = [step.name for step in plan.program.code]
    return Counter(divide=sum(name.count("divide") + (name in DIVIDING) for name in names), sqrt=names.count("sqrt"))


def divider(name: str) -> Sampler:
    """Return what times CHAIN divisions or roots of each of ELEMENTS a thread, by a custom loss's own steps."""
    x = np.full(ELEMENTS * _core.num_threads(), 1.5, np.float32)
    uniforms = [1.0001] if name == "divide" else []
    first = 1 + len(uniforms)  # the register; the output comes next
    slots = [0, *[first] * (CHAIN - 1), first + 1]
    code = [(name, False, to, [taken, *range(1, first)]) for taken, to in pairwise(slots)]
    chain = _core.Expression(code, 1, len(uniforms), 1, [False], False)
    names = {"run": chain.run, "x": x, "out": np.empty_like(x), "uniforms": uniforms}
    return Sampler("run(x, [x], ['x'], uniforms, [(out, False)], out)", names)


def computing(flops: int, n: int, divisions: Mapping[str, int]) -> Callable[[float], float]:
    """Return the longer of all operations at the peak, and of the divisions and roots at the divider's rate.

    The divider is a unit of its own, so that the two overlap. A function from seconds to sample to seconds of a step.
    """
    timed = [(count, divider(name)) for name, count in divisions.items() if count]

    def seconds_of_step(seconds: float) -> float:
        once = CHAIN * ELEMENTS * _core.num_threads()
        return max(peak(flops, seconds), sum(n * count * one.sample(seconds) / once for count, one in timed))

    return seconds_of_step
