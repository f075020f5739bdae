"""What every cell shares: the tape, the gradients, and the object that owns weights."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from fusedstep import _array, _core, _device
from fusedstep._array import Array
from fusedstep.rnn._places import moved, place_of


class Tape:
    """What a forward call leaves for its backward one.

    It refers to the call's weights, input and states: change none of them before backward. Where `out` was given, input
    and states are copies, so that the same buffers may serve the next step.

    Attributes
    ----------
    kind : str
        Which compiled cell.
    weights : mapping
        The weight arrays by name; None or missing where absent.
    x : ndarray
        The input.
    state : tuple of ndarray or None
        The state before the step: (h, c) or (h,); None for zeros.
    out : tuple of ndarray
        The state after the step.
    saved : ndarray
        (batch, k·hidden): gates after their nonlinearities.
    """

    __slots__ = ("kind", "out", "saved", "state", "weights", "x")

    def __init__(
        self,
        kind: str,
        weights: Mapping[str, Any],
        x: Array,
        state: tuple[Array | None, ...],
        out: tuple[Array, ...],
        saved: Array,
    ) -> None:
        self.kind = kind
        self.weights = weights
        self.x = x
        self.state = state
        self.out = out
        self.saved = saved


class Gradients:
    """The gradients that a backward call returns.

    Attributes
    ----------
    x : ndarray
        Shape of the input.
    state : ndarray or tuple of ndarray
        Of the state before the step, in its form: (h, c) for an LSTM, h for a GRU.
    weights : dict
        By the weights' names, in their shapes; those that were absent are missing.
    """

    __slots__ = ("state", "weights", "x")

    def __init__(self, x: Array, state: Any, weights: dict[str, Array]) -> None:
        self.x = x
        self.state = state
        self.weights = weights

    def __repr__(self) -> str:
        """Show the names of the weights."""
        return f"Gradients(x, state, weights: {', '.join(self.weights)})"


def taped(
    kind: str,
    weights: Mapping[str, Any],
    x: Any,
    state: Any,
    out: Any,
    call: Callable[[Any, Any, Any, bool], Any],
    view: Callable[[Any, str], Any] = _array.view,
) -> tuple[Any, Tape]:
    """Run ``call(x, state, out, True)``, which returns (new state, saved), and keep what backward needs."""

    def kept(obj: Any, name: str) -> Array:
        array: Array = view(obj, name)
        return array if out is None else array.copy()

    def kept_states(state: Any) -> tuple[Array, ...]:
        items = state if isinstance(state, tuple | list) else (state,)
        return tuple(kept(item, name) for item, name in zip(items, ("h", "c"), strict=False))

    old = (None,) * _core.cells()[kind]["states"] if state is None else kept_states(state)
    old_x = kept(x, "x")
    new, saved = call(x, state, out, True)
    return new, Tape(kind, weights, old_x, old, kept_states(new), saved)


def backward(tape: Tape, *gradients: Any) -> Gradients:
    """Run a step backward. `gradients` are those of the new state; None means zero."""
    arguments = tape.kind, dict(tape.weights), tape.x, tape.state, tape.out, tape.saved, gradients
    try:
        dx, dstate, weights = _core.cell_backward(*arguments)
    except TypeError:
        if not _device.is_cuda(tape.saved):
            raise
        dx, dstate, weights = place_of({"saved": tape.saved}).cell_backward(*arguments)
    return Gradients(dx, dstate if len(dstate) > 1 else dstate[0], weights)


def any_on_cuda(weights: Mapping[str, Any], *arguments: Any) -> bool:
    """Tell whether an argument of a step is in CUDA memory: asked where `_core` has refused one."""
    given = (
        item for argument in arguments for item in (argument if isinstance(argument, tuple | list) else (argument,))
    )
    return any(map(_device.is_cuda, (*weights.values(), *given)))


def step_on_cuda(kind: str, weights: Mapping[str, Any], x: Any, state: Any, out: Any, tape: bool) -> Any:
    """Take a step over arrays in CUDA memory, all on one GPU."""
    place = place_of({**weights, "x": x, **_named(state, "{}"), **_named(out, "out[{}]")})
    call = partial(place.cell_forward, kind, weights)
    return taped(kind, weights, x, state, out, call, place.view) if tape else call(x, state, out, False)


def _named(state: Any, form: str) -> dict[str, Any]:
    """Call the arrays of a state what errors do."""
    if not isinstance(state, tuple | list):
        return {"h" if form == "{}" else "out": state}
    names = ("h", "c") if form == "{}" else range(len(state))
    return {form.format(name): item for name, item in zip(names, state, strict=False)}


class Cell(_core.Steps):
    """Base of the cells that own weights: `LSTMCell` and `GRUCell`.

    Attributes
    ----------
    input_size, hidden_size : int
        Widths I and H.

    Notes
    -----
    Cells pickle, and copies have weights of their own; frozen ones stay frozen. A cell and its optimizer stay together
    where they are pickled, or copied deeply, together.
    """

    def __init__(self, kind: str, input_size: Any, hidden_size: Any, bias: bool, dtype: DTypeLike, rng: Any) -> None:
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                raise ValueError(f"{name} must be an integer from 1 on, got {size!r}")
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
        rng = np.random.default_rng(rng)
        cell = _core.cells()[kind]
        bound, rows = hidden_size**-0.5, cell["gates"] * hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size)}
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if cell["peepholes"]:
            shapes["weight_ch"] = (cell["peepholes"], hidden_size)
        self._build(kind, {name: rng.uniform(-bound, bound, shape).astype(dtype) for name, shape in shapes.items()})

    def _build(self, kind: str, weights: dict[str, Array]) -> None:
        self._kind = kind
        self._weights = MappingProxyType(weights)
        self._place = place_of(weights)
        self._cell = self._place.Cell(kind, weights)
        self._step = self._cell.stepper()
        self.hidden_size = weights["weight_hh"].shape[1]
        self.input_size = weights["weight_ih"].shape[1]

    def _taped(self, x: Any, state: Any, out: Any) -> Any:
        """Take a step for `__call__` with `tape`."""
        weights = self._place.taped_weights(self._cell, self.weights)
        return taped(self._kind, weights, x, state, out, self._step, self._place.view)

    @property
    def weights(self) -> Mapping[str, Array]:
        """The weight arrays under torch's names and in its layout. They are the truth: change them in place."""
        return self._weights

    @property
    def device(self) -> str:
        """Where the weights are: "cpu" or "cuda"."""
        return str(self._place.name)

    def to(self, device: str) -> Self:
        """Move the weights: arrays of `weights` are new ones then, so make optimizers afterwards.

        Parameters
        ----------
        device : {"cpu", "cuda"}
            CPU memory and NumPy arrays, or the memory of CuPy's current device and CuPy arrays. All arrays of a step
            are where the weights are.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            `device` is neither, or the cell is frozen.
        ImportError, RuntimeError
            There is no CuPy, no CUDA build of fusedstep, or no driver.
        """
        self._build(self._kind, moved(self.weights, self._place, device, self.frozen))
        return self

    @property
    def frozen(self) -> bool:
        """Whether a packed snapshot of the weights is in use."""
        return bool(self._cell.frozen)

    def freeze(self) -> Self:
        """Pack a snapshot of the weights for faster steps, and mark the arrays read-only until `unfreeze`.

        The snapshot does not follow the arrays; that they are read-only makes NumPy, and the optimizers, raise where
        they would be changed. (A view made before stays writeable: do not write through it.)

        On CUDA nothing is packed, and CuPy's arrays have no such flag: optimizers raise, while writes by CuPy pass, and
        show in no step before `unfreeze`.

        Returns
        -------
        self
        """
        self._cell.freeze()
        return self

    def unfreeze(self) -> Self:
        """Drop the snapshot and make the arrays writeable.

        Returns
        -------
        self
        """
        self._cell.unfreeze()
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy deeply: the weights, and whether they are frozen."""
        return _rebuild, (type(self), self._kind, dict(self.weights), self.frozen)

    def __copy__(self) -> Self:
        """Copy deeply: of two cells that share arrays, one could change what the other has frozen."""
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        """Show kind, widths and dtype."""
        dtype, frozen = self.weights["weight_ih"].dtype, ", frozen" if self.frozen else ""
        return (
            f"{type(self).__name__}({self.input_size}, {self.hidden_size}, kind={self._kind!r}, dtype={dtype}{frozen})"
        )


def _rebuild(cls: type[Cell], kind: str, weights: dict[str, Array], frozen: bool) -> Cell:
    cell = cls.__new__(cls)
    cell._build(kind, weights)
    return cell.freeze() if frozen else cell.unfreeze()
