"""A module one step at a time on a GPU: `_core.Stream` for CUDA arrays.

A step is two products (CuPy's matmul, cuBLAS) and a kernel for each layer, three and two of a cell with two products or
of a projection. All that it works on is made at first, and the state moves in place.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fusedstep._device import Device
from fusedstep._record import flags
from fusedstep.rnn._cuda.arguments import cell_of, check_contiguous, check_dtype, check_shape, float_array, overlap
from fusedstep.rnn._cuda.frozen import snapshot
from fusedstep.rnn._cuda.int8 import multiply, rows_of
from fusedstep.rnn._cuda.projection import sweep_of
from fusedstep.rnn._cuda.run import Noise


class Step:
    """A layer's weights, its state, and the kernels over both."""

    def __init__(
        self, device: Device, kind: str, weights: Mapping[str, Any], form: str, state: Sequence[Any], noise: Noise
    ) -> None:
        cell, (B, H) = cell_of(device, kind), state[-1].shape
        self.device = device
        self.weights = snapshot(device, weights, form)
        self.h = state[0]
        self.early = cell["state_gates"] * H
        self.late = self.early < weights["weight_hh"].shape[0]
        weight_hh = self.weights["weight_hh"]
        self.w_early, self.w_late = rows_of(weight_hh, slice(self.early)), rows_of(weight_hh, slice(self.early, None))

        def room(*shape: int) -> Any:
            return device.empty(shape, self.h.dtype)

        self.arrays = {name: array for name, array in self.weights.items() if name != "weight_ih"}
        self.arrays |= {"input": room(1, B, cell["gates"] * H), "hidden": room(B, self.early), "zoneout": noise.zoneout}
        for name, array in zip("hc", state, strict=False):
            self.arrays |= {f"{name}0": array, f"{name}1": array}
        if self.late:
            self.arrays |= {"reset_h": room(B, H), "late": room(B, H)}
        self.sweep = sweep_of(device, kind, 1, 1, B, H, False, self.arrays)

    def take(self, x: Any, stream: int) -> None:
        """Move the state on by x (B, I)."""
        arrays = self.arrays
        multiply(self.device, x, self.weights["weight_ih"], arrays["input"][0])
        multiply(self.device, self.h, self.w_early, arrays["hidden"])
        if self.late:
            self.sweep.reset_stage(0, stream)
            multiply(self.device, arrays["reset_h"], self.w_late, arrays["late"])
        self.sweep.forward(0, stream)


class Stream:
    """Layers with a snapshot of their weights, and their state."""

    def __init__(
        self, device: Device, kind: str, layers: Sequence[Mapping[str, Any]], batch: int, form: str, noise: Noise
    ) -> None:
        like = layers[0]["weight_ih"]
        self._kind, self._bits = kind, flags(frozen=True, bias="bias_ih" in layers[0])
        P, self._inputs = layers[0]["weight_hh"].shape[1], like.shape[1]
        self._device, self._like, self._batch = device, like, batch
        cell = cell_of(device, kind)
        widths = (P, like.shape[0] // cell["gates"])[: cell["states"]]
        self.state = [device.zeros((len(layers), batch, width), like.dtype) for width in widths]
        self._steps = [
            Step(device, kind, own, form, [state[i] for state in self.state], noise) for i, own in enumerate(layers)
        ]

    def stepper(self) -> Callable[[Any, Any], Any]:
        """Give (x, out) to the last layer's h."""
        return self._take

    def _take(self, x: Any, out: Any) -> Any:
        x = float_array(self._device, x, "x")
        vector = x.ndim == 1 and self._batch == 1
        x = self._rows(x, "x", vector, self._inputs)
        h = self._steps[-1].h
        if out is None:
            result = self._device.empty(h.shape[vector:], h.dtype)
            to = result[None] if vector else result
        else:
            result = out
            array = float_array(self._device, out, "out")
            to = self._rows(array, "out", vector, h.shape[1])
            for name, other in (("x", x), *(("state", state) for state in self.state)):
                if overlap(to, other):
                    raise ValueError(f"out: expected memory of its own, got an overlap with {name}")
        recording, stream = self._device.recording(), self._device.launch_stream()
        for step in self._steps:
            step.take(x, stream)
            x = step.h
        to[...] = h
        if recording:
            n = self._batch, self._inputs, self.state[-1].shape[-1], h.shape[1], len(self._steps)
            recording.add("stream", self._kind, h.dtype, self._bits, n)
        return result

    def _rows(self, array: Any, name: str, vector: bool, width: int) -> Any:
        check_dtype(array, name, self._like)
        check_shape(array, name, (width,) if vector else (self._batch, width))
        check_contiguous(array, name)
        return array[None] if vector else array
