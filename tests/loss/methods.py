"""The losses with options for tests, and their references: NumPy in float64, as the formulas stand."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fusedstep import loss


def softplus(x):
    return np.logaddexp(0, x)


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def mse(x, t):
    return (x - t) ** 2


def l1(x, t):
    return np.abs(x - t)


def smooth_l1(x, t, beta=1.0):
    d = np.abs(x - t)
    return d if beta == 0 else np.where(d < beta, d * d / (2 * beta), d - beta / 2)


def huber(x, t, delta=1.0):
    d = np.abs(x - t)
    return np.where(d < delta, d * d / 2, delta * (d - delta / 2))


def binary_cross_entropy_with_logits(x, t, pos_weight=1.0):
    return (1 - t) * softplus(x) + pos_weight * t * softplus(-x)


def focal(x, t, alpha=0.25, gamma=2.0):
    p = sigmoid(x)
    q = p * (1 - t) + (1 - p) * t
    factor = 1 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    return factor * q**gamma * binary_cross_entropy_with_logits(x, t)


def kl_div(x, t, log_target=False):
    if log_target:
        return np.exp(t) * (t - x)
    return np.where(t > 0, t * (np.log(np.where(t > 0, t, 1)) - x), 0)


def hinge(x, t, margin=1.0, squared=False):
    d = np.maximum(0, margin - t * x)
    return d * d if squared else d


@dataclass(frozen=True)
class Method:
    """An elementwise loss: how targets are drawn, and which options it has."""

    reference: Any
    target: str = "real"  # or "probability", "class" (0 and 1), "sign"
    options: tuple[dict[str, Any], ...] = field(default=({},))
    weighted_mean: bool = True  # whether a mean divides by the sum of the weights

    @property
    def name(self):
        return self.reference.__name__

    def __call__(self, *args, **options):
        return getattr(loss, self.name)(*args, **options)

    def draw(self, rng, shape, dtype):
        x, t = rng.normal(0, 2, shape), rng.normal(0, 2, shape)
        if self.target == "probability":
            t = rng.uniform(0, 1, shape) * (rng.uniform(0, 1, shape) < 0.8)
        elif self.target != "real":
            t = rng.integers(0, 2, shape) * (2.0 if self.target == "sign" else 1.0) - (self.target == "sign")
        return x.astype(dtype), t.astype(dtype)


METHODS = [
    Method(mse),
    Method(l1),
    Method(smooth_l1, options=({}, {"beta": 0.5}, {"beta": 0}), weighted_mean=False),
    Method(huber, options=({}, {"delta": 0.3}), weighted_mean=False),
    Method(binary_cross_entropy_with_logits, "probability", weighted_mean=False),
    Method(
        focal,
        "class",
        ({}, {"alpha": None}, {"alpha": 0.7, "gamma": 0.5}, {"gamma": 0}, {"gamma": 3.5}),
        weighted_mean=False,
    ),
    Method(kl_div, "probability", weighted_mean=False),
    Method(kl_div, "real", ({"log_target": True},), weighted_mean=False),
    Method(hinge, "sign", ({}, {"margin": 0.5}, {"squared": True}), weighted_mean=False),
]


def cross_entropy(
    x, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0, sample_weight=None, z_loss=0.0
):
    """Value and gradient for x (N, C), in float64."""
    x = x.astype(np.float64)
    n, classes = x.shape
    u = np.ones(n) if sample_weight is None else sample_weight.astype(np.float64)
    w = np.ones(classes) if weight is None else weight.astype(np.float64)
    if target.dtype.kind == "f":
        t, divisor = target.astype(np.float64), u.copy()
    else:
        kept = target != ignore_index
        u = u * kept
        t = np.eye(classes)[np.where(kept, target, 0)]
        divisor = u * w[np.where(kept, target, 0)]
    q = w * ((1 - label_smoothing) * t + label_smoothing / classes)
    lse = np.logaddexp.reduce(x, axis=1)
    rows = np.sum(q * (lse[:, None] - x), axis=1) + z_loss * lse**2
    p = np.exp(x - lse[:, None])
    grad = u[:, None] * (p * (q.sum(1) + 2 * z_loss * lse)[:, None] - q)
    values = np.where(u == 0, 0, u * rows)
    if reduction == "none":
        return values, grad
    scale = 1.0 if reduction == "sum" else 1 / divisor.sum() if divisor.sum() else 0.0
    return values.sum() * scale, grad * scale
