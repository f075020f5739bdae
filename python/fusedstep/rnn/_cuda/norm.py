"""What layer normalisation adds to a run on a GPU: arrays of its tape and of the way back, and gradients of gains.

The kernels (csrc/cuda/normed.cuh) leave the gates' gradients where the tape had the gates, and before what was
normalised: biases' gradients are sums of the former, those of gains of their products with the latter.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fusedstep._device import Device
from fusedstep.rnn._cuda.input import flat
from fusedstep.rnn._cuda.sums import sum_rows


def taped_widths(cell: Mapping[str, Any]) -> dict[str, int]:
    """Give the widths of arrays that the tape has beside gates and c: mean and 1/σ of each norm."""
    return {"statistics": 2 * cell["norms"]} if cell["norms"] else {}


def widths_back(cell: Mapping[str, Any], H: int) -> dict[str, int]:
    """Give the widths of arrays that the way back fills: N(c), and the gradient of what gain and bias make of it."""
    return {"normed_c": H, "dnormed_c": H} if cell["norms"] and cell["states"] > 1 else {}


def give_gains(
    device: Device, cell: Mapping[str, Any], arrays: Mapping[str, Any], gradients: Mapping[str, Any], *, add: bool
) -> None:
    """Write a direction's gradients of gains and biases, which sum over steps and rows, or add them."""
    gates, saved = cell["gates"], flat(arrays["saved"])
    H = saved.shape[1] // cell["values"]
    first = cell["values"] - 2 * gates  # of what was normalised; then comes that of h

    def give(end: str, dy: Any, normed: Any, own: slice) -> None:
        sum_rows(device, dy, normed, [gradients[f"gain_{end}"][own]], add=add)
        if f"bias_{end}" in gradients:
            sum_rows(device, dy, None, [gradients[f"bias_{end}"][own]], add=add)

    for end, slots, other in (("ih", range(gates), first), ("hh", cell["state_slots"], first + gates)):
        for gate, slot, count in stretches(slots):
            dy, normed = (saved[:, at * H : (at + count) * H] for at in (slot, other + gate))
            give(end, dy, normed, slice(gate * H, (gate + count) * H))
    if "gain_c" in gradients:
        give("c", flat(arrays["dnormed_c"]), flat(arrays["normed_c"]), slice(None))


def stretches(slots: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Give the stretches of consecutive numbers: the place of the first among all, itself, and how many there are."""
    for _, stretch in itertools.groupby(enumerate(slots), lambda item: item[1] - item[0]):
        (place, slot), *others = stretch
        yield place, slot, 1 + len(others)
