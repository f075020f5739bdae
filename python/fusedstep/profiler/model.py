"""Seconds that a call will take on a machine, from its cost and what `fusedstep.machine` measured.

A call takes the seconds of the smallest call of its kind, and those of its work:

- An optimizer's step: the longer of its bytes, at the "update" bandwidth of the level that holds its arrays, and its
  elements at the rate of a root and a division (which bind where the arrays are in a cache); a norm pass and zeros
  before that.
- A step of a cell: the longer of its weights' way, at the "copy" bandwidth, and its products, at the rate of products
  of many rows; then its gates' functions, and where weights are not frozen, packing them.
- A sequence: at each step the same of the state's weights, and a barrier; the products with the input, over
  all steps, at the rate of many rows; functions, and the arrays' way.
- Backward: two products for each one forward, none of them waiting for weights but that of the state; the tape's way.

Threads are those that the kernels take for so much work. What no figure of a machine tells (caches shared with others,
clocks, huge pages) is not there.
"""

from typing import NamedTuple

from fusedstep._cost import Cost
from fusedstep.optim._cost import step_cost
from fusedstep.profiler.bounds import INT8_PRODUCTS, level_of, on_threads
from fusedstep.profiler.ceilings import Machine, Rate
from fusedstep.rnn import UNIT_FLOPS
from fusedstep.rnn._cost import (
    Sizes,
    cell_backward_cost,
    cell_cost,
    sequence_backward_cost,
    sequence_cost,
    stream_cost,
)

STEP_ELEMENTS = 16384  # of an optimizer's step, for each thread: csrc/cpu/multi_tensor.cpp
STEP_PRODUCTS = 1 << 17  # multiply-adds of a cell's step, for each thread: csrc/cpu/rnn.h
FEW_ROWS, BARRIERS = 4, 8  # a step of a sequence counts so many rows at least; barriers for a wake: csrc/cpu/pairs.h
BARRIER = 0.5  # of an empty region
BACK_PACKED = 2  # packings of the weights in a call backward: for dx and for dh


class Prediction(NamedTuple):
    """A call's cost, and its seconds on a machine.

    Attributes
    ----------
    cost : Cost
        Bytes and FLOPs.
    seconds : float
        Predicted.
    """

    cost: Cost
    seconds: float


def _threads(work: float, of_one: int, machine: Machine, most: int = 0) -> int:
    return max(1, min(int(work / of_one), most or machine.threads))


class _Rates:
    """What so many threads reach, with elements of so many bytes."""

    def __init__(self, machine: Machine, threads: int, itemsize: int) -> None:
        self.machine, self.threads = machine, threads
        peak = machine.peak["float32"]
        self._scale = on_threads(peak, threads, machine) / peak.one * (1e9 if itemsize == 4 else 5e8)

    def part(self, name: str) -> float:
        """Return the rate of a part of the kernels, a second."""
        return self.machine.rates[name] * self._scale

    def bytes(self, stream: str, resident: float) -> float:
        """Return the bytes a second of arrays that are as large."""
        rate: Rate = self.machine.bandwidth[level_of(resident, self.threads, self.machine)][stream]
        return on_threads(rate, self.threads, self.machine) * 1e9


def step(
    machine: Machine,
    rule: str,
    tensors: int,
    elements: int,
    itemsize: int,
    used: frozenset[str] = frozenset(),
    *,
    norm: bool = False,
    zero: bool = False,
) -> Prediction:
    """Predict an optimizer's step."""
    cost = step_cost(rule, elements, itemsize, used, norm=norm, zero=zero)
    plain = step_cost(rule, elements, itemsize, used, norm=False, zero=zero)
    threads = _threads(elements, STEP_ELEMENTS, machine)
    rates = _Rates(machine, threads, itemsize)
    arrays = plain.bytes - elements * itemsize * zero
    resident = (arrays + elements * itemsize) // 2  # all but the gradient is read and written
    seconds = machine.calls["optimizer"] + (tensors - 1) * machine.calls["tensor"] + machine.region * (threads > 1)
    seconds += max(plain.bytes / rates.bytes("update", resident), elements / rates.part("roots"))
    if norm:
        moved = elements * itemsize / rates.bytes("copy", resident)
        seconds += machine.region * (threads > 1) + max(moved, elements / rates.part("norms"))
    return Prediction(cost, seconds)


