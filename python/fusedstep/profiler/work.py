"""From a record to what it is called, its cost, and where its bytes come from."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fusedstep import _core
from fusedstep._cost import Cost
from fusedstep._record import (
    ADD,
    BIAS,
    DTYPES,
    DX,
    DY,
    FROZEN,
    GRAD,
    LEAN,
    MASTER,
    NORM,
    PROBABILITIES,
    SKIPPED,
    SMOOTHING,
    STORAGE,
    TAPE,
    VALUES,
    WEIGHT,
    Z_LOSS,
    ZERO,
)
from fusedstep.loss._cost import elements_cost, rows_cost
from fusedstep.optim._cost import step_cost
from fusedstep.rnn._cost import (
    STORAGES,
    Sizes,
    cell_backward_cost,
    cell_cost,
    sequence_backward_cost,
    sequence_cost,
    stream_cost,
)

KINDS: tuple[str, ...] = _core.record_kinds
ITEMSIZES = dict(zip(DTYPES, (4, 8, 2, 2), strict=True))


class Work(NamedTuple):
    """A call, decoded.

    Attributes
    ----------
    kind, method, dtype : str
        What was called: a kind of record, the compiled method's name, and the type of its arrays.
    title, shape : str
        How tables call it, with its options, and its shapes.
    sizes : dict of str to int
        Its shapes by the names of `csrc/python/record.h`.
    cost : Cost
        What the mathematics moves and computes.
    resident : int
        Bytes of its arrays: what a cache must hold for the next call to find them there.
    weights, weights_moved : int
        Of these, the bytes of weights that every step needs again; and how many bytes their way to the registers takes.
    threads : int
        That it ran on; 0 on a GPU.
    options : tuple of str
        "frozen", "tape", "lean", "norm", "int8" and the like.
    """

    kind: str
    method: str
    dtype: str
    title: str
    shape: str
    sizes: dict[str, int]
    cost: Cost
    resident: int
    weights: int
    weights_moved: int
    threads: int
    options: tuple[str, ...]

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return ITEMSIZES[self.dtype]

    @property
    def device(self) -> str:
        """Where it ran: "cpu" or "cuda"."""
        return "cpu" if self.threads else "cuda"


def decoded(row: Any, names: Sequence[str]) -> Work:
    """Decode a record of `_core.records`."""
    kind, method, dtype = KINDS[row["kind"]], names[row["method"]], DTYPES[row["dtype"]]
    numbers, options, threads = [int(n) for n in row["n"]], int(row["options"]), int(row["threads"])
    return DECODERS[kind](kind, method, dtype, numbers, options, threads)


def merged(first: Work, others: Sequence[Work]) -> Work:
    """Return a step whose parts have other rules, hyperparameters or dtypes."""
    sizes, cost, resident = dict(first.sizes), first.cost, first.resident
    for other in others:
        sizes = {name: n + other.sizes[name] for name, n in sizes.items()}
        cost, resident = cost + other.cost, resident + other.resident
    titles = dict.fromkeys(work.title for work in (first, *others))
    return first._replace(title=" + ".join(titles), shape=_tensors(**sizes), sizes=sizes, cost=cost, resident=resident)


def _chosen(options: int, **bits: int) -> tuple[str, ...]:
    return tuple(name for name, bit in bits.items() if options & bit)


def _used(names: Sequence[str], options: int) -> frozenset[str]:
    return frozenset(name for i, name in enumerate(names) if options >> i & 1)


def _tensors(tensors: int, elements: int) -> str:
    return f"{elements:,}" if tensors == 1 else f"{elements:,} in {tensors:,}"


def _optimizer(kind: str, method: str, dtype: str, n: list[int], options: int, threads: int) -> Work:
    hyper, states = _core.rules()[method]
    used, itemsize, master = _used(hyper, options), ITEMSIZES[dtype], bool(options & MASTER)
    of_states = max(itemsize, 4)
    cost = step_cost(
        method,
        n[1],
        itemsize,
        used,
        norm=bool(options & NORM),
        zero=bool(options & ZERO),
        applied=not options & SKIPPED,
        state_itemsize=of_states,
        master=master,
    )
    chosen = _chosen(options, norm=NORM, zero=ZERO, skipped=SKIPPED, master=MASTER)
    name = "adamw" if method == "adam" and used >= {"decoupled", "weight_decay"} else method
    title = " + ".join([f"{name} step", *(o for o in chosen if o in ("norm", "zero"))])
    title += ", master" * master + ", skipped" * ("skipped" in chosen)
    sizes = {"tensors": n[0], "elements": n[1]}
    resident = n[1] * (2 * itemsize + (states + master) * of_states)
    return Work(kind, method, dtype, title, _tensors(**sizes), sizes, cost, resident, 0, 0, threads, chosen)


def _sizes(method: str, dtype: str, n: Sequence[int], options: int) -> Sizes:
    I, H, P, D = n  # noqa: E741 - the paper's symbols
    storage = STORAGES[options >> STORAGE & 3]
    return Sizes(method, I, H, P, D, bool(options & BIAS), np.dtype(dtype).itemsize, storage)


def _cell(kind: str, method: str, dtype: str, n: list[int], options: int, threads: int) -> Work:
    B, I, H = n[:3]  # noqa: E741
    s, backward = _sizes(method, dtype, (I, H, H, 1), options), kind == "cell_backward"
    cost = cell_backward_cost(s, B) if backward else cell_cost(s, B, tape=bool(options & TAPE))
    chosen = () if backward else _chosen(options, frozen=FROZEN, tape=TAPE)
    title = f"{method} cell backward" if backward else ", ".join((f"{method} cell", *chosen))
    weights = s.parameters * s.itemsize
    sizes = {"B": B, "I": I, "H": H}
    shape = _shape(sizes)
    return Work(kind, method, dtype, title, shape, sizes, cost, cost.bytes, weights, weights, threads, chosen)


def _shape(sizes: dict[str, int]) -> str:
    return " ".join(f"{name}={n}" for name, n in sizes.items())


def _sequence(kind: str, method: str, dtype: str, n: list[int], options: int, threads: int) -> Work:
    pairs, steps, B, I, H, P, D = n  # noqa: E741
    s, backward = _sizes(method, dtype, (I, H, P, D), options), kind == "sequence_backward"
    lean = "lean" if options & LEAN else "full"
    if backward:
        wanted = {"dx": bool(options & DX), "dy": bool(options & DY), "add": bool(options & ADD)}
        cost, chosen = sequence_backward_cost(s, pairs, steps, B, tape=lean, **wanted), _chosen(options, lean=LEAN)
    else:
        cost = sequence_cost(s, pairs, steps, B, tape=lean if options & TAPE else "")
        chosen = _chosen(options, frozen=FROZEN, tape=TAPE, lean=LEAN)
    again = s.D * s.state_weights * s.weight_itemsize
    sizes = {"T": steps, "B": B, "I": I, "H": H}
    if P < H:
        sizes["P"] = P
    if D > 1:
        sizes["D"] = D
    if s.storage != "same":
        chosen = (*chosen, s.storage)
    title = ", ".join((f"{method} sequence" + " backward" * backward, *chosen))
    varied = f", {pairs:,} pairs" if pairs != steps * B else ""
    resident = cost.bytes - max(steps - 1, 0) * again
    return Work(
        kind,
        method,
        dtype,
        title,
        _shape(sizes) + varied,
        {**sizes, "pairs": pairs},
        cost,
        resident,
        again,
        steps * again,
        threads,
        chosen,
    )


def _stream(kind: str, method: str, dtype: str, n: list[int], options: int, threads: int) -> Work:
    B, I, H, P, layers = n[:5]  # noqa: E741
    s = _sizes(method, dtype, (I, H, P, 1), options)
    cost = stream_cost(s, B, layers)
    sizes = {"B": B, "I": I, "H": H, "layers": layers} if layers > 1 else {"B": B, "I": I, "H": H}
    title = f"{method} stream" + f", {s.storage}" * (s.storage != "same")
    upper = s._replace(I=P)
    weights = (s.input_weights + s.state_weights) + (layers - 1) * (upper.input_weights + upper.state_weights)
    moved = weights * s.weight_itemsize
    chosen = ("frozen", s.storage) if s.storage != "same" else ("frozen",)
    return Work(kind, method, dtype, title, _shape(sizes), sizes, cost, cost.bytes, moved, moved, threads, chosen)


def _loss(kind: str, method: str, dtype: str, n: list[int], options: int, threads: int) -> Work:
    used = _used(_core.losses()[method].split(), options)
    chosen = _chosen(options, grad=GRAD, values=VALUES, weight=WEIGHT)
    flags = {"grad": "grad" in chosen, "values": "values" in chosen, "weighted": "weight" in chosen}
    cost = elements_cost(method, n[0], np.dtype(dtype).itemsize, used, n[1], **flags)
    sizes = {"elements": n[0]}
    title = method + ", value alone" * ("grad" not in chosen)
    return Work(kind, method, dtype, title, f"{n[0]:,}", sizes, cost, cost.bytes, 0, 0, threads, chosen)


def _loss_rows(kind: str, method: str, dtype: str, n: list[int], options: int, threads: int) -> Work:
    chosen = _chosen(options, grad=GRAD, values=VALUES, dense=PROBABILITIES | SMOOTHING, z_loss=Z_LOSS)
    flags = {name: name in chosen for name in ("grad", "values", "dense", "z_loss")}
    cost = rows_cost(method, n[0], n[1], np.dtype(dtype).itemsize, n[2], **flags)
    sizes = {"rows": n[0], "classes": n[1]}
    title = method + ", value alone" * ("grad" not in chosen)
    return Work(kind, method, dtype, title, f"{n[0]:,} × {n[1]:,}", sizes, cost, cost.bytes, 0, 0, threads, chosen)


def _custom_loss(kind: str, method: str, dtype: str, n: list[int], options: int, threads: int) -> Work:  # noqa: ARG001
    elements, of_row, read, written, flops, row_flops = n[:6]
    cost = Cost(read + written, elements * flops + elements // max(of_row, 1) * row_flops * (row_flops > 0))
    title, sizes = f"{method} (custom)", {"elements": elements}
    return Work(kind, method, dtype, title, f"{elements:,}", sizes, cost, cost.bytes, 0, 0, threads, ())


def _dropout(kind: str, method: str, dtype: str, n: list[int], options: int, threads: int) -> Work:  # noqa: ARG001
    cost = Cost(2 * n[0] * np.dtype(dtype).itemsize, n[0])
    return Work(kind, method, dtype, method, f"{n[0]:,}", {"elements": n[0]}, cost, cost.bytes, 0, 0, threads, ())


def _given(kind: str, method: str, dtype: str, n: list[int], options: int, threads: int) -> Work:  # noqa: ARG001
    """Decode what Python recorded: a product has its cost with it, a range has none."""
    cost = Cost(n[1], n[0])
    title, _, shape = method.partition(": ")
    return Work(kind, method, dtype, title, shape, {}, cost, cost.bytes, 0, 0, threads, ())


DECODERS = {
    "optimizer": _optimizer,
    "cell": _cell,
    "cell_backward": _cell,
    "sequence": _sequence,
    "sequence_backward": _sequence,
    "stream": _stream,
    "loss": _loss,
    "loss_rows": _loss_rows,
    "custom_loss": _custom_loss,
    "dropout": _dropout,
    "matmul": _given,
    "range": _given,
}
