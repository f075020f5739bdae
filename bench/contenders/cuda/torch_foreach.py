"""PyTorch's foreach optimizers on the GPU."""

from bench.cases import OptimCase
from bench.contenders.cuda import torch


class Contender(torch.Contender):
    def variant(self, case: OptimCase) -> str:  # noqa: ARG002
        return "foreach"
