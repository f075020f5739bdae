"""Schedulers: they set ``lr`` of an optimizer's parameter groups.

Each gives the learning rate after `n` calls of ``step()`` in closed form, so that a scheduler is its count and its
arguments.
"""

import math
from typing import Any

from fusedstep.optim._base import Optimizer
from fusedstep.optim._hyper import nonnegative, positive, unit


class _Scheduler:
    """Sets lr = factor(count) × base lr, at construction for a count of 0 and at every step after it."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self.count = 0
        self._set()

    def lr(self, count: int, base: float) -> float:
        """Return the learning rate after `count` steps for a group whose base rate is `base`."""
        raise NotImplementedError

    def step(self) -> None:
        """Count one step (or epoch) and set every group's ``lr``."""
        self.count += 1
        self._set()

    def _set(self) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.lr(self.count, base)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on."""
        return {"count": self.count, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, and set the learning rates."""
        base_lrs = [nonnegative("base_lrs", lr) for lr in state_dict["base_lrs"]]
        if len(base_lrs) != len(self.base_lrs):
            raise ValueError(f"base_lrs: expected {len(self.base_lrs)}, one per parameter group, got {len(base_lrs)}")
        self.count, self.base_lrs = _count("count", state_dict["count"], least=0), base_lrs
        self._set()


