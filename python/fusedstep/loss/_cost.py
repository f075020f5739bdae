"""What losses cost."""

from collections.abc import Callable

from fusedstep._cost import Cost
from fusedstep.loss.rows import row_flops

# Operations of an elementwise loss, value and gradient, where hyperparameters that are not 0 are given: stated beside
# each function.
FLOPS: dict[str, Callable[[frozenset[str]], int]] = {}


def elements_cost(
    name: str, n: int, itemsize: int, used: frozenset[str], operands: int, *, grad: bool, values: bool, weighted: bool
) -> Cost:
    """Return the cost of an elementwise loss.

    The input, and the `operands` of so many bytes, are read; gradient and values, where wanted, are written. An element
    takes the loss's operations, those with the weight 2, the gradient's scale, and the sum.
    """
    flops = FLOPS[name](used) + 2 * weighted + grad + (not values)
    return Cost(n * itemsize * (1 + grad + values) + operands, n * flops)


def rows_cost(
    name: str,
    N: int,
    C: int,
    itemsize: int,
    operands: int,
    *,
    dense: bool,
    z_loss: bool,
    grad: bool,
    values: bool,
) -> Cost:
    """Return the cost of a loss of N rows of C classes: `cross_entropy`, or `nll`, which reads one value of a row."""
    softmax = name == "cross_entropy"
    read = N * C if softmax else N
    flops = row_flops(C, dense=dense, z_loss=z_loss, grad=grad) if softmax else 2
    return Cost(itemsize * (read + N * C * grad + N * values) + operands, N * flops)
