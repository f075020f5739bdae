"""A direction of a layer whose h is a projection W_hr·m of the cell's output m: `_cuda.Sweep` for it.

It is two sweeps that take their steps in turns, with a product (CuPy's matmul, cuBLAS) between them: of the cell's H
units, which see no h and whose output is m; and of the P values of h, whose cell is the identity (csrc/cuda/
projection.cuh). Zoneout, masks and resets of h are the latter's, those of c the former's.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fusedstep._device import Device
from fusedstep.rnn._cuda.int8 import Codes, multiply

# What a sweep of the units takes of a layer's arrays, and what one of the outputs does.
BOTH = ("lengths", "reset", "replayed")
UNITS = (*BOTH, *("bias_ih", "bias_hh", "weight_ch", "initial_c", "c0", "c1", "input", "hidden", "saved", "states"),
         *("dc", "dinput", "dstate", "previous_c", "next_c", "m", "stays"))  # fmt: skip
OUTPUTS = (*BOTH, *("initial_h", "h0", "h1", "y", "mask", "masked0", "masked1", "dy", "dh", "through", "previous_h"))


def zoned(zoneout: tuple[float, float], H: int, P: int) -> Iterator[tuple[str, int, tuple[float, float]]]:
    """Give the zoneout masks of a direction by name, with width and rates: those of h apart where it is P wide."""
    h, c = zoneout
    parts = [("stays", H, zoneout)] if P == H else [("stays", H, (0.0, c)), ("stays_h", P, (h, 0.0))]
    yield from (part for part in parts if any(part[2]))


def sweep_of(
    device: Device, kind: str, T: int, steps: int, B: int, H: int, reverse: bool, arrays: Mapping[str, Any]
) -> Any:
    """Make a sweep over arrays by the names of csrc/cuda/recurrence.h; with `weight_hr` among them, of a projection."""
    if "weight_hr" in arrays:
        return ProjectedSweep(device, kind, T, steps, B, H, reverse, arrays)
    return device.core.Sweep(
        kind, T, steps, B, H, reverse, {n: a for n, a in arrays.items() if not isinstance(a, Codes)}
    )


class ProjectedSweep:
    """Both sweeps, and the products between them.

    Beside the arrays that other sweeps take, `weight_hr` (P, H), `stays_h` (steps, B, P) and, backward, for the
    gradient of the former, `m` (steps, B, H) and `dprojected` (steps, B, P), by slot.
    """

    def __init__(
        self, device: Device, kind: str, T: int, steps: int, B: int, H: int, reverse: bool, arrays: Mapping[str, Any]
    ) -> None:
        self._device = device
        self._weight = arrays["weight_hr"]
        weight = self._weight.codes if isinstance(self._weight, Codes) else self._weight
        P = weight.shape[0]
        units = {name: arrays[name] for name in UNITS if name in arrays}
        outputs = {name: arrays[name] for name in OUTPUTS if name in arrays}
        if "stays_h" in arrays:
            outputs["stays"] = arrays["stays_h"]
        if "zoneout" in arrays:
            h, c = arrays["zoneout"]
            units["zoneout"], outputs["zoneout"] = (0.0, c), (h, 0.0)

        def room(width: int) -> Any:
            return device.empty((B, width), weight.dtype)

        def at_each(array: Any, count: int = T) -> Any:
            return device.broadcast(array, (count, *array.shape))  # one array for every step

        # The units' h is m. A reset would zero it, but not where y has it; replayed steps have no y, and need no m that
        # a reset makes 0.
        m, turns = room(H), (room(H), room(H))
        units |= {"initial_h": turns[0], "h0": turns[0], "h1": turns[1], "y": at_each(m)}
        self._m = turns if "replayed" in arrays else (m, m)
        self._product = outputs["hidden"] = room(P)
        if "dh" in arrays:
            self._dh, self._dm, zeros = room(P), room(H), device.zeros((B, H), weight.dtype)
            units |= {"dy": at_each(self._dm), "dh": zeros, "through": zeros}
            count = arrays["replayed"][1] if "replayed" in arrays else T
            outputs |= {"dinput": at_each(self._dh, count), "dstate": arrays["dprojected"]}
        self._units = device.core.Sweep(kind, T, steps, B, H, reverse, units)
        self._outputs = device.core.Sweep("projection", T, steps, B, P, reverse, outputs)

    def begin(self, stream: int) -> None:
        """Put the state where the first step finds it."""
        self._units.begin(stream)
        self._outputs.begin(stream)

    def forward(self, step: int, stream: int) -> None:
        """Take a step."""
        self._units.forward(step, stream)
        multiply(self._device, self._m[(step + 1) % 2], self._weight, self._product)
        self._outputs.forward(step, stream)

    def backward(self, step: int, stream: int) -> None:
        """Take it back."""
        self._outputs.backward(step, stream)
        self._device.matmul(self._dh, self._weight, out=self._dm)
        self._units.backward(step, stream)

    def finish(self, stream: int) -> None:
        """Give the gradient of the state before the first step."""
        self._outputs.finish(stream)
