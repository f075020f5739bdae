"""`cost`: what modules, cells and optimizers need, before they run."""

from typing import Any, NamedTuple

import numpy as np

from fusedstep import _core
from fusedstep._cost import Cost
from fusedstep.optim import Optimizer
from fusedstep.profiler import ceilings, model
from fusedstep.profiler.ceilings import Machine
from fusedstep.rnn import Cell, Module
from fusedstep.rnn._cost import Sizes


class Estimate(NamedTuple):
    """What a module, a cell or an optimizer costs. Printed, a table of one.

    Attributes
    ----------
    name : str
        Its class with its sizes and options.
    parameters : int
        Elements of its weights, or of what it optimizes.
    weight_bytes, state_bytes : int
        Of these; and of the states: h and c of B rows, or those of the optimizer.
    tape_bytes, lean_tape_bytes : int
        What a training step keeps between forward and backward; with ``tape="lean"``. 0 for an optimizer.
    training, inference : Cost or None
        Bytes and FLOPs of forward and backward, or of an optimizer's step; and of a frozen forward call.
    training_seconds, inference_seconds : float or None
        Predicted on this machine.
    """

    name: str
    parameters: int
    weight_bytes: int
    state_bytes: int
    tape_bytes: int
    lean_tape_bytes: int
    training: Cost
    inference: Cost | None
    training_seconds: float
    inference_seconds: float | None

    def __str__(self) -> str:
        """Lay out the figures."""
        return str(Estimates((self,)))


class Estimates(tuple[Estimate, ...]):
    """Several `Estimate`, side by side where they are printed."""

    __slots__ = ()

    def __str__(self) -> str:
        """Lay out the figures as a table, a column each."""
        rows = [["", *(e.name for e in self)]]
        rows.append(["parameters", *(f"{e.parameters:,}" for e in self)])
        for title, name in (("weights", "weight_bytes"), ("state", "state_bytes")):
            rows.append([title, *(_size(getattr(e, name)) for e in self)])
        if any(e.tape_bytes for e in self):
            rows.append(["tape, full", *(_size(e.tape_bytes) for e in self)])
            rows.append(["tape, lean", *(_size(e.lean_tape_bytes) for e in self)])
        steps = [("inference", "inference_seconds")] if any(e.inference for e in self) else []
        for what, seconds in [*steps, ("training", "training_seconds")]:
            costs = [getattr(e, what) for e in self]
            title = f"{what} step" if any(e.inference for e in self) else "step"
            rows.append([f"{title}: FLOPs", *(_count(c.flops) if c else "" for c in costs)])
            rows.append(["  bytes moved", *(_size(c.bytes) if c else "" for c in costs)])
            times = [getattr(e, seconds) for e in self]
            rows.append(["  predicted", *(_seconds(t) if t else "" for t in times)])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

        def line(first: str, *others: str) -> str:
            return f"{first:{widths[0]}}" + "".join(
                f"  {text:>{w}}" for text, w in zip(others, widths[1:], strict=True)
            )

        return "\n".join(line(*row) for row in rows)


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    scale, unit = next(((s, u) for s, u in units if value >= s), units[-1])
    value /= scale
    return f"{value:,.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.3g} {unit}"


