"""A layer's run on a GPU, and the way back through it: `_core.Run` for CUDA arrays."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fusedstep._device import Device
from fusedstep._record import Recording, flags
from fusedstep.rnn._cuda.gradients import give_weights
from fusedstep.rnn._cuda.input import Input
from fusedstep.rnn._cuda.int8 import Codes
from fusedstep.rnn._cuda.lean import replay_back
from fusedstep.rnn._cuda.norm import taped_widths, widths_back
from fusedstep.rnn._cuda.projection import zoned

if TYPE_CHECKING:
    from fusedstep.rnn._cuda.layer import Layer

# As for the steps forward: here each block copies a step's gate gradients, as many times wider as there are gates.
PERSISTENT_ROWS = 16


class Noise(NamedTuple):
    """Zoneout and recurrent dropout of a layer, of its first direction: `_core.Noise`."""

    recurrent: float
    zoneout: tuple[float, float]
    drawn: bool
    seed: int
    stream: int
    step: int
    row: int


def take_persistently(device: Device, sweeps: list[Any], *, backward: bool) -> None:
    """Take all steps of sweeps side by side in one kernel."""
    arrived = device.zeros((len(sweeps) * device.core.arrivals,), np.uint32)
    device.core.persistent_sweep(sweeps, backward, arrived, device.launch_stream(), None)


class Run:
    """What a backward run needs of a forward one.

    Attributes
    ----------
    steps, pairs : int
        Those that the longest row takes, and the steps of all rows.
    whole : bool
        Whether every row has full length.
    spent : bool
        Whether a backward run has used it.
    """

    def __init__(
        self,
        layer: "Layer",
        x: Any,
        inputs: Input,
        y: Any,
        state: Sequence[Any],
        steps: int,
        lengths: Any,
        reset: Any,
        whole: bool,
        noise: Noise,
        lean: bool,
    ) -> None:
        self.layer = layer
        self.weights = layer.used
        self.x = x
        self.inputs = inputs
        self.y = y
        self.state = state
        self.steps = steps
        self.pairs = 0
        self.lengths = lengths
        self.reset = reset
        self.whole = whole
        self.noise = noise
        self.lean = lean
        self.spent = False
        self._taped: list[dict[str, Any]] = []  # of each direction

    @property
    def nbytes(self) -> int:
        """Bytes of what it alone holds."""
        kept = [array for taped in self._taped for name, array in taped.items() if name != "input"]
        if not self.lean and self.inputs.copied:
            kept.append(self.inputs.array)
        return sum(int(array.nbytes) for array in kept)

    def record(self, recording: Recording, kind: str, **options: bool) -> None:
        """Record a call both ways for the profiler."""
        layer, steps, (_, B, inputs) = self.layer, self.steps if self.y.shape[1] else 0, self.x.shape
        bits = flags(bias="bias_ih" in self.weights[0], **options)
        n = self.pairs, steps, B, inputs, layer.H, layer.P, len(self.weights)
        recording.add(kind, layer.kind, self.y.dtype, bits, n)

    def drop_inputs(self) -> None:
        """Keep no copy of x."""
        del self.inputs

    # ---- arrays of a direction

    def room(self, width: int) -> Any:
        """Make an internal array (steps, B, width): zeros where rows may end, as products see all of it."""
        make = self.layer.device.empty if self.lengths is None else self.layer.device.zeros
        return make((self.steps, self.y.shape[1], width), self.y.dtype)

    def step_room(self, width: int) -> Any:
        """Make an array (B, width) that a step uses."""
        return self.layer.device.empty((self.y.shape[1], width), self.y.dtype)

    def own(self, array: Any, d: int) -> Any:
        """View a direction's part of an array (T, B, D·P)."""
        return array[:, :, d * self.layer.P : (d + 1) * self.layer.P]

    def arrays(self, d: int) -> dict[str, Any]:
        """Give what the sweeps both ways take."""
        weights = {name: w for name, w in self.weights[d].items() if name != "weight_ih"}
        initial = dict(zip(("initial_h", "initial_c"), (s[d] for s in self.state), strict=False))
        return weights | initial | {"lengths": self.lengths, "reset": self.reset, "y": self.own(self.y, d)}

    def masks(self, d: int) -> dict[str, Any]:
        """Draw a direction's masks, or give the rates of their mean."""
        core, noise = self.layer.device.core, self.noise._replace(stream=self.noise.stream + d)
        drawn: dict[str, Any] = {}
        if noise.recurrent > 0:
            drawn["mask"] = self.step_room(self.layer.P)
            core.recurrent_mask(noise, drawn["mask"], self.layer.device.launch_stream())
        if any(noise.zoneout) and noise.drawn:
            for name, width, rates in zoned(noise.zoneout, self.layer.H, self.layer.P):
                drawn[name] = self.layer.device.empty((self.steps, self.y.shape[1], width), np.uint8)
                core.zoneout_mask(noise._replace(zoneout=rates), drawn[name], self.layer.device.launch_stream())
        elif any(noise.zoneout):
            drawn["zoneout"] = noise.zoneout
        return drawn

    def _in_order(self, d: int) -> bool:
        """Whether internal arrays number the steps as x and its like do, so that both may be one."""
        return not self.inputs.batch_first and not (d == 1 and self.lengths is not None)

    def _shares(self, d: int) -> bool:
        """Whether gates, and then their gradients, replace the input's products."""
        return self._in_order(d) and self.layer.cell["values"] == self.layer.cell["gates"]

    def tape(self, d: int, gates: Any) -> dict[str, Any]:
        """Make, and keep, the arrays of a direction's tape."""
        cell, H = self.layer.cell, self.layer.H
        shared = not self.lean and self._shares(d)
        taped = {} if self.lean else {"saved": gates[: self.steps] if shared else self.room(cell["values"] * H)}
        if cell["states"] > 1:
            taped["states"] = self.room(H)
        if not self.lean:
            taped |= {name: self.room(width) for name, width in taped_widths(cell).items()}
        self._taped.append(taped | ({"input": gates} if shared else {}))
        return taped

    def taped(self, d: int) -> dict[str, Any]:
        """Give the arrays of a direction's tape."""
        return self._taped[d]

    def fits(self, *, backward: bool) -> bool:
        """Whether a persistent kernel holds the weights; none takes a projection, or int8 codes."""
        layer, single = self.layer, self.y.dtype == np.float32
        arguments = layer.kind, single, self.y.shape[1], layer.H, len(self.weights), backward, None
        plain = layer.P == layer.H and not isinstance(self.weights[0]["weight_hh"], Codes)
        return plain and bool(layer.device.core.persistent_fits(*arguments))

    # ---- back

    def backward(
        self, dy: Any, dstate: Sequence[Any], dx: Any, gradients: Sequence[Mapping[str, Any]], add: bool
    ) -> None:
        """Run back: `dstate`, of the state after, becomes that of the state before; dx and `gradients` are written."""
        if self.spent:
            raise ValueError("tape: expected one that no backward call has used, got one that is spent")
        self.spent = True
        recording = self.layer.device.recording()
        self._backward(dy, dstate, dx, gradients, add)
        self._taped.clear()
        if recording:
            self.record(recording, "sequence_backward", lean=self.lean, dx=True, dy=dy is not None, add=add)

    def _backward(
        self, dy: Any, dstate: Sequence[Any], dx: Any, gradients: Sequence[Mapping[str, Any]], add: bool
    ) -> None:
        B = self.y.shape[1]
        if self.steps == 0 or B == 0:
            for array in (dx, *(array for own in gradients if not add for array in own.values())):
                array[...] = 0
            return
        self.layer.device.launch_stream()  # which checks that it is there
        if self.lean:
            replay_back(self, dy, dstate, dx, gradients, add)
            return
        sweeps = [self._sweep_back(d, dy, [s[d] for s in dstate]) for d in range(len(gradients))]
        if B <= PERSISTENT_ROWS and self.fits(backward=True):
            take_persistently(self.layer.device, [sweep for sweep, _ in sweeps], backward=True)
        else:
            for d, (sweep, arrays) in enumerate(sweeps):
                self.steps_back(sweep, arrays, range(self.steps), self._slots(d))
                sweep.finish(self.layer.device.launch_stream())
        self._give_dx([arrays["dinput"] for _, arrays in sweeps], dx)
        for (_, arrays), own in zip(sweeps, gradients, strict=True):
            ends = self.inputs.rows(arrays["dinput"]), self.inputs.rows(self.inputs.array)
            give_weights(self.layer, arrays, ends, own, add=add)

    def _sweep_back(self, d: int, dy: Any, dstate: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
        layer, taped = self.layer, self._taped[d]
        cell, H = layer.cell, layer.H
        T, B, _ = self.y.shape
        make = layer.device.empty if self.lengths is None else layer.device.zeros
        arrays = self.arrays(d) | self.masks(d) | taped
        arrays |= {
            "dy": None if dy is None else self.own(dy, d),
            "dh": dstate[0],
            "through": self.step_room(layer.P),
            "previous_h": self.room(layer.P),
            "dinput": taped["input"] if self._shares(d) else self.inputs.room(cell["gates"] * H, make),
        }
        if cell["states"] > 1:
            arrays["dc"] = dstate[1]
        if cell["separate"] or layer.late or not self._in_order(d):
            arrays["dstate"] = self.room(layer.early)
        if layer.late:
            arrays |= {"dlate": self.room(H), "all_reset_h": self.room(H), "dreset_h": self.step_room(H)}
        if cell["peepholes"]:
            arrays["previous_c"] = self.room(H)
            if self.noise.zoneout[1] > 0:
                arrays["next_c"] = self.room(H)
        if layer.P < H:
            arrays |= {"m": self.room(H), "dprojected": self.room(layer.P)}
        arrays |= {name: self.room(width) for name, width in widths_back(cell, H).items()}
        return layer.sweep(T, self.steps, B, d, arrays), arrays

    def _slots(self, d: int) -> Callable[[int], int]:
        """Tell where internal arrays have what belongs to a step."""
        last = self.steps - 1
        return (lambda step: last - step) if d == 1 and self.lengths is None else (lambda step: step)

    def steps_back(self, sweep: Any, arrays: Mapping[str, Any], steps: range, slot: Callable[[int], int]) -> None:
        """Take steps back one by one."""
        layer, device, weight_hh = self.layer, self.layer.device, arrays["weight_hh"]
        stream = device.launch_stream()
        early, late = weight_hh[: layer.early], weight_hh[layer.early :]
        seen = arrays.get("dstate", arrays["dinput"])
        for step in reversed(steps):
            sweep.backward(step, stream)
            if layer.late:
                device.matmul(arrays["dlate"][slot(step)], late, out=arrays["dreset_h"])
                sweep.reset_backward(step, stream)
            device.matmul(seen[slot(step)], early, out=arrays["through"])

    def _give_dx(self, dinputs: list[Any], dx: Any) -> None:
        """Write the gradient of x: the sum over the directions."""
        device, inputs = self.layer.device, self.inputs
        to = dx if inputs.has_order(dx) else inputs.room(dx.shape[2])
        for d, dinput in enumerate(dinputs):
            part = inputs.room(dx.shape[2]) if d else to
            device.matmul(inputs.rows(dinput), self.weights[d]["weight_ih"], out=inputs.rows(part))
            if d:
                device.core.add(inputs.rows(to), inputs.rows(part), device.launch_stream())
        if to is not dx:
            device.core.copy_rows(to, dx, None, device.launch_stream())
