"""Custom losses of every operation."""

import math as python_math

import numpy as np
from fusedstep.loss import math

SMOOTH = {
    "square": lambda p, t: (p - t) ** 2,
    "cube": lambda p, t: (p - t) ** 3 * 0.1,
    "inverse_square": lambda p, t: (1 + (p - t) ** 2) ** -1,
    "root": lambda p, t: (1 + (p - t) ** 2) ** 0.5,
    "power_1_5": lambda p, t: (1 + (p - t) ** 2) ** 1.5,
    "power_0_3": lambda p, t: (0.1 + abs(p - t)) ** 0.3,
    "power_of_values": lambda p, t: math.sigmoid(p) ** (1 + t * t),
    "two_to_the": lambda p, t: 2 ** (p - t),
    "charbonnier": lambda p, t: math.sqrt((p - t) ** 2 + 0.01),
    "log_cosh": lambda p, t: p - t + math.softplus(-2 * (p - t)) - python_math.log(2),
    "cauchy": lambda p, t: math.log1p(((p - t) / 2) ** 2),
    "welsch": lambda p, t: 1 - math.exp(-0.5 * (p - t) ** 2),
    "geman_mcclure": lambda p, t: (p - t) ** 2 / (1 + (p - t) ** 2),
    "bce": lambda p, t: math.softplus(p) - p * (t > 0),
    "poisson": lambda p, t: math.exp(p) - abs(t) * p,
    "gaussian_nll": lambda p, t: 0.5 * (math.log(1 + p * p) + t * t / (1 + p * p)),
    "tanh": lambda p, t: math.tanh(p) * t + math.tanh(p * t),
    "sigmoid_focal": lambda p, t: -((1 - math.sigmoid(p)) ** 2) * math.log(math.sigmoid(p)) * (1 + t * t),
    "wing": lambda p, t: math.log(1 + abs(p - t) / 0.5),
    "huber": lambda p, t: math.where(abs(p - t) < 1, 0.5 * (p - t) ** 2, abs(p - t) - 0.5),
    "pinball": lambda p, t: math.maximum(0.3 * (t - p), 0.7 * (p - t)),
    "epsilon_insensitive": lambda p, t: math.maximum(abs(p - t) - 0.1, 0),
    "clipped": lambda p, t: math.clip(p, -1, 1) * t + math.minimum(p, t),
    "asymmetric": lambda p, t: math.where((p > t) & ~(t > 1) | (p < -1), 3, 1) * (p - t) ** 2,
    "comparisons": lambda p, t: (p >= t) * p + (p <= t) * t + (p != t) * p * p + (p == t) * 5,
    "negated": lambda p, t: -(-p + t) - (+t) * -p,
    "constants": lambda p, t: (p * 2) * 3 + (1 * p - 0) / 4 + 0 * t + (5 - p) / 3,
    "shared": lambda p, t: math.exp(p * t) / (1 + math.exp(p * t)),
    "divided": lambda p, t: (t + 3) / (2 + p * p) / 0.7,
    "safe_root": lambda p, t: math.where(p > 0, math.sqrt(math.maximum(p, 0)), 0) * t,
    # With sums over the last axis.
    "softmax": lambda p, t: math.log(math.sum(math.exp(p))) * math.sum(t) - math.sum(p * t),
    "dice": lambda p, t: 1 - 2 * math.sum(math.sigmoid(p) * t * t) / (math.sum(math.sigmoid(p)) + math.sum(t * t) + 1),
    "cosine": lambda p, t: 1 - math.sum(p * t) / math.sqrt(math.sum(p * p) * math.sum(t * t)),
    "centered": lambda p, t: (p - math.sum(p) / 7 - t) ** 2,
    "normalized": lambda p, t: (p / math.sqrt(math.sum(p * p)) - t) ** 2,
    "nested_sums": lambda p, t: math.sum((p - math.sum(p * t)) ** 2) * 0.1 + p,
    "sum_of_constant": lambda p, t: p * math.sum(1 + 0 * t) + math.sum(t - t),
}


def scaled(pred, target, weight=1.0, power=2.0):
    return weight * abs(pred - target) ** power


def draw(shape=(6, 7), seed=0):
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(0, 1.3, shape)), np.asarray(rng.normal(0, 1.3, shape))
