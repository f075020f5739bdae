"""What a step costs."""

from fusedstep import _core
from fusedstep._cost import Cost
from fusedstep.optim import OPTIMIZERS

TOUCH = {f"touch{n}": n + 1 for n in (1, 2, 3)}  # the benchmark's ceilings


def element_flops(rule: str, used: frozenset[str]) -> int:
    """Count the operations of a compiled rule on an element, where hyperparameters that are not 0 are `used`."""
    known = TOUCH | {name: n for cls in OPTIMIZERS.values() for name, n in cls.flops(used).items()}
    return known[rule]


def step_cost(
    rule: str,
    elements: int,
    itemsize: int,
    used: frozenset[str],
    *,
    norm: bool,
    zero: bool,
    applied: bool = True,
    state_itemsize: int | None = None,
    master: bool = False,
) -> Cost:
    """Return the cost of a step.

    The gradient is read, parameter and states are read and written; a norm pass reads the gradient once more, and
    zeroing writes it. A master copy is read and written, and the parameter then written alone. An element takes the
    rule's operations and the product with the gradient's scale; the norm two.

    Parameters
    ----------
    rule : str
        The compiled rule.
    elements, itemsize : int
        Elements of all parameters, and bytes of one.
    used : set of str
        The hyperparameters that are not 0.
    norm, zero, applied : bool
        Whether there was a norm pass, gradients were zeroed, and anything was changed.
    state_itemsize : int, optional
        Bytes of an element of the states and the master copy, where they are others.
    master : bool, optional
        Whether parameters have one.
    """
    states = _core.rules()[rule][1]
    moved = itemsize * ((2 if master else 3) + zero) + (state_itemsize or itemsize) * 2 * (states + master)
    moved = moved * applied + itemsize * norm
    flops = (1 + element_flops(rule, used)) * applied + 2 * norm
    return Cost(moved * elements, flops * elements)
