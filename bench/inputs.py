"""Inputs of a case, and the check of a result against the float64 reference.

A tensor is filled with one block of numbers over and over, each tensor from another place in the block. So the
reference of any number of elements is that of the block, and a check reads every element and allocates little.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from fusedstep.optim import OPTIMIZERS
from fusedstep.rnn import gru_cell_reference, lstm_cell_reference
from numpy.typing import NDArray

from bench.cases import CellCase, OptimCase

Array = NDArray[Any]

LEARNING_RATE = 0.1  # large, so that the check sees an update far above the rounding of a parameter
STEPS = 2  # before the check
TOLERANCE = 1e-4  # of the change of the parameters, or of the new state: the peers' scalars are rounded to float32
_BLOCK, _STRIDE = 65_521, 7_919  # primes


def _blocks() -> tuple[Array, Array]:
    # Gradients are positive: adding them onto a squared mean, as the ceiling does, keeps it positive. They keep away
    # from 0, where libraries differ in where they add epsilon.
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, _BLOCK).astype(np.float32), rng.uniform(0.1, 1, _BLOCK).astype(np.float32)


def _turned(block: Array, tensor: int) -> Array:
    return np.roll(block, -tensor * _STRIDE)


def tensors(case: OptimCase) -> Iterator[tuple[Array, Array]]:
    """Yield parameter and gradient of each tensor, float32."""
    blocks = _blocks()
    for i, shape in enumerate(case.shapes):
        p, g = (np.resize(_turned(block, i), shape) for block in blocks)
        yield p, g


def _norm(case: OptimCase, g: Array) -> float:
    total = 0.0
    for i, n in enumerate(case.sizes):
        whole, rest = divmod(n, _BLOCK)
        total += whole * np.sum(g * g) + np.sum(_turned(g, i)[:rest] ** 2)
    return math.sqrt(total)


def optim_error(case: OptimCase, params: Sequence[Array], *, zeroes: bool) -> float:
    """Return the largest error of `params` after STEPS steps, relative to the largest change.

    `zeroes` says that a step leaves its gradients zero.
    """
    start, g = (block.astype(np.float64) for block in _blocks())
    p = start.copy()
    states = tuple(np.zeros_like(p) for _ in range(case.states))
    for step in range(1, STEPS + 1):
        clip = 1.0 if case.max_norm is None else min(1.0, case.max_norm / (_norm(case, g) + 1e-6))
        OPTIMIZERS[case.method].reference(p, g, states, step=step, lr=LEARNING_RATE, multiplier=clip)
        if zeroes:
            g[...] = 0
    errors = []
    for i, array in enumerate(params):
        flat, expected = array.reshape(-1), _turned(p, i)
        for at in range(0, flat.size, _BLOCK):
            part = flat[at : at + _BLOCK]
            errors.append(np.max(np.abs(part - expected[: part.size])))
    return float(np.max(errors) / np.max(np.abs(p - start)))


def cell(case: CellCase) -> tuple[Array, tuple[Array, ...], dict[str, Array]]:
    """Return x (B, I), the state (B, H) and the weights under torch's names, float32."""
    rng = np.random.default_rng(0)
    B, H, rows = case.batch, case.size, case.gates * case.size
    bound = H**-0.5
    shapes = {"weight_ih": (rows, H), "weight_hh": (rows, H), "bias_ih": (rows,), "bias_hh": (rows,)}
    weights = {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}
    x, *state = (rng.uniform(-1, 1, (B, H)).astype(np.float32) for _ in range(3 if case.method == "lstm" else 2))
    return x, tuple(state), weights


def cell_error(case: CellCase, result: Sequence[Array]) -> float:
    """Return the largest error of a new state, relative to its largest value."""
    x, state, weights = cell(case)
    wide = {name: weight.astype(np.float64) for name, weight in weights.items()}
    x, *state = (a.astype(np.float64) for a in (x, *state))
    lstm = case.method == "lstm"
    expected = lstm_cell_reference(x, tuple(state), **wide) if lstm else (gru_cell_reference(x, *state, **wide),)
    errors = [np.max(np.abs(a - b)) / np.max(np.abs(b)) for a, b in zip(result, expected, strict=True)]
    return float(np.max(errors))
