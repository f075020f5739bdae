"""The values that a function sees while it is traced."""

from typing import Any, NoReturn

import numpy as np

from fusedstep.loss._graph import ELEMENT, Graph, Node

BRANCH = (
    "a branch on a traced value (if, and, or, not, min, max, a chained comparison): write "
    "fusedstep.loss.math.where(condition, a, b), & | ~ between conditions, math.minimum, math.maximum or math.clip"
)

ARRAY = "an array meets a traced value: make the array a named parameter of the function"


class Traced:
    """A value of a traced function. Operators and `fusedstep.loss.math` make others of it; nothing else does."""

    __slots__ = ("graph", "node")

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph = graph
        self.node = node

    def __add__(self, other: Any) -> "Traced":
        return traced("add", self, other)

    def __radd__(self, other: Any) -> "Traced":
        return traced("add", other, self)

    def __sub__(self, other: Any) -> "Traced":
        return traced("subtract", self, other)

    def __rsub__(self, other: Any) -> "Traced":
        return traced("subtract", other, self)

    def __mul__(self, other: Any) -> "Traced":
        return traced("multiply", self, other)

    def __rmul__(self, other: Any) -> "Traced":
        return traced("multiply", other, self)

    def __truediv__(self, other: Any) -> "Traced":
        return traced("divide", self, other)

    def __rtruediv__(self, other: Any) -> "Traced":
        return traced("divide", other, self)

    def __pow__(self, other: Any) -> "Traced":
        return traced("power", self, other)

    def __rpow__(self, other: Any) -> "Traced":
        return traced("power", other, self)

    def __neg__(self) -> "Traced":
        return traced("negative", self)

    def __pos__(self) -> "Traced":
        return self

    def __abs__(self) -> "Traced":
        return traced("absolute", self)

    def __lt__(self, other: Any) -> "Traced":
        return traced("less", self, other)

    def __le__(self, other: Any) -> "Traced":
        return traced("less_equal", self, other)

    def __gt__(self, other: Any) -> "Traced":
        return traced("less", other, self)

    def __ge__(self, other: Any) -> "Traced":
        return traced("less_equal", other, self)

    def __eq__(self, other: object) -> "Traced":  # type: ignore[override]
        return traced("equal", self, other)

    def __ne__(self, other: object) -> "Traced":  # type: ignore[override]
        return traced("not_equal", self, other)

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: Any) -> "Traced":
        return traced("and", self, other)

    def __rand__(self, other: Any) -> "Traced":
        return traced("and", other, self)

    def __or__(self, other: Any) -> "Traced":
        return traced("or", self, other)

    def __ror__(self, other: Any) -> "Traced":
        return traced("or", other, self)

    def __invert__(self) -> "Traced":
        return traced("not", self)

    # What cannot be traced.

    def __bool__(self) -> bool:
        raise TypeError(BRANCH)

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **options: Any) -> NoReturn:
        if any(isinstance(arg, np.ndarray) for arg in args):
            raise TypeError(ARRAY)
        raise TypeError(
            f"numpy.{ufunc.__name__} of a traced value: write fusedstep.loss.math.{ufunc.__name__}, or what "
            "fusedstep.loss.math has of it"
        )

    def __array_function__(self, function: Any, *_: Any) -> NoReturn:
        raise TypeError(f"numpy.{function.__name__} of a traced value: write it with fusedstep.loss.math")

    def _number(self) -> NoReturn:
        raise TypeError(
            "a number is asked of a traced value (math.exp, float, int, round): write fusedstep.loss.math.exp and so on"
        )

    __float__ = __int__ = __index__ = __complex__ = __round__ = _number
    __array__ = _number

    def _items(self, *_: Any) -> NoReturn:
        raise TypeError(
            "items of a traced value: a loss sees one element; write fusedstep.loss.math.sum for the last axis"
        )

    __getitem__ = __len__ = __iter__ = _items

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a traced value has no {name}: write it with operators and fusedstep.loss.math")


def traced(name: str, *args: Any) -> Traced:
    """Return the value of an operation on traced values and numbers."""
    graphs = [arg.graph for arg in args if isinstance(arg, Traced)]
    if not graphs:
        raise TypeError(f"{name}: expected at least one traced value, got numbers alone")
    if any(graph is not graphs[0] for graph in graphs):
        raise TypeError(f"{name}: a value of another function's trace")
    return Traced(graphs[0], graphs[0].make(name, *(node_of(graphs[0], arg) for arg in args)))


def node_of(graph: Graph, value: Any) -> Node:
    """Return the node of a traced value or a number."""
    if isinstance(value, Traced):
        return value.node
    if isinstance(value, int | float | np.floating | np.integer | np.bool_):
        return graph.constant(float(value))
    if isinstance(value, np.ndarray):
        raise TypeError(ARRAY)
    kind = type(value).__name__
    hint = ": make it a named parameter of the function" if hasattr(value, "__len__") else ""
    raise TypeError(f"expected a traced value or a number, got {kind}{hint}")


def arguments(graph: Graph, names: list[str]) -> list[Traced]:
    """Return the arguments that a function is traced with."""
    assert all(graph.levels[name] == ELEMENT for name in names)
    return [Traced(graph, graph.leaf(name)) for name in names]
