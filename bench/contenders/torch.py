"""PyTorch: its fused optimizers, foreach where there is no fused one, its cells and recurrent modules."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench import contenders, inputs, losses
from bench.cases import CellCase, LossCase, OptimCase, SequenceCase
from bench.contenders import Step

optim = torch.optim
OPTIMIZERS = {"adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop, "adagrad": optim.Adagrad}
MODULES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
CELLS = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}


class Functions:
    """What `losses.CUSTOM` takes, of torch."""

    log1p, exp, sqrt, where = torch.log1p, torch.exp, torch.sqrt, torch.where
    softplus = torch.nn.functional.softplus


class Contender(contenders.Contender):
    device = "cpu"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)

    def describe(self) -> dict[str, Any]:
        return {"version": torch.__version__, "isa": torch.backends.cpu.get_cpu_capability()}

    def clock(self) -> Callable[[], float]:
        return time.perf_counter

    def tensor(self, values: np.ndarray) -> torch.Tensor:
        """Copy an array into memory of torch's own."""
        return torch.empty(values.shape, device=self.device).copy_(torch.from_numpy(values))

    def variant(self, case: OptimCase) -> str:
        return "foreach" if case.method == "rmsprop" else "fused"

    def optimizer(self, case: OptimCase, params: list[torch.Tensor]) -> torch.optim.Optimizer:
        return OPTIMIZERS[case.method](params, lr=inputs.LEARNING_RATE, **{self.variant(case): True})

    def optim(self, case: OptimCase) -> Step:
        params = []
        for p, g in inputs.tensors(case):
            params.append(self.tensor(p))
            params[-1].grad = self.tensor(g)
        statements = ["opt.step()"]
        if case.max_norm is not None:
            statements.insert(0, f"clip_grad_norm_(params, {case.max_norm})")
        if case.zero_grads:
            statements.append("opt.zero_grad(set_to_none=False)")
        return Step(
            "; ".join(statements),
            {
                "opt": self.optimizer(case, params),
                "params": params,
                "clip_grad_norm_": torch.nn.utils.clip_grad_norm_,
            },
            result=lambda: [p.cpu().numpy() for p in params],
            variant=self.variant(case),
            zeroes=case.zero_grads,
            clock=self.clock(),
        )

    def cell(self, case: CellCase) -> Step:
        x, state, weights = inputs.cell(case)
        cell = CELLS[case.method](case.size, case.size, device=self.device)
        cell.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
        self.stack.enter_context(torch.inference_mode())
        tensors = tuple(map(self.tensor, state))
        names = {"cell": cell, "x": self.tensor(x), "state": tensors if case.method == "lstm" else tensors[0]}

        def result() -> list[np.ndarray]:
            new = cell(names["x"], names["state"])
            return [a.cpu().numpy() for a in (new if case.method == "lstm" else (new,))]

        return Step("cell(x, state)", names, result, clock=self.clock())

    def sequence(self, case: SequenceCase) -> Step:
        given = inputs.sequence(case)
        rnn = MODULES[case.method](case.size, case.size, device=self.device)
        rnn.load_state_dict({f"{name}_l0": torch.from_numpy(weight) for name, weight in given.weights.items()})
        x, *state = (self.tensor(a) for a in (given.x, *(a[None] for a in given.state)))
        names: dict[str, Any] = {"rnn": rnn, "x": x, "state": tuple(state) if len(state) > 1 else state[0]}

        def result() -> list[np.ndarray]:
            new = names["new"] if case.method == "lstm" else (names["new"],)
            dx, *gradients = names.get("g", (None,))
            dstate, dweights = gradients[: len(state)], gradients[len(state) :]
            found = [names["y"], *(a[0] for a in new)]
            if case.backward:
                found += [dx, *(a[0] for a in dstate), *dweights]
            return [a.detach().cpu().numpy() for a in found]

        if case.backward:
            wanted = [a.requires_grad_() for a in (x, *state)] + [rnn.get_parameter(f"{w}_l0") for w in given.weights]
            names |= {"grad": torch.autograd.grad, "wanted": wanted, "dy": self.tensor(given.dy)}
            statement = "y, new = rnn(x, state); g = grad(y, wanted, dy)"
            return Step(statement, names, result, "autograd", clock=self.clock())
        self.stack.enter_context(torch.inference_mode())
        if not case.varied:
            return Step("y, new = rnn(x, state)", names, result, clock=self.clock())
        packing = torch.nn.utils.rnn
        names |= {"pack": packing.pack_padded_sequence, "pad": packing.pad_packed_sequence}
        names["lengths"] = torch.from_numpy(given.lengths)
        statement = "y, new = rnn(pack(x, lengths, enforce_sorted=False), state); y, _ = pad(y)"
        return Step(statement, names, result, "packed")

    def function(self, case: LossCase) -> Any:
        """Return the mean of a loss as a function of input and targets."""
        if case.classes:
            return getattr(torch.nn.functional, case.method)
        written = losses.CUSTOM[case.method]
        return lambda x, target: written(Functions, x, target).mean()

    def loss(self, case: LossCase) -> Step:
        x, target = (torch.from_numpy(a) for a in inputs.loss(case))
        names: dict[str, Any] = {"f": self.function(case), "x": x.requires_grad_(), "target": target}
        return Step(
            "x.grad = None; value = f(x, target); value.backward()",
            names,
            lambda: [np.float64(names["value"].item()), x.grad.numpy()],
            "autograd",
        )
