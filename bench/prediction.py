"""What `fusedstep.cost` predicts for a case."""

import fusedstep
from fusedstep.profiler import model
from fusedstep.rnn._cost import Sizes

from bench.cases import AnyCase, CellCase, OptimCase, SequenceCase, StreamCase


def predicted(case: AnyCase) -> float | None:
    """Return the seconds of a step on this machine; None where there is no model: losses, and steps with a pace."""
    machine = fusedstep.machine()
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


def _sequence(machine: fusedstep.profiler.Machine, case: SequenceCase) -> float:
    sizes: Sizes = case.sizes
    if case.option == "layer norm":
        sizes = sizes._replace(kind=f"layer_norm_{case.method}")
    shape = sum(case.lengths), max(case.lengths), case.batch
    tape = "full" if case.taped or case.backward else ""
    seconds = model.sequence(machine, sizes, *shape, frozen=case.frozen and not case.backward, tape=tape).seconds
    if case.backward:
        seconds += model.sequence_backward(machine, sizes, *shape).seconds
    return seconds