def _products(s: Sizes, rows: float, weights: int, rates: _Rates) -> float:
    """Return the seconds of a product of rows with weights, whichever takes longer to come by."""
    size = weights * s.weight_itemsize
    factor = INT8_PRODUCTS if s.storage == "int8" else 1
    return max(size / rates.bytes("copy", size), 2 * rows * weights / (factor * rates.part("products")))


def cell(
    machine: Machine,
    s: Sizes,
    B: int,
    *,
    frozen: bool = True,
    tape: bool = False,
    threads: int = 0,
    layers: int = 1,
    kind: str = "cell",
) -> Prediction:
    """Predict a step of a cell, or of a stream of several layers on at most so many threads."""
    seconds = machine.calls[kind]
    for layer in range(layers):
        own = s if layer == 0 else s._replace(I=s.P)
        weights = own.input_weights + own.state_weights
        count = _threads(B * weights, STEP_PRODUCTS, machine, threads)
        rates = _Rates(machine, count, s.itemsize)
        seconds += _products(own, B, weights, rates) + machine.region * (count > 1)
        seconds += B * s.H * UNIT_FLOPS[s.kind][0] / rates.part("functions")
        if not frozen:
            seconds += weights / rates.part("packing")
    cost = stream_cost(s, B, layers) if kind == "stream" else cell_cost(s, B, tape=tape)
    return Prediction(cost, seconds)


def cell_backward(machine: Machine, s: Sizes, B: int) -> Prediction:
    """Predict a step backward."""
    weights = s.input_weights + s.state_weights
    count = _threads(2 * B * weights, STEP_PRODUCTS, machine)
    rates = _Rates(machine, count, s.itemsize)
    seconds = machine.calls["cell"] + 2 * machine.region * (count > 1) + weights / rates.part("packing")
    seconds += 2 * _products(s, B, weights, rates)
    seconds += B * s.H * UNIT_FLOPS[s.kind][1] / rates.part("functions")
    return Prediction(cell_backward_cost(s, B), seconds)


def _step_threads(machine: Machine, s: Sizes, steps: int, B: int) -> int:
    work = s.D * max(B, FEW_ROWS) * s.state_weights
    return min(_threads(steps * work, STEP_PRODUCTS, machine), _threads(BARRIERS * work, STEP_PRODUCTS, machine))


def sequence(
    machine: Machine, s: Sizes, pairs: int, steps: int, B: int, *, frozen: bool = True, tape: str = ""
) -> Prediction:
    """Predict a layer over a sequence."""
    cost = sequence_cost(s, pairs, steps, B, tape=tape)
    count = _step_threads(machine, s, steps, B)
    rates = _Rates(machine, count, s.itemsize)
    rows = pairs / max(steps, 1)
    again = s.D * s.state_weights
    seconds = machine.calls["sequence"] + steps * BARRIER * machine.region * (count > 1)
    seconds += steps * _products(s, rows, again, rates)
    seconds += 2 * pairs * s.D * s.input_weights / rates.part("products")
    seconds += pairs * s.D * s.H * UNIT_FLOPS[s.kind][0] / rates.part("functions")
    moved = cost.bytes - steps * again * s.weight_itemsize
    seconds += moved / rates.bytes("copy", moved)
    if not frozen:
        seconds += s.parameters / rates.part("packing")
    return Prediction(cost, seconds)


def sequence_backward(
    machine: Machine, s: Sizes, pairs: int, steps: int, B: int, *, tape: str = "full", dx: bool = True
) -> Prediction:
    """Predict a layer backward through a sequence."""
    cost = sequence_backward_cost(s, pairs, steps, B, tape=tape, dx=dx)
    count = _step_threads(machine, s, steps, B)
    rates = _Rates(machine, count, s.itemsize)
    again = s.D * s.state_weights
    seconds = machine.calls["sequence_backward"] + steps * BARRIER * machine.region * (count > 1)
    seconds += BACK_PACKED * s.parameters / rates.part("packing")
    seconds += steps * _products(s, pairs / max(steps, 1), again, rates)
    products = pairs * s.D * (s.input_weights * (1 + dx) + s.state_weights)
    again_forward = s.D * pairs * (s.product_flops // 2) if tape == "lean" else 0
    seconds += 2 * (products + again_forward) / rates.part("products")
    unit = UNIT_FLOPS[s.kind][1] + UNIT_FLOPS[s.kind][0] * (tape == "lean")
    seconds += pairs * s.D * s.H * unit / rates.part("functions")
    moved = cost.bytes - steps * again * s.itemsize
    seconds += moved / rates.bytes("copy", moved)
    return Prediction(cost, seconds)
