"""Seconds that a call will take on a machine, from its cost and what `fusedstep.machine` measured.

A call takes the seconds of the smallest call of its kind, and those of its work:

- An optimizer's step: the longer of its bytes, at the "update" bandwidth of the level that holds its arrays, and its
  elements at the rate of a root and a division (which bind where the arrays are in a cache); a norm pass and zeros
  before that.
- A step of a cell: the longer of its weights' way, at the "read" bandwidth of the levels where the step before left
  them, and its products, at the rate of products of many rows; then its gates' functions, the codes of x and h where
  weights are int8, and where weights are not frozen, packing them. In a stream, the way of h from thread to thread.
- A sequence: at each step the same of the state's weights, and a barrier; the products with the input, over
  all steps, at the rate of many rows; functions, and the arrays' way.
- Backward: two products for each one forward, none of them waiting for weights but that of the state; the tape's way.

Threads are those that the kernels take for so much work. What no figure of a machine tells (caches shared with others,
clocks, huge pages) is not there.
"""

from typing import NamedTuple

from fusedstep._cost import Cost
from fusedstep.optim._cost import step_cost
from fusedstep.profiler.bounds import HELD, INT8_PRODUCTS, level_of, on_threads
from fusedstep.profiler.ceilings import Machine
from fusedstep.profiler.figures import LEVELS, Rate
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
LINE = 64  # bytes that pass from core to core at once
FEW_ROWS, BARRIERS = 4, 8  # a step of a sequence counts so many rows at least; barriers for a wake: csrc/cpu/pairs.h
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
        self._scale = 1e9 if itemsize == 4 else 5e8

    def part(self, name: str) -> float:
        """Return the rate of a part of the kernels, a second."""
        return on_threads(self.machine.rates[name], self.threads, self.machine) * self._scale

    def bytes(self, stream: str, resident: float) -> float:
        """Return the bytes a second of arrays that are as large."""
        return self._bytes(stream, level_of(resident, self.threads, self.machine))

    def _bytes(self, stream: str, level: str) -> float:
        rate: Rate = self.machine.bandwidth[level][stream]
        return on_threads(rate, self.threads, self.machine) * 1e9

    def to_and_fro(self, size: float) -> float:
        """Return the seconds of weights that one call passes from the first and the next one from the last.

        What a call passed at its end, as much as a cache holds, the next finds there at its beginning; only the rest
        comes from the level behind. That is so from L2 on: reading ahead leaves little of the call before in L1.
        """
        if level_of(size, self.threads, self.machine) == "L1":
            return size / self._bytes("read", "L1")
        seconds, passed = 0.0, 0.0
        for level in LEVELS[1:]:
            held = HELD * self.machine.caches[level] * self.threads if level in self.machine.caches else size
            seconds += max(min(size, held) - passed, 0.0) / self._bytes("read", level)
            passed = min(size, held)
        return seconds


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
        moved = elements * itemsize / rates.bytes("read", resident)
        seconds += machine.region * (threads > 1) + max(moved, elements / rates.part("norms"))
    return Prediction(cost, seconds)


def _products(s: Sizes, rows: float, weights: int, rates: _Rates, *, to_and_fro: bool = False) -> float:
    """Return the seconds of a product of rows with weights, whichever takes longer to come by."""
    size = weights * s.weight_itemsize
    factor = INT8_PRODUCTS if s.storage == "int8" else 1
    way = rates.to_and_fro(size) if to_and_fro else size / rates.bytes("read", size)
    return max(way, 2 * rows * weights / (factor * rates.part("products")))


def _passed_on(values: float, threads: int, itemsize: int, machine: Machine) -> float:
    """Return the seconds in which every thread gets what the others wrote of the values of a row.

    Its lines come one after the other, those of several rows side by side. A barrier is the way of two lines: that
    someone arrived, and that all did.
    """
    return values * (threads - 1) / threads * itemsize / LINE * machine.barrier / 2


def _codes(s: Sizes, values: float, machine: Machine) -> float:
    """Return the seconds in which a thread makes int8 codes of so many values of x and h: a division each, no root.

    Every thread makes those that it multiplies; they share h of several rows.
    """
    return values / _Rates(machine, 1, s.itemsize).part("roots") if s.storage == "int8" else 0.0


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
        seconds += _products(own, B, weights, rates, to_and_fro=True) + machine.region * (count > 1)
        seconds += _codes(own, B * (own.I + own.P), machine)
        if kind == "stream":  # a cell's state is its caller's
            seconds += _passed_on(own.P, count, s.itemsize, machine)
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
    meeting = machine.barrier * (count > 1) + _passed_on(s.P, count, s.itemsize, machine)
    seconds = machine.calls["sequence"] + steps * meeting
    seconds += steps * _products(s, rows, again, rates)
    seconds += 2 * pairs * s.D * s.input_weights / rates.part("products")
    seconds += _codes(s, s.D * pairs * (s.I + s.P / (count if rows > 1 else 1)), machine)
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
    meeting = machine.barrier * (count > 1) + _passed_on(s.gates * s.H, count, s.itemsize, machine)
    seconds = machine.calls["sequence_backward"] + steps * meeting
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
