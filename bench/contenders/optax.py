"""optax: update and application compiled together by jax.jit, parameters and state donated."""

from typing import Any

import jax
import numpy as np
import optax

from bench import contenders, inputs
from bench.cases import OptimCase
from bench.contenders import Step

METHODS = {
    "adam": optax.adam(inputs.LEARNING_RATE),
    "adamw": optax.adamw(inputs.LEARNING_RATE, weight_decay=0.01),
    "rmsprop": optax.rmsprop(inputs.LEARNING_RATE, decay=0.99, eps=1e-8, eps_in_sqrt=False),
    "adagrad": optax.adagrad(inputs.LEARNING_RATE, initial_accumulator_value=0.0, eps=1e-10),
}


class Optimizer:
    """Holds what a step replaces."""

    def __init__(self, case: OptimCase) -> None:
        method = METHODS[case.method]
        pairs = [(jax.device_put(p), jax.device_put(g)) for p, g in inputs.tensors(case)]
        self.params, self.grads = [p for p, _ in pairs], [g for _, g in pairs]
        self.state = method.init(self.params)

        def update(params: Any, grads: Any, state: Any) -> Any:
            updates, state = method.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.update = jax.jit(update, donate_argnums=(0, 2))

    def step(self) -> None:
        self.params, self.state = self.update(self.params, self.grads, self.state)
        jax.block_until_ready(self.params)


class Contender(contenders.Contender):
    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        jax.config.update("jax_platforms", "cpu")

    def describe(self) -> dict[str, Any]:
        return {"version": optax.__version__, "jax": jax.__version__}

    def optim(self, case: OptimCase) -> Step:
        opt = Optimizer(case)
        return Step("opt.step()", {"opt": opt}, result=lambda: [np.asarray(p) for p in opt.params])
