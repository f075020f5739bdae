"""The user's own losses: a Python function, traced once, differentiated, and run in one pass."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from fusedstep._array import view
from fusedstep.loss import _cpu
from fusedstep.loss._arguments import NUMBERS, place_of, signature, wanted_names, wide
from fusedstep.loss._base import MEAN, NONE, reduction_of
from fusedstep.loss._check import Check, checked
from fusedstep.loss._compile import Broadcast, Output, Program, compiled
from fusedstep.loss._derivative import derivatives
from fusedstep.loss._explain import text_of
from fusedstep.loss._graph import ELEMENT, ROW, UNIFORM, Graph, Node, ordered, rebuilt, without_power_of_two
from fusedstep.loss._trace import Traced, arguments, node_of
from fusedstep.loss._uniform import Uniforms


class Plan(NamedTuple):
    """A program with what its outputs are."""

    program: Program
    value_level: int
    factor: float  # of the value's sum
    gradients: list[tuple[str, int]]  # of the outputs between value and gradient
    uniforms: Uniforms


class Custom:
    """A loss made of a function; `custom` makes one.

    Parameters
    ----------
    f : callable
        Of `pred`, `target` and named parameters.
    """

    def __init__(self, f: Callable[..., Any]) -> None:
        self.__doc__ = f.__doc__
        self.name = getattr(f, "__name__", "f")
        self.names, self.defaults = signature(f)
        self._graph = Graph(dict.fromkeys(self.names, ELEMENT) | {"count": UNIFORM})
        value = f(*arguments(self._graph, self.names))
        if not isinstance(value, Traced):
            raise TypeError(f"{self.name}: expected a traced value as the result, got {type(value).__name__}")
        self._root = node_of(self._graph, value)
        if all(node.title != self.names[0] for node in ordered(self._root)):
            raise ValueError(f"{self.name}: expected a result that depends on {self.names[0]}")
        self._by_row = any(node.name == "sum" for node in ordered(self._root))
        self._plans: dict[tuple[Any, ...], Plan] = {}

    def __repr__(self) -> str:
        """Name the function and its arguments."""
        return f"custom({self.name}({', '.join(self.names)}))"

    def __call__(
        self,
        pred: Any,
        target: Any,
        *,
        reduction: str = "mean",
        wrt: str | Iterable[str] = (),
        out: Any = None,
        grad: bool = True,
        **parameters: Any,
    ) -> Any:
        """Compute value and gradient.

        Parameters
        ----------
        pred : array_like
            Any shape; float32 or float64, C-contiguous.
        target : array_like or float
            Broadcast to `pred`; its dtype, int32, int64, uint8 or bool.
        reduction : {"mean", "sum", "none"}
            Of the value: over elements, or over rows where the function's value is one for each row. With "none" the
            gradient is that of the sum.
        wrt : str or iterable of str
            Names of further arguments whose gradients are wanted.
        out : array_like, optional
            Where the gradient is written; may be `pred` itself. A new array otherwise.
        grad : bool
            False: the value alone is computed and returned.
        **parameters : array_like or float
            The function's named parameters, broadcast to `pred`; those with defaults may be left out.

        Returns
        -------
        value : float or ndarray
        grad : ndarray
            The gradient of the value in `pred`; not returned with ``grad=False``.
        gradients : dict of str to ndarray or float
            With `wrt`: a float for a number, otherwise an array of the argument's shape.

        Raises
        ------
        ValueError, TypeError
            An argument does not fit; the message names it. Nothing is written.
        """
        chosen = reduction_of(reduction)
        place = place_of(self.names, pred, target, parameters)
        x = place.real(pred, self.names[0])
        if self._by_row and (x.ndim == 0 or x.shape[-1] == 0):
            raise ValueError(
                f"{self.names[0]}: expected a last axis with elements, as it is summed, got shape {x.shape}"
            )
        given = self._given(target, parameters, place)
        wanted = wanted_names(wrt, self.names[1:], grad)
        numbers = {name: value for name, value in given.items() if isinstance(value, float)}
        plan = self._plan(frozenset(numbers), wanted, grad, chosen != NONE)
        shape = x.shape[:-1] if plan.value_level == ROW else x.shape
        n = math.prod(shape)
        seed = 1 / n if chosen == MEAN and n else 1.0
        uniform = numbers | {"seed": seed, "count": float(x.shape[-1]) if x.ndim else 1.0}

        to = place.gradient(x, out, grad)
        targets: list[Any] = [place.empty(shape, x.dtype) if chosen == NONE else None]
        for name, _ in plan.gradients:
            if name in numbers:
                targets.append(None)
            else:
                own = given[name].shape
                targets.append(place.empty(own, x.dtype) if own == x.shape else Broadcast(own))
        if to is not None:
            targets.append(to)
        arrays = {self.names[0]: x, **given}
        program = plan.program
        results = place.run(
            program,
            [arrays[name] for name in program.inputs],
            plan.uniforms.values(uniform),
            targets,
            to,
        )
        value = results[0] if seed == plan.factor == 1 else results[0] * (seed * plan.factor)
        if to is None:
            return value
        result = (value, to if out is None else out)
        if not wanted:
            return result
        gradients: dict[str, Any] = {}
        for (name, _), found in zip(plan.gradients, results[1:], strict=False):
            gradients[name] = gradients[name] + found if name in gradients else found
        for name in wanted:
            if name not in gradients:
                gradients[name] = 0.0 if name in numbers else place.zeros(given[name].shape, x.dtype)
        return *result, gradients

    def _given(self, target: Any, parameters: dict[str, Any], place: Any) -> dict[str, Any]:
        """Return target and parameters by name, numbers as floats."""
        names = self.names[1:]
        unknown = set(parameters) - set(names[1:])
        if unknown:
            raise TypeError(f"{self.name} has no parameter {', '.join(sorted(unknown))}; it has {', '.join(names[1:])}")
        values = self.defaults | parameters | {names[0]: target}
        missing = [name for name in names if name not in values]
        if missing:
            raise TypeError(f"{self.name}: missing parameter {', '.join(missing)}")
        given: dict[str, Any] = {}
        for name in names:
            value = values[name]
            if isinstance(value, NUMBERS):
                given[name] = float(value)
            else:
                given[name] = place.view(value, name)
        return given

    def _plan(self, uniform: frozenset[str], wanted: tuple[str, ...], grad: bool, summed: bool = True) -> Plan:
        """Return the program for these kinds of arguments, compiled at its first use."""
        key = (uniform, wanted, grad, summed)
        if key not in self._plans:
            graph, root = self._leveled(uniform)
            factor, value = without_power_of_two(root) if summed else (1.0, root)
            outputs = [Output(value, root.level)]
            gradients: list[tuple[str, int]] = []
            if grad:
                pred = self.names[0]
                leaves = {name: graph.leaf(name) for name in (pred, *wanted)}
                found = derivatives(graph, root, graph.leaf("seed"), leaves)
                for name in wanted:
                    for level in (ELEMENT, ROW):
                        if (name, level) in found:
                            gradients.append((name, level))
                            outputs.append(Output(found[name, level], level))
                outputs.append(Output(found.get((pred, ELEMENT), graph.constant(0)), ELEMENT))
            inputs = [name for name in self.names if name not in uniform]
            program = compiled(graph, outputs, inputs, self._by_row)
            flops = [sum(step.flops for step in program.code if step.rows == rows) for rows in (False, True)]
            program.expression.describe(self.name, *flops)
            self._plans[key] = Plan(program, root.level, factor, gradients, Uniforms(program.uniforms))
        return self._plans[key]

    def _leveled(self, uniform: frozenset[str]) -> tuple[Graph, Node]:
        levels = {name: UNIFORM if name in uniform else ELEMENT for name in (*self.names, "seed", "count")}
        graph = Graph(levels | {"seed": UNIFORM, "count": UNIFORM})
        root = rebuilt(graph, self._root)
        if root.level == UNIFORM:
            raise ValueError(f"{self.name}: expected a result that depends on {self.names[0]}")
        return graph, root

    def check(self, pred: Any, target: Any, *, samples: int = 64, seed: int = 0, **parameters: Any) -> Check:
        """Compare the gradient with central differences, both in float64.

        Parameters
        ----------
        pred, target, **parameters : array_like or float
            As in a call.
        samples : int
            How many elements are compared, drawn with `seed`; all of them where there are fewer.
        seed : int
            Of the draw.

        Returns
        -------
        Check
            The largest error, relative to the gradient or to 1, and where it is. About 1e-8 for a smooth function;
            across a corner, as of ``abs`` at 0, the two may differ.
        """
        x = np.array(view(pred, self.names[0]), np.float64, order="C")
        given = {name: wide(value, name) for name, value in self._given(target, parameters, _cpu).items()}
        return checked(self, self.names[0], x, given.pop(self.names[1]), given, samples, seed)

    def explain(self, **parameters: Any) -> None:
        """Print the program: its steps, and the bytes and operations that an element takes.

        Parameters
        ----------
        **parameters : array_like or float
            Arguments that are arrays, or numbers, in the calls to explain. The target is taken to be an array, and
            every parameter a number.
        """
        kinds: dict[str, Any] = dict.fromkeys(self.names[2:], 0.0) | parameters
        uniform = frozenset(name for name, value in kinds.items() if isinstance(value, int | float | np.number))
        plan = self._plan(uniform, (), True)
        print(text_of(self.name, self.names, plan.program, plan.value_level, plan.factor), end="")


def custom(f: Callable[..., Any]) -> Custom:
    """Make a loss of a Python function.

    Parameters
    ----------
    f : callable
        ``f(pred, target, **parameters)``, of operators and the functions of `fusedstep.loss.math`. It is called once,
        here, with values that record what is done with them.

    Returns
    -------
    Custom
        ``my(pred, target)`` gives value and gradient; `Custom.check` compares the gradient with differences,
        `Custom.explain` prints what is run.

    Raises
    ------
    TypeError
        The function cannot be traced: it branches on a value, or calls what is not in `fusedstep.loss.math`. The
        message says what to write.

    Notes
    -----
    The gradient is derived symbolically. Value, gradient and reduction are one pass over the arrays, a few vectors at a
    time, on all threads; the bits depend neither on their number nor on the instruction set. With a sum over the last
    axis whole rows are worked on, 2 KiB of them at a time.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep
    >>> from fusedstep.loss import math
    >>> @fusedstep.loss.custom
    ... def charbonnier(pred, target, eps=1e-3):
    ...     return math.sqrt((pred - target) ** 2 + eps * eps)
    >>> value, grad = charbonnier(np.array([0.5, 2.0]), np.array([0.0, 2.0]), eps=0.1)
    >>> round(value, 4), grad.round(4)
    (0.305, array([0.4903, 0.    ]))
    >>> charbonnier.check(np.linspace(-1, 1, 9), 0.1).error < 1e-6
    True
    """
    return Custom(f)
