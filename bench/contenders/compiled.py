"""torch.compile of what the torch contender runs: losses alone."""

from typing import Any

import torch

from bench.cases import LossCase
from bench.contenders import torch as eager


class Contender(eager.Contender):
    def function(self, case: LossCase) -> Any:
        return torch.compile(super().function(case))
