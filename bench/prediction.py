"""What `fusedstep.cost` predicts for a case."""

from functools import cache

import fusedstep
from fusedstep.profiler import kernels, model
from fusedstep.profiler.binding import binding
from fusedstep.profiler.ceilings import Machine, replaced
from fusedstep.profiler.figures import Meter
from fusedstep.rnn._cost import Sizes

from bench.cases import AnyCase, CellCase, OptimCase, SequenceCase, StreamCase


def predicted(case: AnyCase, machine: Machine) -> float | None:
    """Return the seconds of a step on a machine; None where there is no model: losses, and steps with a pace."""
    match case:
        case OptimCase():
            rule, count, n = case.rule, len(case.sizes), sum(case.sizes)
            return model.step(machine, rule, count, n, 4, norm=case.norm_pass, zero=case.zero_grads).seconds
        case CellCase():
            return model.cell(machine, case.sizes, case.batch, frozen=case.frozen).seconds
        case StreamCase(pace=0):
            sizes = case.sizes._replace(storage="same" if case.weights == "float32" else case.weights)
            return model.cell(machine, sizes, case.batch, threads=case.threads, kind="stream").seconds
        case SequenceCase():
            return _sequence(machine, case)
        case _:
            return None


def _sequence(machine: Machine, case: SequenceCase) -> float:
    sizes: Sizes = case.sizes
    if case.option == "layer norm":
        sizes = sizes._replace(kind=f"layer_norm_{case.method}")
    shape = sum(case.lengths), max(case.lengths), case.batch
    tape = "full" if case.taped or case.backward else ""
    seconds = model.sequence(machine, sizes, *shape, frozen=case.frozen and not case.backward, tape=tape).seconds
    if case.backward:
        seconds += model.sequence_backward(machine, sizes, *shape).seconds
    return seconds


@cache
def meter_of(threads: int) -> Meter:
    """Return what measures this machine: once, as it keeps what it has prepared."""
    return Meter(threads, fusedstep.machine().caches)


class Prediction:
    """The model's seconds of a case, with the machine's figures as they were at first, and as they are now.

    Only the figures that the case's prediction depends on are measured again.
    """

    def __init__(self, case: AnyCase) -> None:
        self._case, self._machine = case, fusedstep.machine()
        self.at_first = self._seconds(self._machine)
        self.figures = binding(self._seconds, self._machine)

    def _seconds(self, machine: Machine) -> float:
        seconds = predicted(self._case, machine)
        assert seconds is not None
        return seconds

    def sample(self, seconds: float) -> float:
        """Measure the figures for about so many seconds in all; as steps are timed: the mean, not the best."""
        meter, each = meter_of(self._machine.threads), seconds / len(self.figures)
        found = {figure: meter.measure(figure, each, kernels.mean) for figure in self.figures}
        return self._seconds(replaced(self._machine, found))
