"""Steps of recurrent cells on a GPU, forward and back: what `_core` does with NumPy arrays.

Products are CuPy's matmul (cuBLAS), one kernel does the rest; a cell with two products has one for each. The checks and
their errors are those of the CPU.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fusedstep._device import Device
from fusedstep._record import Recording, flags
from fusedstep.rnn._cuda.arguments import (
    cell_of,
    check_contiguous,
    check_shape,
    checked_weights,
    float_array,
    overlap,
    rows,
)
from fusedstep.rnn._cuda.frozen import Freezable
from fusedstep.rnn._cuda.sums import sum_rows

STATES = ("h", "c")


class Cell(Freezable):
    """A cell's weights, checked."""

    def __init__(self, device: Device, kind: str, weights: Mapping[str, Any]) -> None:
        super().__init__(device, [checked_weights(device, kind, weights)])
        self._kind = kind

    def stepper(self) -> Callable[[Any, Any, Any, bool], Any]:
        """Give (x, state, out, tape) to the new state, or with `tape` to (state, saved)."""
        return lambda x, state, out, tape: _step(
            self.device, self._kind, self.used[0], x, state, out, tape, frozen=self.frozen
        )


def cell_forward(
    device: Device, kind: str, weights: Mapping[str, Any], x: Any, state: Any, out: Any, tape: bool
) -> Any:
    """Take a step: `_core.cell_forward`."""
    return _step(device, kind, checked_weights(device, kind, weights), x, state, out, tape)


def _items(state: Any, states: int, name: str) -> Sequence[Any]:
    if states == 1:
        return [state]
    if not isinstance(state, tuple | list):
        raise TypeError(f"{name}: expected a tuple (h, c), got {type(state).__name__}")
    if len(state) != states:
        raise ValueError(f"{name}: expected a tuple (h, c), got {len(state)} items")
    return state


def _record(recording: Recording, what: str, kind: str, weights: Mapping[str, Any], B: int, **options: bool) -> None:
    """Record a call for the profiler."""
    inputs, like = weights["weight_ih"].shape[1], weights["weight_hh"]
    bits = flags(bias="bias_ih" in weights, **options)
    recording.add(what, kind, like.dtype, bits, (B, inputs, like.shape[1]))


def _step(
    device: Device,
    kind: str,
    weights: dict[str, Any],
    x: Any,
    state: Any,
    out: Any,
    tape: bool,
    *,
    frozen: bool = False,
) -> Any:
    cell = cell_of(device, kind)
    states, H = cell["states"], weights["weight_hh"].shape[1]
    like = weights["weight_ih"]
    x = float_array(device, x, "x")
    if x.ndim not in (1, 2):
        raise ValueError(f"x: expected shape (batch, {like.shape[1]}) or ({like.shape[1]},), got {x.shape}")
    vector, B = x.ndim == 1, 1 if x.ndim == 1 else x.shape[0]
    x = rows(x, "x", like, vector, B, like.shape[1])
    old = [device.zeros((B, H), like.dtype) for _ in range(states)]
    if state is not None:
        given = [
            rows(float_array(device, s, name), name, like, vector, B, H)
            for s, name in zip(_items(state, states, "state"), STATES, strict=False)
        ]
        old = [s if s.flags.c_contiguous else s.copy() for s in given]
        read = {"x": x, **dict(zip(STATES, given, strict=False)), **weights}
    else:
        read = {"x": x, **weights}
    new = _outputs(device, out, states, like, vector, B, H, read)

    early = cell["state_gates"] * H
    weight_hh = weights["weight_hh"]
    arrays: dict[str, Any] = {name: w for name, w in weights.items() if name not in ("weight_ih", "weight_hh")}
    arrays |= {
        "input": device.empty((B, like.shape[0]), like.dtype),
        "hidden": device.empty((B, early), like.dtype),
        **{f"{name}0": s for name, s in zip(STATES, old, strict=False)},
        **{f"{name}1": s for name, s in zip(STATES, new, strict=False)},
    }
    if early < weight_hh.shape[0]:
        arrays |= {name: device.empty((B, H), like.dtype) for name in ("reset_h", "late")}
    saved = device.empty((B, cell["values"] * H), like.dtype) if tape else None
    if tape:
        arrays["saved"] = saved
    recording = device.recording()
    if B > 0:
        step = _kernels(device, kind, like, B, H, arrays)
        stream = device.launch_stream()
        device.matmul(x, like.T, out=arrays["input"])
        device.matmul(old[0], weight_hh[:early].T, out=arrays["hidden"])
        if "late" in arrays:
            step.reset_stage(0, stream)
            device.matmul(arrays["reset_h"], weight_hh[early:].T, out=arrays["late"])
        step.forward(0, stream)
    if recording:
        _record(recording, "cell", kind, weights, B, tape=tape, frozen=frozen)
    result = _form(new, vector, states) if out is None else out
    return (result, saved) if tape else result


def _kernels(device: Device, kind: str, like: Any, B: int, H: int, arrays: Mapping[str, Any]) -> Any:
    addresses = {name: array.data.ptr for name, array in arrays.items()}
    return device.core.Sweep(kind, like.itemsize == 4, B, H, addresses)


