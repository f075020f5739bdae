"""NVIDIA's apex: its fused optimizers, over torch's tensors."""

from importlib.metadata import version
from typing import Any

import apex.optimizers
import torch

from bench import inputs
from bench.cases import OptimCase
from bench.contenders.cuda import torch as eager

METHODS = {
    "adam": (apex.optimizers.FusedAdam, {"adam_w_mode": False}),
    "adamw": (apex.optimizers.FusedAdam, {"adam_w_mode": True, "weight_decay": 0.01}),
    "adagrad": (apex.optimizers.FusedAdagrad, {}),
}


class Contender(eager.Contender):
    def describe(self) -> dict[str, Any]:
        return {"version": version("apex")}

    def optimizer(self, case: OptimCase, params: list[torch.Tensor]) -> torch.optim.Optimizer:
        make, options = METHODS[case.method]
        return make(params, lr=inputs.LEARNING_RATE, **options)
