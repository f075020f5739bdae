"""The way back through a layer's run whose tape kept no gates: they are computed again, those of few steps at a time.

From the last steps to the first, a chunk of them is taken once more from the state before it, step by step as forward,
and then back. What belongs to a chunk lies in the order in which its steps are taken, whichever way the direction goes.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusedstep.rnn._cuda.gradients import give_weights
from fusedstep.rnn._cuda.input import flat
from fusedstep.rnn._cuda.norm import taped_widths, widths_back

if TYPE_CHECKING:
    from fusedstep.rnn._cuda.run import Run

PAIRS = 4096  # steps times rows of a chunk, at least: the CPU's


class Chunk:
    """The arrays of a direction's chunks, each of so many steps at most; they serve one after the other."""

    def __init__(self, run: "Run", d: int, dy: Any, dstate: Sequence[Any], count: int) -> None:
        self.run, self.d = run, d
        layer, B = run.layer, run.y.shape[1]
        cell, H, P, device = layer.cell, layer.H, layer.P, layer.device
        self.kept = run.arrays(d) | run.masks(d) | run.taped(d)
        self.kept |= {"dy": None if dy is None else run.own(dy, d), "dh": dstate[0], "through": run.step_room(P)}
        self.kept |= layer.step_arrays(run, [run.step_room(width) for width in (P, H)[: cell["states"]]])
        if cell["states"] > 1:
            self.kept["dc"] = dstate[1]
        if layer.late:
            self.kept["dreset_h"] = run.step_room(H)
        widths = {"x": run.x.shape[2], "input": cell["gates"] * H, "previous_h": P}
        if cell["values"] != cell["gates"]:
            widths["saved"] = cell["values"] * H
        if cell["separate"] or layer.late:
            widths["dstate"] = layer.early
        if layer.late:
            widths |= {"dlate": H, "all_reset_h": H}
        if cell["peepholes"]:
            widths |= {"previous_c": H, "next_c": H}
        if P < H:
            widths |= {"m": H, "dprojected": P}
        widths |= taped_widths(cell) | widths_back(cell, H)
        # Zeros, as products see the pairs past a row's end too, which no kernel writes.
        make = device.empty if run.lengths is None else device.zeros
        self.rooms = {name: make((count, B, width), run.y.dtype) for name, width in widths.items()}

    def back(self, begin: int, end: int, dx: Any, gradients: Mapping[str, Any], *, add: bool) -> None:
        """Take steps `begin` to `end` again, and back; `add`: to gradients that are there."""
        run, d = self.run, self.d
        layer, device, (T, B, _) = run.layer, run.layer.device, run.y.shape
        of = {name: room[: end - begin] for name, room in self.rooms.items()}
        if run.lengths is not None:
            for name in of.keys() - {"x", "input"}:
                of[name][...] = 0
        of["dinput"] = of["input"]
        of.setdefault("saved", of["input"])
        weight_ih, stream = run.weights[d]["weight_ih"], device.launch_stream()
        where = run.lengths, run.steps, begin, d == 1
        device.core.take_steps(run.x, of["x"], *where, stream)
        device.matmul(flat(of["x"]), weight_ih.T, out=flat(of["input"]))
        arrays = self.kept | of | {"replayed": (begin, end - begin)}
        sweep = layer.sweep(T, run.steps, B, d, arrays)
        sweep.begin(stream)
        layer.take_steps(sweep, arrays, range(begin, end), stream)
        run.steps_back(sweep, arrays, range(begin, end), lambda step: step - begin)
        if begin == 0:
            sweep.finish(stream)
        give_weights(layer, arrays, (flat(of["dinput"]), flat(of["x"])), gradients, add=add)
        part = device.empty(of["x"].shape, of["x"].dtype)
        device.matmul(flat(of["dinput"]), weight_ih, out=flat(part))
        device.core.give_steps(dx, part, *where, d > 0, stream)


def replay_back(
    run: "Run", dy: Any, dstate: Sequence[Any], dx: Any, gradients: Sequence[Mapping[str, Any]], add: bool
) -> None:
    """Run back, direction by direction."""
    count = min(run.steps, -(-PAIRS // run.y.shape[1]))
    for d, own in enumerate(gradients):
        chunk = Chunk(run, d, dy, [s[d] for s in dstate], count)
        for end in range(run.steps, 0, -count):
            chunk.back(max(0, end - count), end, dx, own, add=add or end < run.steps)
