"""The user's own losses: a Python function, traced once, differentiated, and run in one pass."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from fusedstep import _core
from fusedstep._array import Array, view
from fusedstep.loss._base import MEAN, NONE, gradient, real, reduction_of
from fusedstep.loss._compile import Output, Program, compiled
from fusedstep.loss._derivative import derivatives
from fusedstep.loss._explain import text_of
from fusedstep.loss._graph import ELEMENT, ROW, UNIFORM, Graph, Node, ordered, rebuilt
from fusedstep.loss._trace import Traced, arguments, node_of
from fusedstep.loss._uniform import Step, uniform_steps, uniform_values

RESERVED = {"reduction", "wrt", "out", "grad", "seed", "count"}


class Check(NamedTuple):
    """What `Custom.check` found: the largest error, where, and both gradients there."""

    error: float
    name: str
    at: tuple[int, ...]
    gradient: float
    difference: float


class Plan(NamedTuple):
    """A program with what its outputs are."""

    program: Program
    value_level: int
    gradients: list[tuple[str, int]]  # of the outputs between value and gradient
    uniform_steps: list[Step]


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
        self.names, self.defaults = _signature(f)
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
        x = real(pred, self.names[0])
        given = self._given(target, parameters)
        wanted = _wanted(wrt, self.names[1:], grad)
        uniform = frozenset(name for name, value in given.items() if isinstance(value, float))
        plan = self._plan(uniform, wanted, grad)
        shape = x.shape[:-1] if plan.value_level == ROW else x.shape
        n = math.prod(shape)
        seed = 1 / n if chosen == MEAN and n else 1.0
        numbers = {name: value for name, value in given.items() if isinstance(value, float)}
        numbers |= {"seed": seed, "count": float(x.shape[-1]) if x.ndim else 1.0}

        values = _core.empty(shape, x.dtype) if chosen == NONE else None
        to = gradient(x, out, grad)
        outputs: list[tuple[Array | None, bool]] = [(values, values is None)]
        for name, level in plan.gradients:
            full = level == ELEMENT and name not in uniform
            outputs.append((_core.empty(x.shape, x.dtype) if full else None, not full))
        if to is not None:
            outputs.append((to, False))
        arrays = {self.names[0]: x, **given}
        program = plan.program
        sums = program.expression.run(
            x,
            [arrays[name] for name in program.inputs],
            program.inputs,
            uniform_values(program.uniforms, plan.uniform_steps, numbers),
            outputs,
            to,
        )
        value: Any = values
        if chosen != NONE:
            total = sums[0]
            assert total is not None
            value = total * seed
        if to is None:
            return value
        found = (value, to if out is None else out)
        return found if not wanted else (*found, self._collected(plan, outputs, sums, given, wanted))

    def _given(self, target: Any, parameters: dict[str, Any]) -> dict[str, Any]:
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
            if isinstance(value, int | float | np.number | np.bool_):
                given[name] = float(value)
            else:
                given[name] = view(value, name)
        return given

    def _plan(self, uniform: frozenset[str], wanted: tuple[str, ...], grad: bool) -> Plan:
        """Return the program for these kinds of arguments, compiled at its first use."""
        key = (uniform, wanted, grad)
        if key not in self._plans:
            graph, root = self._leveled(uniform)
            outputs = [Output(root, root.level)]
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
            self._plans[key] = Plan(program, root.level, gradients, uniform_steps(program.uniforms))
        return self._plans[key]

    def _leveled(self, uniform: frozenset[str]) -> tuple[Graph, Node]:
        levels = {name: UNIFORM if name in uniform else ELEMENT for name in (*self.names, "seed", "count")}
        graph = Graph(levels | {"seed": UNIFORM, "count": UNIFORM})
        root = rebuilt(graph, self._root)
        if root.level == UNIFORM:
            raise ValueError(f"{self.name}: expected a result that depends on {self.names[0]}")
        return graph, root

    def _collected(
        self,
        plan: Plan,
        outputs: list[tuple[Array | None, bool]],
        sums: list[float | None],
        given: dict[str, Any],
        wanted: tuple[str, ...],
    ) -> dict[str, Any]:
        result: dict[str, Any] = {
            name: 0.0 if isinstance(given[name], float) else np.zeros(given[name].shape, outputs[-1][0].dtype)  # type: ignore[union-attr]
            for name in wanted
        }
        for (name, _), (array, _), total in zip(plan.gradients, outputs[1:], sums[1:], strict=False):
            result[name] = result[name] + total if array is None else _summed(array, given[name].shape)
        return result

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
        wide = {name: _wide(value, name) for name, value in self._given(target, parameters).items()}
        target = wide.pop(self.names[1])
        _, gradient_of = self(x, target, reduction="sum", **wide)
        worst = Check(0.0, self.names[0], (), 0.0, 0.0)
        chosen = np.random.default_rng(seed).permutation(x.size)[:samples]
        for flat in map(int, chosen):
            index = tuple(map(int, np.unravel_index(flat, x.shape)))
            step = float(np.cbrt(np.finfo(np.float64).eps)) * max(1.0, abs(float(x[index])))
            at, sides = x[index], []
            for moved in (at + step, at - step):
                x[index] = moved
                sides.append((moved, self(x, target, reduction="none", grad=False, **wide)))
            x[index] = at
            (above, high), (below, low) = sides
            difference = float(np.sum(high - low) / (above - below))
            exact = float(gradient_of[index])
            error = abs(exact - difference) / max(1.0, abs(exact))
            if not error <= worst.error:
                worst = Check(error, self.names[0], index, exact, difference)
        return worst

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
        print(text_of(self.name, self.names, plan.program, plan.value_level), end="")


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
    The gradient is derived symbolically. Value, gradient and reduction are one pass over the arrays, a chunk of 2 KiB
    at a time, on all threads; the bits depend neither on their number nor on the instruction set. With a sum over the
    last axis a chunk holds whole rows.

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


def _signature(f: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    import inspect  # noqa: PLC0415 - takes a while, and is seldom needed

    names: list[str] = []
    defaults: dict[str, Any] = {}
    for name, parameter in inspect.signature(f).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"f: expected named parameters, got {parameter}")
        if name in RESERVED and len(names) > 1:
            raise ValueError(f"f: expected another name than {name}, which a call has a meaning for")
        names.append(name)
        if parameter.default is not parameter.empty:
            defaults[name] = parameter.default
    if len(names) < 2:
        raise TypeError(f"f: expected the arguments pred and target first, got ({', '.join(names)})")
    return names, defaults


def _wanted(wrt: str | Iterable[str], names: list[str], grad: bool) -> tuple[str, ...]:
    wanted = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    for name in wanted:
        if name not in names:
            raise ValueError(f"wrt: expected names among {', '.join(names)}, got {name!r}")
    if wanted and not grad:
        raise ValueError("wrt: expected none with grad=False")
    return wanted


def _wide(value: Any, name: str) -> Any:
    return value if isinstance(value, float) else np.asarray(view(value, name), np.float64)


def _summed(array: Array, shape: tuple[int, ...]) -> Array:
    """Return the sum over the axes that `shape` was broadcast along, added in double."""
    extra = array.ndim - len(shape)
    axes = tuple(i for i in range(array.ndim) if i < extra or (shape[i - extra] == 1 and array.shape[i] != 1))
    if not axes:
        return array
    result: Array = np.add.reduce(array, axes, np.float64, keepdims=True).reshape(shape).astype(array.dtype)
    return result
