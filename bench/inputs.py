"""Inputs of a case, and the check of a result against the float64 reference.

A tensor is filled with one block of numbers over and over, each tensor from another place in the block. So the
reference of any number of elements is that of the block, and a check reads every element and allocates little.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from fusedstep.optim import OPTIMIZERS
from fusedstep.rnn import CELLS, GRU, LSTM, layer_norm_gru_reference, layer_norm_lstm_reference
from numpy.typing import NDArray

from bench import losses
from bench.cases import OPTIONS, AnyCase, CellCase, LossCase, OptimCase, RnnCase, SequenceCase, StreamCase

Array = NDArray[Any]

LEARNING_RATE = 0.1  # large, so that the check sees an update far above the rounding of a parameter
STEPS = 2  # before the check
SEED = 1  # of masks
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


def optim_error(case: OptimCase, params: Iterable[Array], *, zeroes: bool) -> float:
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


def _uniform(rng: np.random.Generator, bound: float, *shape: int) -> Array:
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def _weights(case: RnnCase, rng: np.random.Generator) -> dict[str, Array]:
    H, rows = case.size, case.gates * case.size
    shapes = {"weight_ih": (rows, H), "weight_hh": (rows, H), "bias_ih": (rows,), "bias_hh": (rows,)}
    weights = {name: _uniform(rng, H**-0.5, *shape) for name, shape in shapes.items()}
    if isinstance(case, SequenceCase) and case.option == "layer norm":
        gains = {"gain_ih": rows, "gain_hh": rows} | ({"gain_c": H, "bias_c": H} if case.states > 1 else {})
        weights |= {name: 1 + _uniform(rng, 0.5, n) for name, n in gains.items()}
    return weights


def cell(case: CellCase | StreamCase) -> tuple[Array, tuple[Array, ...], dict[str, Array]]:
    """Return x (B, I), the state (B, H) and the weights under torch's names, float32. A stream's state is zero."""
    rng = np.random.default_rng(0)
    weights = _weights(case, rng)
    bound = 1.0 if isinstance(case, CellCase) else 0.0
    x, *state = (_uniform(rng, b, case.batch, case.size) for b in (1.0, *[bound] * case.states))
    return x, tuple(state), weights


@dataclass
class Sequence:
    """What a module takes over a whole sequence, float32."""

    x: Array  # (T, B, I)
    state: tuple[Array, ...]  # (B, H) each
    weights: dict[str, Array]  # under a cell's names
    lengths: Array  # (B,), int64
    dy: Array  # (T, B, H), the gradient of y


def sequence(case: SequenceCase) -> Sequence:
    rng = np.random.default_rng(0)
    T, B, H = case.steps, case.batch, case.size
    state = tuple(_uniform(rng, 1.0, B, H) for _ in range(case.states))
    x, dy = (_uniform(rng, 1.0, T, B, H) for _ in range(2))
    return Sequence(x, state, _weights(case, rng), np.array(case.lengths), dy)


def _wide(arrays: Iterable[Array]) -> list[Array]:
    return [array.astype(np.float64) for array in arrays]


def _packed(state: tuple[Array, ...]) -> Any:
    """Return a state as the cells' references have it: h alone, or (h, c)."""
    return state if len(state) > 1 else state[0]


def module(case: RnnCase, weights: dict[str, Array]) -> Any:
    """Return the module of one layer that has these weights, of their dtype."""
    make: Any = {"lstm": LSTM, "gru": GRU}[case.method]
    options = OPTIONS[case.option] if isinstance(case, SequenceCase) else {}
    rnn = make(case.size, case.size, **options, dtype=weights["weight_ih"].dtype)
    return rnn.load({f"{name}_l0": weight for name, weight in weights.items()})


def _step(method: str, x: Array, state: tuple[Array, ...], weights: dict[str, Array]) -> tuple[Array, ...]:
    normalized = {"lstm": layer_norm_lstm_reference, "gru": layer_norm_gru_reference}
    reference: Any = normalized[method] if "gain_ih" in weights else CELLS[method].reference
    new = reference(x, _packed(state), **weights)
    return new if isinstance(new, tuple) else (new,)