def _size(size: int) -> str:
    return _scaled(size, ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")))


def _count(count: int) -> str:
    return _scaled(count, ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")))


def _seconds(seconds: float) -> str:
    return _scaled(seconds, ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")))


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an integer from 1 on, got {value!r}")
    return int(value)


def cost(*objects: Any, T: Any = 1, B: Any = 1, machine: Machine | None = None) -> Any:
    """Tell what modules, cells and optimizers cost, before they run.

    Parameters
    ----------
    *objects : Module, Cell or Optimizer
        One, or several to compare.
    T, B : int, optional
        Steps and rows of a call: of a cell B alone, of an optimizer neither.
    machine : Machine, optional
        What seconds are predicted for; this machine, as `fusedstep.machine` measured it, where None.

    Returns
    -------
    Estimate or Estimates
        Parameters, bytes of weights, state and tape, FLOPs and bytes of a training step and of an inference step, and
        their predicted seconds. Printed, a table: of several, a column each.

    Raises
    ------
    TypeError
        An object is none of these.
    ValueError
        `T` or `B` is no integer from 1 on, or there is no object.

    Notes
    -----
    A training step of a module or a cell is forward with a full tape and backward; an inference step is a call of the
    frozen module. Weights of an optimizer are the parameters that it has. Predictions are for arrays in CPU memory that
    the step before left in the caches, on a machine that does nothing else: `fusedstep.profiler.model` says how.

    Examples
    --------
    >>> import fusedstep
    >>> lstm, gru = fusedstep.rnn.LSTM(64, 128, rng=0), fusedstep.rnn.GRU(64, 128, rng=0)
    >>> e = fusedstep.cost(lstm, T=50, B=32)
    >>> e.parameters, e.weight_bytes, e.state_bytes, e.tape_bytes == lstm.tape_bytes(50, 32)
    (99328, 397312, 32768, True)
    >>> few, many = fusedstep.cost(gru, lstm, T=50, B=32)
    >>> few.training.flops < many.training.flops
    True
    """
    if not objects:
        raise ValueError("objects: expected a module, a cell or an optimizer, got none")
    steps, rows = _whole("T", T), _whole("B", B)
    for i, thing in enumerate(objects):
        if not isinstance(thing, Module | Cell | Optimizer):
            raise TypeError(f"objects[{i}]: expected a module, a cell or an optimizer, got {type(thing).__name__}")
    measured = machine or ceilings.machine()
    found = [_estimate(thing, steps, rows, measured) for thing in objects]
    return found[0] if len(found) == 1 else Estimates(found)


def _estimate(thing: Any, T: int, B: int, measured: Machine) -> Estimate:
    if isinstance(thing, Optimizer):
        return _of_optimizer(thing, measured)
    return _of_cell(thing, B, measured) if isinstance(thing, Cell) else _of_module(thing, T, B, measured)


def _of_optimizer(optimizer: Optimizer, measured: Machine) -> Estimate:
    total, seconds, states = Cost(0, 0), 0.0, 0
    arrays = [array for group in optimizer.param_groups for array in group["params"]]
    for i, group in enumerate(optimizer.param_groups):
        values = dict(group)
        rule, hyper = optimizer.rule(values)
        used = frozenset(name for name, value in zip(_names(rule), hyper, strict=True) if value)
        for itemsize in sorted({array.itemsize for array in values["params"]}):
            own = [array.size for array in values["params"] if array.itemsize == itemsize]
            found = model.step(measured, rule, len(own), sum(own), itemsize, used)
            total += found.cost
            # One call for all groups.
            seconds += found.seconds - (measured.calls["optimizer"] - measured.calls["tensor"] if i else 0.0)
            states += len(optimizer.state_names(values)) * sum(own) * itemsize
    options = [name for name in ("amsgrad", "centered", "momentum") if optimizer.param_groups[0].get(name)]
    name = type(optimizer).__name__ + (f"({', '.join(options)})" if options else "")
    size, nbytes = sum(array.size for array in arrays), sum(array.nbytes for array in arrays)
    return Estimate(name, size, nbytes, states, 0, 0, total, None, seconds, None)


def _names(rule: str) -> tuple[str, ...]:
    return _core.rules()[rule][0]


def _of_cell(cell: Cell, B: int, measured: Machine) -> Estimate:
    weights = cell.weights
    itemsize = weights["weight_ih"].dtype.itemsize
    H = cell.hidden_size
    s = Sizes(cell._kind, cell.input_size, H, H, bias="bias_ih" in weights, itemsize=itemsize)
    inference = model.cell(measured, s, B)
    forward, backward = model.cell(measured, s, B, frozen=False, tape=True), model.cell_backward(measured, s, B)
    tape = B * s.tape_width * itemsize
    return Estimate(
        f"{cell._kind} cell, I={s.I} H={H} B={B}",
        s.parameters,
        s.parameters * itemsize,
        B * s.state_width * itemsize,
        tape,
        tape,
        forward.cost + backward.cost,
        inference.cost,
        forward.seconds + backward.seconds,
        inference.seconds,
    )


def _of_module(module: Module, T: int, B: int, measured: Machine) -> Estimate:
    D, P, itemsize = module._directions, module._width, module.dtype.itemsize
    layers = [
        Sizes(module._kind, D * P if i else module.input_size, module.hidden_size, P, D, module.bias, itemsize)
        for i in range(module.num_layers)
    ]
    parameters = sum(s.parameters for s in layers)
    inference = _sum([model.sequence(measured, s, T * B, T, B) for s in layers])
    training = _sum(
        [model.sequence(measured, s, T * B, T, B, frozen=False, tape="full") for s in layers]
        + [model.sequence_backward(measured, s, T * B, T, B) for s in layers]
    )
    sizes = f"{module._kind}, I={module.input_size} H={module.hidden_size}" + f" P={P}" * (module.hidden_size > P)
    sizes += f", {module.num_layers} layers" * (module.num_layers > 1) + ", bidirectional" * (D > 1)
    return Estimate(
        f"{sizes}, T={T} B={B}",
        parameters,
        parameters * itemsize,
        sum(D * B * s.state_width for s in layers) * itemsize,
        module.tape_bytes(T, B),
        module.tape_bytes(T, B, "lean"),
        training.cost,
        inference.cost,
        training.seconds,
        inference.seconds,
    )


def _sum(predictions: list[model.Prediction]) -> model.Prediction:
    total = Cost(0, 0)
    for prediction in predictions:
        total += prediction.cost
    return model.Prediction(total, sum(prediction.seconds for prediction in predictions))
