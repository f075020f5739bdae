"""What cells and sequences cost.

Products take two operations for each weight and row that meet, the gates what each cell states (`UNIT_FLOPS`). Bytes
are those of every array, once for each time that it must be read or written: weights of the state at every step, as no
register holds them from one step to the next; everything else once.
"""

from typing import NamedTuple

from fusedstep import _core
from fusedstep._cost import Cost
from fusedstep.rnn import UNIT_FLOPS

STORAGES = ("same", "bfloat16", "int8")  # the core's numbers


class Sizes(NamedTuple):
    """A cell, or one layer of a sequence: P is the width of h, D the number of directions."""

    kind: str
    I: int  # noqa: E741 - the paper's symbol
    H: int
    P: int
    D: int = 1
    bias: bool = True
    itemsize: int = 4
    storage: str = "same"  # of packed weights

    @property
    def gates(self) -> int:
        """Rows of a weight matrix, in units of H."""
        return _core.cells()[self.kind]["gates"]

    @property
    def states(self) -> int:
        """States of a cell."""
        return _core.cells()[self.kind]["states"]

    @property
    def saved(self) -> int:
        """Values of a hidden unit that a full tape keeps for each pair of a step and a row."""
        return _core.cells()[self.kind]["saved"]

    @property
    def weight_itemsize(self) -> int:
        """Bytes of a packed weight."""
        return {"same": self.itemsize, "bfloat16": 2, "int8": 1}[self.storage]

    @property
    def input_weights(self) -> int:
        """Elements of W_ih."""
        return self.gates * self.H * self.I

    @property
    def state_weights(self) -> int:
        """Elements of W_hh, and of W_hr where h is projected."""
        return self.gates * self.H * self.P + (self.P * self.H if self.P < self.H else 0)

    @property
    def vectors(self) -> int:
        """Elements of biases, peepholes and gains."""
        cell = _core.cells()[self.kind]
        of_c = (1 + self.bias) if cell["norms"] and self.states > 1 else 0
        gains = 2 * self.gates if cell["norms"] else 0
        return self.H * (2 * self.gates * self.bias + cell["peepholes"] + gains + of_c)

    @property
    def parameters(self) -> int:
        """Elements of all weights."""
        return self.D * (self.input_weights + self.state_weights + self.vectors)

    @property
    def state_width(self) -> int:
        """Elements of a row's states."""
        return self.P + (self.states - 1) * self.H

    @property
    def product_flops(self) -> int:
        """Operations of the products of a step, for one row and direction."""
        return 2 * (self.input_weights + self.state_weights)

    @property
    def tape_width(self) -> int:
        """Elements that a full tape holds for each pair and direction, the second state apart."""
        return self.saved * self.H + 2 * _core.cells()[self.kind]["norms"]


def _weight_bytes(s: Sizes, steps: int) -> int:
    """Count the weights of one direction, those of the state at every step."""
    matrices = s.input_weights + steps * s.state_weights
    return matrices * s.weight_itemsize + s.vectors * s.itemsize


def cell_cost(s: Sizes, B: int, *, tape: bool = False) -> Cost:
    """Return the cost of a step of B rows: x and the state are read, the new state is written; and the tape."""
    values = B * (s.I + 2 * s.state_width + s.tape_width * tape)
    return Cost(values * s.itemsize + _weight_bytes(s, 1), B * (s.product_flops + s.H * UNIT_FLOPS[s.kind][0]))


def cell_backward_cost(s: Sizes, B: int) -> Cost:
    """Return the cost of a step backward.

    Read: x, the states before and after, the gradients of the latter, the tape, the weights. Written: the gradients of
    x, the state and the weights. Two products for each one forward, the gates' gradients, and the sums of the biases.
    """
    values = B * (2 * s.I + 4 * s.state_width + s.tape_width) + s.parameters
    flops = B * (2 * s.product_flops + s.H * UNIT_FLOPS[s.kind][1] + _sums(s))
    return Cost(values * s.itemsize + _weight_bytes(s, 1), flops)


def _sums(s: Sizes) -> int:
    """Count the operations that a row adds to the gradients of biases and peepholes."""
    cell = _core.cells()[s.kind]
    biases = 0 if cell["norms"] else s.gates + (s.kind == "gru")  # n's differs by W_ih and W_hh
    return s.H * (biases * s.bias + 2 * cell["peepholes"])


def stream_cost(s: Sizes, B: int, layers: int) -> Cost:
    """Return the cost of a step of stacked layers, of which the upper ones read the h of those below."""
    upper = s._replace(I=s.P)
    total = cell_cost(s, B)
    for _ in range(layers - 1):
        total += cell_cost(upper, B)
    return total


def sequence_cost(s: Sizes, pairs: int, steps: int, B: int, *, tape: str = "") -> Cost:
    """Return the cost of a layer over a sequence of so many pairs of a step and a row.

    Read: x, the state. Written: y, the new state, and on a tape the second state, with "full" the gates too.
    """
    kept = (s.states - 1) * s.H * bool(tape) + s.tape_width * (tape == "full")
    values = pairs * (s.I + s.P + kept) + 2 * B * s.state_width
    flops = pairs * (s.product_flops + s.H * UNIT_FLOPS[s.kind][0])
    return Cost(s.D * (values * s.itemsize + _weight_bytes(s, steps)), s.D * flops)


def sequence_backward_cost(
    s: Sizes, pairs: int, steps: int, B: int, *, tape: str = "full", dx: bool = True, dy: bool = True, add: bool = False
) -> Cost:
    """Return the cost of a layer backward through a sequence.

    Read: x, y as the states before each step, dy, the second states, the gates, which their gradients replace and
    which the products with the weights and with x and h read again; the gradients of the states, and the weights.
    Written: dx, the gradients of the states and of the weights, to which `add` adds. A lean tape's gates are computed
    again.
    """
    gates = s.tape_width * (2 + 1 + (tape == "lean"))
    values = pairs * (s.I * (1 + dx) + s.P * (1 + dy) + (s.states - 1) * s.H + gates)
    values += 2 * B * s.state_width + s.parameters // s.D * (1 + add)
    products = 2 * s.product_flops - (0 if dx else 2 * s.input_weights)
    forward, backward = UNIT_FLOPS[s.kind]
    again = s.product_flops + s.H * forward if tape == "lean" else 0
    flops = pairs * (products + again + s.H * backward + _sums(s))
    return Cost(s.D * (values * s.itemsize + _weight_bytes(s, steps)), s.D * flops)
