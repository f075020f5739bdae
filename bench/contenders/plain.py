"""fusedstep without a case's option: what the option costs."""

from dataclasses import replace

from bench.cases import AnyCase, SequenceCase
from bench.contenders import fusedstep


class Contender(fusedstep.Contender):
    def fit(self, case: AnyCase) -> AnyCase:
        return replace(case, option="") if isinstance(case, SequenceCase) else case
