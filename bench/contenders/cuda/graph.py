"""fusedstep's step captured once in a CUDA graph, and replayed."""

from dataclasses import replace

from bench.cases import AnyCase
from bench.contenders import Step
from bench.contenders.cuda import fusedstep


class Contender(fusedstep.Contender):
    def prepare(self, case: AnyCase) -> Step:
        first = super().prepare(case)  # loads kernels and fills the memory pool: neither may happen during a capture
        exec(first.statement, first.names)  # noqa: S102
        step = super().prepare(case)
        self.queue.begin_capture()
        exec(step.statement, step.names)  # noqa: S102
        step.names["graph"] = self.queue.end_capture()
        return replace(step, statement="graph.launch()", variant=step.statement)
