"""The methods in pure Python: lists and floats, no NumPy. What the benchmarks call "pure Python"."""

import math

Vector = list[float]
Matrix = list[Vector]


def adam_step(
    p: Vector, g: Vector, m: Vector, v: Vector, t: int, lr: float, beta1: float, beta2: float, eps: float
) -> None:
    """Adam (Kingma and Ba 2015, Algorithm 1), in place."""
    step = lr / (1 - beta1**t)
    root = math.sqrt(1 - beta2**t)
    for i, x in enumerate(g):
        m[i] += (1 - beta1) * (x - m[i])
        v[i] = beta2 * v[i] + (1 - beta2) * x * x
        p[i] -= step * m[i] / (math.sqrt(v[i]) / root + eps)


def rmsprop_step(p: Vector, g: Vector, v: Vector, lr: float, alpha: float, eps: float) -> None:
    """RMSprop (Tieleman and Hinton 2012), in place."""
    for i, x in enumerate(g):
        v[i] = alpha * v[i] + (1 - alpha) * x * x
        p[i] -= lr * x / (math.sqrt(v[i]) + eps)


def adagrad_step(p: Vector, g: Vector, s: Vector, t: int, lr: float, eps: float, lr_decay: float = 0.0) -> None:
    """Adagrad (Duchi, Hazan and Singer 2011), in place."""
    rate = lr / (1 + (t - 1) * lr_decay)
    for i, x in enumerate(g):
        s[i] += x * x
        p[i] -= rate * x / (math.sqrt(s[i]) + eps)


def _sigmoid(x: float) -> float:
    e = math.exp(-abs(x))
    return (1.0 if x >= 0 else e) / (1 + e)


def _affine(weight: Matrix, x: Vector, bias: Vector) -> Vector:
    return [b + sum(w * a for w, a in zip(row, x, strict=True)) for row, b in zip(weight, bias, strict=True)]


def lstm_cell(
    x: Vector, h: Vector, c: Vector, weight_ih: Matrix, weight_hh: Matrix, bias_ih: Vector, bias_hh: Vector
) -> tuple[Vector, Vector]:
    """One LSTM step of one row (Hochreiter and Schmidhuber 1997), gates i f g o; returns (h, c)."""
    n = len(h)
    a = [p + q for p, q in zip(_affine(weight_ih, x, bias_ih), _affine(weight_hh, h, bias_hh), strict=True)]
    c_next = [_sigmoid(a[n + j]) * c[j] + _sigmoid(a[j]) * math.tanh(a[2 * n + j]) for j in range(n)]
    return [_sigmoid(a[3 * n + j]) * math.tanh(c_next[j]) for j in range(n)], c_next


def gru_cell(x: Vector, h: Vector, weight_ih: Matrix, weight_hh: Matrix, bias_ih: Vector, bias_hh: Vector) -> Vector:
    """One GRU step of one row (reset after the product, as torch), gates r z n; returns h."""
    n = len(h)
    a, b = _affine(weight_ih, x, bias_ih), _affine(weight_hh, h, bias_hh)
    r = [_sigmoid(a[j] + b[j]) for j in range(n)]
    z = [_sigmoid(a[n + j] + b[n + j]) for j in range(n)]
    new = [math.tanh(a[2 * n + j] + r[j] * b[2 * n + j]) for j in range(n)]
    return [(1 - z[j]) * new[j] + z[j] * h[j] for j in range(n)]