def cell_reference(case: CellCase | StreamCase) -> list[Array]:
    """Return the new state; for a stream, h and the state after STEPS steps."""
    x, state, weights = cell(case)
    (x,), state = _wide([x]), tuple(_wide(state))
    weights = dict(zip(weights, _wide(weights.values()), strict=True))
    for _ in range(1 if isinstance(case, CellCase) else STEPS):
        state = _step(case.method, x, state, weights)
    return list(state) if isinstance(case, CellCase) else [state[0], *state]


def sequence_reference(case: SequenceCase) -> list[Array]:
    """Return y and the last state; where the case runs backward, also the gradients of x, state and weights.

    What masks make is fusedstep's own, in double: none of the peers has these masks.
    """
    given = sequence(case)
    x, dy = _wide([given.x, given.dy])
    weights = dict(zip(given.weights, _wide(given.weights.values()), strict=True))
    states = [tuple(_wide(given.state))]
    if case.taped and case.option:
        rnn = module(case, weights)
        y, new, _ = rnn.forward(x, _packed(tuple(a[None] for a in states[0])), seed=SEED)
        return [y, *(a[0] for a in (new if isinstance(new, tuple) else (new,)))]
    y = np.zeros_like(dy)
    for t in range(case.steps):
        runs = (t < given.lengths)[:, None]
        new = _step(case.method, x[t], states[-1], weights)
        states.append(tuple(np.where(runs, a, b) for a, b in zip(new, states[-1], strict=True)))
        y[t] = np.where(runs, new[0], 0)
    result = [y, *states[-1]]
    if case.backward:
        dx, dweights = np.empty_like(x), {name: np.zeros_like(weight) for name, weight in weights.items()}
        dstate = tuple(np.zeros_like(a) for a in states[0])
        for t in reversed(range(case.steps)):
            back = CELLS[case.method].backward_reference
            g = back(x[t], _packed(states[t]), weights, dy[t] + dstate[0], *dstate[1:])
            dx[t], dstate = g.x, g.state if isinstance(g.state, tuple) else (g.state,)
            for name in dweights:
                dweights[name] += g.weights[name]
        result += [dx, *dstate, *dweights.values()]
    return result


def loss(case: LossCase) -> tuple[Array, Array]:
    """Return the input and the targets: classes, or as the input, float32."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(case.shape, np.float32)
    if case.classes:
        return x, rng.integers(0, case.shape[-1], case.shape[:-1])
    return x, rng.standard_normal(case.shape, np.float32)


def loss_error(case: LossCase, result: Iterable[Array]) -> float:
    """Return the larger error of value and gradient, each relative to its largest; some rows at a time."""
    value, gradient = result
    x, target = loss(case)
    assert gradient.shape == x.shape, (gradient.shape, x.shape)
    total = worst = largest = 0.0
    step = max(1, 1_000_000 * len(x) // x.size)
    for at in range(0, len(x), step):
        part = x[at : at + step].astype(np.float64)
        there = target[at : at + step]
        mean, slope = losses.NUMPY[case.method](part, there if case.classes else there.astype(np.float64))
        share = len(part) / len(x)
        total += float(mean) * share
        worst = max(worst, float(np.max(np.abs(gradient[at : at + step] - slope * share))))
        largest = max(largest, float(np.max(np.abs(slope * share))))
    return max(worst / largest, abs(float(value) / total - 1))


def error(
    case: AnyCase, result: Iterable[Array], *, zeroes: bool = False, expected: Iterable[Array] | None = None
) -> float:
    """Return the largest error of a result: of parameters as `optim_error`, of each array relative to its largest.

    `expected` saves the reference of a cell or a sequence.
    """
    if isinstance(case, OptimCase):
        return optim_error(case, result, zeroes=zeroes)
    if isinstance(case, LossCase):
        return loss_error(case, result)
    if expected is None:
        expected = sequence_reference(case) if isinstance(case, SequenceCase) else cell_reference(case)
    errors = []
    for a, b in zip(result, expected, strict=True):
        assert a.shape == b.shape, (a.shape, b.shape)  # no broadcasting
        errors.append(np.max(np.abs(a - b)) / np.max(np.abs(b)))
    return float(np.max(errors))
