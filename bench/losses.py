"""Custom losses of 6 to 12 operations, as a user writes each: for fusedstep, for NumPy with its gradient, for torch."""

from collections.abc import Callable
from typing import Any

import numpy as np

# f(m, pred, target) with m a module that has log1p, exp, sqrt, where and softplus.
CUSTOM: dict[str, Callable[..., Any]] = {
    "cauchy": lambda m, p, t: 2.0 * m.log1p(((p - t) / 2.0) ** 2),
    "welsch": lambda m, p, t: 2.0 * (1 - m.exp(-0.5 * ((p - t) / 1.4) ** 2)),
    "expectile": lambda m, p, t: m.where(p > t, 0.3, 0.7) * (m.sqrt(1 + (p - t) ** 2) - 1),
    "log_cosh": lambda m, p, t: (p - t) + m.softplus(-2.0 * (p - t)) - 0.6931472,
}


def cauchy(p: Any, t: Any) -> Any:
    d = (p - t) / 2
    s = d * d
    return np.mean(2 * np.log1p(s)), 2 * d / (1 + s) / p.size


def welsch(p: Any, t: Any) -> Any:
    d = (p - t) / 1.4
    e = np.exp(-0.5 * d * d)
    return np.mean(2 * (1 - e)), 2 / 1.4 * d * e / p.size


def expectile(p: Any, t: Any) -> Any:
    d = p - t
    w, r = np.where(d > 0, p.dtype.type(0.3), p.dtype.type(0.7)), np.sqrt(1 + d * d)
    return np.mean(w * (r - 1)), w * d / r / p.size


def log_cosh(p: Any, t: Any) -> Any:
    d = p - t
    a = np.abs(d)
    return np.mean(a + np.log1p(np.exp(-2 * a)) - 0.6931472), np.tanh(d) / p.size


def cross_entropy(x: Any, y: Any) -> Any:
    rows = np.arange(len(x))
    e = np.exp(x - x.max(1, keepdims=True))
    s = e.sum(1, keepdims=True)
    e /= s
    value = -np.mean(np.log(e[rows, y]))
    e[rows, y] -= 1
    e /= len(x)
    return value, e


# Value and gradient, in the dtype of their arguments.
NUMPY: dict[str, Callable[..., Any]] = {f.__name__: f for f in (cauchy, welsch, expectile, log_cosh, cross_entropy)}

# The same for numexpr, of p, t, n = p.size and constants: a number with a point in the text would promote to float64.
NUMEXPR: dict[str, tuple[str, str]] = {
    "cauchy": ("2 * log1p(((p - t) / 2) ** 2)", "(p - t) / (1 + ((p - t) / 2) ** 2) / n"),
    "welsch": (
        "2 * (1 - exp(-((p - t) / c) ** 2 / 2))",
        "2 / c * ((p - t) / c) * exp(-((p - t) / c) ** 2 / 2) / n",
    ),
    "expectile": (
        "where(p > t, a, b) * (sqrt(1 + (p - t) ** 2) - 1)",
        "where(p > t, a, b) * (p - t) / sqrt(1 + (p - t) ** 2) / n",
    ),
    "log_cosh": ("abs(p - t) + log1p(exp(-2 * abs(p - t))) - c", "tanh(p - t) / n"),
}
NUMEXPR_CONSTANTS = {"welsch": {"c": 1.4}, "expectile": {"a": 0.3, "b": 0.7}, "log_cosh": {"c": 0.6931472}}
