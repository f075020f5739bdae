"""A layer's run over a sequence on a GPU: `_core.Layer` for CUDA arrays.

The input's product with W_ih is one product before the steps, the weights' gradients are few large ones after them
(CuPy's matmul, cuBLAS). In between, for few rows, one persistent kernel takes all steps of all directions; else a step
is a product with W_hh and a kernel that does the rest, and the directions go one after the other.

A step of the latter kind computes all rows and drops those that have ended. A cell that normalises rows takes steps of
that kind alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fusedstep._array import Array
from fusedstep._device import Device
from fusedstep.rnn._cuda.arguments import cell_of
from fusedstep.rnn._cuda.frozen import Freezable
from fusedstep.rnn._cuda.input import Input
from fusedstep.rnn._cuda.int8 import multiply, rows_of
from fusedstep.rnn._cuda.projection import sweep_of
from fusedstep.rnn._cuda.run import Noise, Run, take_persistently
from fusedstep.rnn._tape import TAPES

# Up to so many rows one persistent kernel takes the steps, where the weights fit. Each of its blocks copies a whole
# step's h, which for more rows takes longer than the kernels of a step: from a model, not from measurements.
PERSISTENT_ROWS = 32


class Layer(Freezable):
    """The directions of a layer."""

    def __init__(self, device: Device, kind: str, weights: list[dict[str, Any]]) -> None:
        super().__init__(device, weights)
        self.kind = kind
        self.cell = cell_of(device, kind)
        self.H = weights[0]["weight_hh"].shape[0] // self.cell["gates"]
        self.P = weights[0]["weight_hh"].shape[1]  # width of h: H, or fewer where it is a projection
        # Rows of W_hh whose product sees h; those after them see r·h.
        self.early = self.cell["state_gates"] * self.H
        self.late = self.early < weights[0]["weight_hh"].shape[0]

    def forward(
        self,
        x: Any,
        y: Any,
        state: Sequence[Any],
        out: Sequence[Any],
        lengths: Array | None,
        reset: Any,
        noise: Noise,
        tape: int,
    ) -> Run | None:
        """Run over x (T, B, I) from `state` to y (T, B, D·P) and `out`, of (D, B, P) and (D, B, H)."""
        T, B, _ = x.shape
        recording = self.device.recording()
        steps = T if lengths is None else int(lengths.max(initial=0))
        on_device = None if lengths is None else self.device.from_numpy(lengths)
        whole = lengths is None or bool((lengths == T).all())
        lean = tape == TAPES["lean"]
        inputs = Input(self.device, x, on_device)
        run = Run(self, x, inputs, y, state, steps, on_device, reset, whole, noise, lean)
        run.pairs = T * B if lengths is None else int(lengths.sum())
        if B > 0:
            sweeps = [self._sweep(run, d, [s[d] for s in out], tape > 0) for d in range(len(run.weights))]
            stream = self.device.launch_stream()
            for sweep, _ in sweeps:
                sweep.begin(stream)
            # What a lean tape replays is taken step by step, and so is what it remembers.
            if steps and B <= PERSISTENT_ROWS and not lean and run.fits(backward=False):
                take_persistently(self.device, [sweep for sweep, _ in sweeps], backward=False)
            else:
                for sweep, arrays in sweeps:
                    self.take_steps(sweep, arrays, range(steps), stream)
        if lean:
            run.drop_inputs()
        if recording:
            run.record(recording, "sequence", tape=tape > 0, lean=lean, frozen=run.weights is not self.weights)
        return run if tape else None

    def step_arrays(self, run: Run, out: Sequence[Any]) -> dict[str, Any]:
        """Make what steps forward hand on: the state after the last one goes to `out`."""
        arrays = {
            f"h{run.steps % 2}": out[0],
            f"h{1 - run.steps % 2}": run.step_room(self.P),
            "hidden": run.step_room(self.early),
        }
        if self.cell["states"] > 1:
            arrays |= {"c0": out[1], "c1": out[1]}
        if self.late:
            arrays |= {"reset_h": run.step_room(self.H), "late": run.step_room(self.H)}
        if run.noise.recurrent > 0:
            arrays |= {"masked0": run.step_room(self.P), "masked1": run.step_room(self.P)}
        return arrays

    def _sweep(self, run: Run, d: int, out: Sequence[Any], tape: bool) -> tuple[Any, dict[str, Any]]:
        """Make a direction's sweep, and the arrays that it works on."""
        weights, inputs = run.weights[d], run.inputs
        T, B, _ = inputs.array.shape
        gates = inputs.room(self.cell["gates"] * self.H)
        multiply(self.device, inputs.rows(inputs.array), weights["weight_ih"], inputs.rows(gates))
        arrays = run.arrays(d) | run.masks(d) | self.step_arrays(run, out) | {"input": gates}
        if tape:
            arrays |= run.tape(d, gates)
        return self.sweep(T, run.steps, B, d, arrays), arrays

    def sweep(self, T: int, steps: int, B: int, d: int, arrays: Mapping[str, Any]) -> Any:
        """Make a direction's sweep of so many steps over its arrays."""
        return sweep_of(self.device, self.kind, T, steps, B, self.H, d == 1, arrays)

    def take_steps(self, sweep: Any, arrays: Mapping[str, Any], steps: range, stream: int) -> None:
        """Take steps one by one."""
        weight_hh, seen = arrays["weight_hh"], "masked" if "mask" in arrays else "h"
        h = arrays[f"{seen}0"], arrays[f"{seen}1"]
        early, late = rows_of(weight_hh, slice(self.early)), rows_of(weight_hh, slice(self.early, None))
        for step in steps:
            multiply(self.device, h[step % 2], early, arrays["hidden"])
            if self.late:
                sweep.reset_stage(step, stream)
                multiply(self.device, arrays["reset_h"], late, arrays["late"])
            sweep.forward(step, stream)