def _count(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer from {least} on, got {value!r}")
    return value


class StepLR(_Scheduler):
    """Multiply the learning rate by `gamma` every `step_size` steps.

    Parameters
    ----------
    optimizer : Optimizer
        Its groups' ``lr`` at construction are the base rates.
    step_size : int
        Steps between the drops.
    gamma : float, optional
        The factor.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.optim import Adam, StepLR
    >>> opt = Adam(np.zeros(3), lr=1.0)
    >>> schedule = StepLR(opt, step_size=2, gamma=0.1)
    >>> for _ in range(4):
    ...     schedule.step()
    >>> round(opt.lr, 6)
    0.01
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size, self.gamma = _count("step_size", step_size), nonnegative("gamma", gamma)
        super().__init__(optimizer)

    def lr(self, count: int, base: float) -> float:
        """Return the learning rate after `count` steps."""
        return base * self.gamma ** (count // self.step_size)


class CosineWarmupLR(_Scheduler):
    """Rise linearly to the base rate over `warmup_steps`, then fall to `min_lr` along half a cosine.

    Parameters
    ----------
    optimizer : Optimizer
        Its groups' ``lr`` at construction are the base rates.
    total_steps : int
        Steps until `min_lr` is reached, the warm-up included. It stays from then on.
    warmup_steps : int, optional
        Step n of the warm-up has the rate base · (n+1)/warmup_steps, so that the first is not 0.
    min_lr : float, optional
        Where the cosine ends.

    References
    ----------
    .. [1] Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, equation 5, without
       restarts.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.optim import Adam, CosineWarmupLR
    >>> opt = Adam(np.zeros(3), lr=1.0)
    >>> schedule = CosineWarmupLR(opt, total_steps=10, warmup_steps=4)
    >>> opt.lr
    0.25
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, min_lr: float = 0.0) -> None:
        self.total_steps = _count("total_steps", total_steps)
        self.warmup_steps = _count("warmup_steps", warmup_steps, least=0)
        self.min_lr = nonnegative("min_lr", min_lr)
        if self.warmup_steps >= self.total_steps:
            raise ValueError(f"warmup_steps must be less than total_steps, got {warmup_steps} and {total_steps}")
        super().__init__(optimizer)

    def lr(self, count: int, base: float) -> float:
        """Return the learning rate after `count` steps."""
        if count < self.warmup_steps:
            return base * (count + 1) / self.warmup_steps
        done = min(1.0, (count - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return self.min_lr + (base - self.min_lr) * (1 + math.cos(math.pi * done)) / 2


class OneCycleLR(_Scheduler):
    """Rise from max_lr/div_factor to `max_lr`, then fall far below: one cycle of half cosines, as torch's.

    Parameters
    ----------
    optimizer : Optimizer
        Its groups' ``lr`` are replaced.
    max_lr : float
        The peak.
    total_steps : int
        Steps of the cycle; the rate stays at the end.
    pct_start : float, optional
        Part of the cycle that rises.
    div_factor : float, optional
        The first rate is ``max_lr / div_factor``.
    final_div_factor : float, optional
        The last rate is the first over this.

    Notes
    -----
    Momentum is not cycled (torch: ``cycle_momentum=False``).

    References
    ----------
    .. [1] Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates", 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.optim import Adam, OneCycleLR
    >>> opt = Adam(np.zeros(3))
    >>> schedule = OneCycleLR(opt, max_lr=1.0, total_steps=100)
    >>> round(opt.lr, 6)
    0.04
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float,
        total_steps: int,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        self.max_lr = positive("max_lr", max_lr)
        self.total_steps = _count("total_steps", total_steps, least=2)
        self.pct_start = unit("pct_start", pct_start)
        self.div_factor = positive("div_factor", div_factor)
        self.final_div_factor = positive("final_div_factor", final_div_factor)
        super().__init__(optimizer)

    def lr(self, count: int, base: float) -> float:  # noqa: ARG002
        """Return the learning rate after `count` steps."""
        first = self.max_lr / self.div_factor
        last = self.total_steps - 1
        peak = self.pct_start * self.total_steps - 1
        count = min(count, last)
        if count <= peak:
            begin, end, done = first, self.max_lr, count / peak if peak > 0 else 1.0
        else:
            begin, end, done = self.max_lr, first / self.final_div_factor, (count - peak) / (last - peak)
        return end + (begin - end) * (1 + math.cos(math.pi * done)) / 2


class ReduceLROnPlateau:
    """Multiply the learning rate by `factor` when a figure has not improved for more than `patience` steps.

    Parameters
    ----------
    optimizer : Optimizer
        Its groups' ``lr`` are multiplied where they stand.
    mode : {"min", "max"}, optional
        Whether a lower or a higher figure is better.
    factor : float, optional
        In (0, 1).
    patience : int, optional
        Steps without improvement that are let pass.
    threshold : float, optional
        An improvement is by more than this part of the best figure.
    cooldown : int, optional
        Steps after a reduction in which none is counted.
    min_lr : float, optional
        The least rate.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.optim import Adam, ReduceLROnPlateau
    >>> opt = Adam(np.zeros(3), lr=1.0)
    >>> schedule = ReduceLROnPlateau(opt, patience=1)
    >>> for loss in [1.0, 1.0, 1.0]:
    ...     schedule.step(loss)
    >>> opt.lr
    0.1
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
        if not positive("factor", factor) < 1:
            raise ValueError(f"factor must be in (0, 1), got {factor!r}")
        self.optimizer, self.mode, self.factor = optimizer, mode, float(factor)
        self.patience, self.cooldown = _count("patience", patience, least=0), _count("cooldown", cooldown, least=0)
        self.threshold, self.min_lr = nonnegative("threshold", threshold), nonnegative("min_lr", min_lr)
        self.best = math.inf if mode == "min" else -math.inf
        self.bad_steps = 0
        self.cooling = 0

    def step(self, metric: float) -> None:
        """Take the next figure into account; NaN is no improvement."""
        if self.mode == "min":
            better = metric < self.best * (1 - self.threshold)
        else:
            better = metric > self.best * (1 + self.threshold)
        self.best = float(metric) if better else self.best
        self.bad_steps = 0 if better or self.cooling > 0 else self.bad_steps + 1
        self.cooling = max(0, self.cooling - 1)
        if self.bad_steps > self.patience:
            for group in self.optimizer.param_groups:
                group["lr"] = min(group["lr"], max(group["lr"] * self.factor, self.min_lr))
            self.bad_steps, self.cooling = 0, self.cooldown

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on; the rates are the optimizer's."""
        return {"best": self.best, "bad_steps": self.bad_steps, "cooling": self.cooling}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.best = float(state_dict["best"])
        self.bad_steps = _count("bad_steps", state_dict["bad_steps"], least=0)
        self.cooling = _count("cooling", state_dict["cooling"], least=0)