def _form(arrays: Sequence[Any], vector: bool, states: int) -> Any:
    shaped = [array[0] if vector else array for array in arrays]
    return shaped[0] if states == 1 else tuple(shaped)


def _outputs(
    device: Device, out: Any, states: int, like: Any, vector: bool, B: int, H: int, read: Mapping[str, Any]
) -> list[Any]:
    """Make the arrays of the new state, or check those that are given; a state may be updated in place."""
    if out is None:
        return [device.empty((B, H), like.dtype) for _ in range(states)]
    names = ["out"] if states == 1 else ["out[0]", "out[1]"]
    new: list[Any] = []
    for i, (item, name) in enumerate(zip(_items(out, states, "out"), names, strict=True)):
        array = float_array(device, item, name)
        to = rows(array, name, like, vector, B, H)
        check_contiguous(array, name)
        for other, source in read.items():
            same = other == STATES[i] and source.data.ptr == to.data.ptr and source.flags.c_contiguous
            if not same and overlap(to, source):
                raise ValueError(f"{name}: expected memory of its own, got an overlap with {other}")
        if i and overlap(to, new[0]):
            raise ValueError(f"{name}: expected memory of its own, got an overlap with {names[0]}")
        new.append(to)
    return new


def cell_backward(
    device: Device,
    kind: str,
    weights: Mapping[str, Any],
    x: Any,
    state: Sequence[Any],
    out: Sequence[Any],
    saved: Any,
    dout: Sequence[Any],
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Take a step back: `_core.cell_backward`."""
    weights = checked_weights(device, kind, weights)
    cell = cell_of(device, kind)
    like, weight_hh = weights["weight_ih"], weights["weight_hh"]
    states, values, (GH, inputs), H = cell["states"], cell["values"], like.shape, weight_hh.shape[1]
    x = float_array(device, x, "x")
    vector, B = x.ndim == 1, 1 if x.ndim == 1 else x.shape[0]
    x = rows(x, "x", like, vector, B, inputs)

    def given(obj: Any, name: str, whole: bool = True) -> Any:
        if obj is None:
            return device.zeros((B, H), like.dtype)
        array = rows(float_array(device, obj, name), name, like, vector, B, H)
        if whole:
            check_contiguous(array, name)
        return array if array.flags.c_contiguous else array.copy()

    old = [given(s, name, whole=False) for s, name in zip(state, STATES, strict=False)]
    new = [given(s, f"out[{i}]") for i, s in enumerate(out)]
    dnew = [given(d, f"d{name}") for d, name in zip(dout, STATES, strict=False)]
    check_shape(saved, "saved", (B, values * H))
    dold = [d.copy() for d in dnew]  # moves back in place

    early = cell["state_gates"] * H
    late = early < GH
    arrays = {"weight_ch": weights["weight_ch"]} if cell["peepholes"] else {}
    arrays |= {
        **{f"initial_{name}": s for name, s in zip(STATES, old, strict=False)},
        **{f"d{name}": s for name, s in zip(STATES, dold, strict=False)},
        "saved": saved,
        "dinput": device.empty((B, GH), like.dtype),
        "through": device.empty((B, H), like.dtype),
    }
    if states > 1:
        arrays["states"] = new[1]
    if cell["separate"] or late:
        arrays["dstate"] = device.empty((B, early), like.dtype)
    if late:
        arrays |= {name: device.empty((B, H), like.dtype) for name in ("dlate", "dreset_h", "all_reset_h")}
    dinput, seen = arrays["dinput"], arrays.get("dstate", arrays["dinput"])
    dx = device.empty((B, inputs), like.dtype)
    gradients = {name: device.empty(w.shape, w.dtype) for name, w in weights.items()}
    recording = device.recording()
    if B == 0:
        for gradient in gradients.values():
            gradient[...] = 0
    else:
        step, stream = _kernels(device, kind, like, B, H, arrays), device.launch_stream()
        step.backward(0, stream)
        if late:
            device.matmul(arrays["dlate"], weight_hh[early:], out=arrays["dreset_h"])
            step.reset_backward(0, stream)
        device.matmul(seen, weight_hh[:early], out=arrays["through"])
        step.finish(stream)
        device.matmul(dinput, like, out=dx)
        device.matmul(dinput.T, x, out=gradients["weight_ih"])
        device.matmul(seen.T, old[0], out=gradients["weight_hh"][:early])
        if late:
            device.matmul(arrays["dlate"].T, arrays["all_reset_h"], out=gradients["weight_hh"][early:])
        for name, terms in (("bias_ih", dinput), ("bias_hh", seen if cell["separate"] else dinput)):
            if name in gradients:
                sum_rows(device, terms, None, [gradients[name]], add=False)
        for j, (gate, sees_next) in enumerate(cell["peepholes"]):
            c = new[1] if sees_next else old[1]
            sum_rows(device, dinput[:, gate * H : (gate + 1) * H], c, [gradients["weight_ch"][j]], add=False)
    if recording:
        _record(recording, "cell_backward", kind, weights, B)
    return dx[0] if vector else dx, tuple(d[0] if vector else d for d in dold), gradients
