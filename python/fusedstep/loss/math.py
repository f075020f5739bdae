"""What a custom loss may be written with, beside operators.

Each function takes the values that `custom` traces a function with, and numbers.
"""

from typing import Any

from fusedstep.loss._trace import Traced, traced


def exp(x: Any) -> Traced:
    """e^x."""
    return traced("exp", x)


def log(x: Any) -> Traced:
    """Natural logarithm; −inf at 0."""
    return traced("log", x)


def log1p(x: Any) -> Traced:
    """log(1 + x), accurate near 0."""
    return traced("log1p", x)


def sqrt(x: Any) -> Traced:
    """Square root."""
    return traced("sqrt", x)


def abs(x: Any) -> Traced:  # noqa: A001
    """Absolute value; its derivative is 0 at 0."""
    return traced("absolute", x)


def tanh(x: Any) -> Traced:
    """Hyperbolic tangent."""
    return traced("tanh", x)


def sigmoid(x: Any) -> Traced:
    """1 / (1 + e^−x)."""
    return traced("sigmoid", x)


def softplus(x: Any) -> Traced:
    """log(1 + e^x), which does not overflow."""
    return traced("softplus", x)


def where(condition: Any, a: Any, b: Any) -> Traced:
    """Choose a where the condition holds, b elsewhere. What is not chosen has no part in the gradient."""
    return traced("where", condition, a, b)


def minimum(a: Any, b: Any) -> Traced:
    """Take the smaller one. Where both are equal the derivative goes to the first."""
    return traced("minimum", a, b)


def maximum(a: Any, b: Any) -> Traced:
    """Take the larger one. Where both are equal the derivative goes to the first."""
    return traced("maximum", a, b)


def clip(x: Any, low: Any, high: Any) -> Traced:
    """Keep x between two limits; at a limit the derivative is still 1."""
    return minimum(maximum(x, low), high)


def sum(x: Any) -> Traced:  # noqa: A001
    """Sum over the last axis, for each row; elements see their own row's.

    What is one number, or one for each row, is summed as often as the row has elements.
    """
    return traced("sum", x)
