"""PyTorch's capturable optimizers and its modules, captured once in a CUDA graph and replayed."""

from dataclasses import replace
from typing import Any

import torch

from bench import inputs
from bench.cases import AnyCase, OptimCase
from bench.contenders import Step
from bench.contenders import torch as cpu
from bench.contenders.cuda import torch as eager


class Contender(eager.Contender):
    def optimizer(self, case: OptimCase, params: list[torch.Tensor]) -> torch.optim.Optimizer:
        options = {self.variant(case): True, "capturable": True}
        return cpu.OPTIMIZERS[case.method](params, lr=inputs.LEARNING_RATE, **options)

    def optim(self, case: OptimCase) -> Step:
        """Make the states, which a first step does, before anything is captured."""
        step = super().optim(case)
        params, state = step.names["params"], step.names["opt"].state
        before = [(p.clone(), p.grad.clone()) for p in params]
        exec(step.statement, step.names)  # noqa: S102
        for p, (value, grad) in zip(params, before, strict=True):
            p.copy_(value)
            p.grad.copy_(grad)
            for made in state[p].values():
                made.zero_()
        return step

    def prepare(self, case: AnyCase) -> Step:
        step = super().prepare(case)
        if not isinstance(case, OptimCase):
            exec(step.statement, step.names)  # noqa: S102 - loads kernels
        step.names["graph"] = self.captured(step.statement, step.names)
        return replace(step, statement="graph.replay()", variant=f"{step.variant}: {step.statement}")

    def captured(self, statement: str, names: dict[str, Any]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            exec(statement, names)  # noqa: S102
        return graph
