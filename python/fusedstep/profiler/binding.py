"""Which figures of a machine a prediction depends on."""

from collections.abc import Callable

from fusedstep.profiler.ceilings import Machine, replaced, value
from fusedstep.profiler.figures import Figure, figures

SLOWER = 4.0  # a shared machine may become so much slower, and then another ceiling binds
NOTICED = 0.01  # of the predicted seconds


def binding(predict: Callable[[Machine], float], machine: Machine) -> list[Figure]:
    """Return the figures that change a prediction where one of them is much worse than it was measured.

    Parameters
    ----------
    predict : callable
        From a machine to the seconds of a call.
    machine : Machine
        As it was measured.

    Returns
    -------
    list of tuple of str
        Their places in a `Machine`, in the order of `figures`.
    """
    expected = predict(machine)

    def matters(figure: Figure) -> bool:
        worse = value(machine, figure) * (SLOWER if figure[0] in ("calls", "region", "barrier") else 1 / SLOWER)
        return abs(predict(replaced(machine, {figure: worse})) / expected - 1) > NOTICED

    return [figure for figure in figures() if matters(figure)]
