"""What a custom loss computes once a call: values of numbers alone, in double."""

import math
import operator
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from fusedstep import _core
from fusedstep.loss._graph import Node, ordered

Step = tuple[
    int, Callable[..., Any] | None, tuple[int, ...], Any
]  # index, operation, arguments, a leaf's value or name


class Uniforms:
    """The uniform values of a program: computed in double, and again only where a call's numbers are other ones."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._steps = uniform_steps(nodes)
        self._last: tuple[bytes, list[float]] | None = None  # one object, so that threads see both or neither

    def values(self, numbers: dict[str, float]) -> list[float]:
        """Return the values, of numbers that always come in the same order."""
        bits = struct.pack(f"{len(numbers)}d", *numbers.values())
        last = self._last
        if last is None or last[0] != bits:
            self._last = last = bits, uniform_values(self._nodes, self._steps, numbers)
        return last[1]


def uniform_steps(nodes: list[Node]) -> list[Step]:
    """Return how to compute uniform nodes: index, operation, arguments' indices, and a leaf's value or name."""
    steps: list[Step] = []
    for node in ordered(*nodes):
        arguments_ = tuple(arg.index for arg in node.args)
        operation = UNIFORM_OPERATIONS[node.name] if arguments_ else None
        steps.append((node.index, operation, arguments_, node.title if node.value is None else node.value))
    return steps


def uniform_values(nodes: list[Node], steps: list[Step], numbers: dict[str, float]) -> list[float]:
    """Return the values of a program's uniform nodes, in double."""
    values: dict[int, float] = {}
    with np.errstate(all="ignore"):
        for index, operation, arguments_, leaf in steps:
            if operation is not None:
                values[index] = float(operation(*[values[i] for i in arguments_]))
            else:
                values[index] = numbers[leaf] if isinstance(leaf, str) else leaf
    return [values[node.index] for node in nodes]


def _of_core(name: str) -> Callable[[Any], Any]:
    return lambda x: _core.math(name, np.array([x]))[0]


def _divided(a: float, b: float) -> Any:
    return a / b if b else np.float64(a) / np.float64(b)


def _parity(b: float) -> float:
    """Return (−1)^b."""
    return math.nan if b % 1 else 1 - 2 * (b % 2)


def _power(a: float, b: float) -> Any:
    if b == 0:
        return 1.0
    size = _of_core("exp")(b * _of_core("log")(abs(a)))
    return size if a >= 0 else size * _parity(b)


UNIFORM_OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: _of_core(name) for name in ("exp", "log", "log1p", "tanh", "sigmoid", "softplus")},
    "negative": operator.neg,
    "absolute": abs,
    "sign": np.sign,
    "sqrt": lambda a: math.sqrt(a) if a >= 0 else math.nan,
    "not": lambda a: a == 0,
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": _divided,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "less": operator.lt,
    "less_equal": operator.le,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "and": lambda a, b: a != 0 and b != 0,
    "or": lambda a, b: a != 0 or b != 0,
    "where": lambda c, a, b: a if c != 0 else b,
    "power": _power,
    "parity": _parity,
}
