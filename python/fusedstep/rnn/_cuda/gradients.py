"""The weights' gradients of a layer on a GPU: few large products, and sums over rows, after the steps back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusedstep.rnn._cuda.input import flat
from fusedstep.rnn._cuda.norm import give_gains
from fusedstep.rnn._cuda.sums import sum_rows

if TYPE_CHECKING:
    from fusedstep.rnn._cuda.layer import Layer


def give_weights(
    layer: "Layer", arrays: Mapping[str, Any], ends: tuple[Any, Any], gradients: Mapping[str, Any], *, add: bool
) -> None:
    """Write a direction's gradients of the weights, which sum over steps and rows, or add them.

    `ends`: the gates' gradients as W_ih sees them, and x, a row for each step and row.
    """
    device, cell, H, early = layer.device, layer.cell, layer.H, layer.early
    dinput, x = ends
    seen = flat(arrays["dstate"] if "dstate" in arrays else arrays["dinput"][: len(arrays["previous_h"])])

    def product(to: Any, *parts: tuple[Any, Any, Any]) -> None:
        room = device.empty(to.shape, to.dtype) if add else to
        for a, b, rows in parts:
            device.matmul(a.T, b, out=room[rows])
        if add:
            device.core.add(to, room, device.launch_stream())

    product(gradients["weight_ih"], (dinput, x, slice(None)))
    parts = [(seen, flat(arrays["previous_h"]), slice(early))]
    if layer.late:
        parts.append((flat(arrays["dlate"]), flat(arrays["all_reset_h"]), slice(early, None)))
    product(gradients["weight_hh"], *parts)
    if "weight_hr" in gradients:
        product(gradients["weight_hr"], (flat(arrays["dprojected"]), flat(arrays["m"]), slice(None)))
    if cell["norms"]:
        give_gains(device, cell, arrays, gradients, add=add)
    elif "bias_ih" in gradients and cell["separate"]:
        sum_rows(device, dinput, None, [gradients["bias_ih"]], add=add)
        sum_rows(device, seen, None, [gradients["bias_hh"]], add=add)
    elif "bias_ih" in gradients:
        sum_rows(device, dinput, None, [gradients["bias_ih"], gradients["bias_hh"]], add=add)
    for j, (gate, sees_next) in enumerate(cell["peepholes"]):
        c = flat(arrays[("next_c" if "next_c" in arrays else "states") if sees_next else "previous_c"])
        sum_rows(device, seen[:, gate * H : (gate + 1) * H], c, [gradients["weight_ch"][j]], add=add)
