"""What the tests of sequences share: random cases, their results as flat dicts of arrays, and a mirror.

The mirror runs a case as loops over the library's own cells, one call for each step: what the bits of a sequence are by
definition. With layer normalisation, which no cell has, sequences of one step stand in; with a projection the loops are
over NumPy's steps. As a module, `python -m rnn.sequences` prints the digest of what its process computes, as JSON.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import fusedstep
import numpy as np
from fusedstep import rnn
from fusedstep.rnn import CELLS, Gradients

from .cells import DTYPES, STATES, arrays_of, flat, structured


def proj_size(H):
    return 2 * H // 3


def projected_lstm(inputs, H, *args, **options):
    """An LSTM whose h is narrower than c, where c has more than one unit."""
    return rnn.LSTM(inputs, H, *args, proj_size=proj_size(H), **options)


# The modules by their cells' compiled names; those with a projection by a prefix to it.
MODULES: dict[str, Callable[..., Any]] = {
    "lstm": rnn.LSTM,
    "peephole_lstm": partial(rnn.LSTM, peephole=True),
    "coupled_lstm": partial(rnn.LSTM, coupled=True),
    "coupled_peephole_lstm": partial(rnn.LSTM, peephole=True, coupled=True),
    "gru": rnn.GRU,
    "gru_reset_before": partial(rnn.GRU, reset_after=False),
    "layer_norm_lstm": partial(rnn.LSTM, layer_norm=True),
    "layer_norm_gru": partial(rnn.GRU, layer_norm=True),
    "projected_lstm": projected_lstm,
    "projected_peephole_lstm": partial(projected_lstm, peephole=True),
    "projected_coupled_lstm": partial(projected_lstm, coupled=True),
}


def cell_kind(kind):
    return kind.removeprefix("projected_")


def width(kind, H):
    """The width of h."""
    return kind.startswith("projected_") * proj_size(H) or H


# Shapes of arguments and results: time first, batch first, and one row alone. States have no time to put first.
LAYOUTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "time first": (lambda a: a, lambda a: a),
    "batch first": (lambda a: a.swapaxes(0, 1).copy(), lambda a: a.swapaxes(0, 1)),
    "unbatched": (lambda a: a[:, 0].copy(), lambda a: a[:, None]),
}


def suffix(layer, direction):
    return f"_l{layer}" + ("_reverse" if direction else "")


@contextlib.contextmanager
def thread_count(n):
    """fusedstep.set_num_threads, undone afterwards: hypothesis wants no fixture that outlives an example."""
    before = fusedstep.num_threads()
    fusedstep.set_num_threads(n)
    try:
        yield
    finally:
        fusedstep.set_num_threads(before)


@dataclass(frozen=True)
class Case:
    """The arrays of one sequence, time first, and of one run backward."""

    kind: str
    num_layers: int
    bidirectional: bool
    x: Any  # (T, B, I)
    states: tuple[Any, ...]  # (layers·directions, B, H) each, of a projection the first (…, P)
    weights: dict[str, Any]
    dy: Any  # (T, B, directions·H), or directions·P
    dstates: tuple[Any, ...]
    lengths: Any = None  # (B,)
    reset: Any = None  # (T, B)

    @property
    def directions(self):
        return 1 + self.bidirectional

    @property
    def hidden_size(self):
        return self.states[-1].shape[-1]

    @property
    def width(self):
        """The width of h."""
        return self.states[0].shape[-1]

    def map(self, f):
        """A case with f applied to every floating array."""
        return replace(
            self,
            x=f(self.x),
            states=tuple(map(f, self.states)),
            weights={name: f(w) for name, w in self.weights.items()},
            dy=f(self.dy),
            dstates=tuple(map(f, self.dstates)),
        )

    def astype(self, dtype):
        return self.map(lambda array: array.astype(dtype))

    def rows(self, index):
        """The case of some rows alone, given as a list."""
        return replace(
            self,
            x=self.x[:, index],
            states=tuple(s[:, index] for s in self.states),
            dy=self.dy[:, index],
            dstates=tuple(d[:, index] for d in self.dstates),
            lengths=None if self.lengths is None else self.lengths[index],
            reset=None if self.reset is None else self.reset[:, index],
        )

    def steps(self, begin, end):
        """The case of some steps alone; states and their gradients are still those of the whole."""
        return replace(
            self,
            x=self.x[begin:end],
            dy=self.dy[begin:end],
            lengths=None if self.lengths is None else np.clip(self.lengths - begin, 0, end - begin),
            reset=None if self.reset is None else self.reset[begin:end],
        )

    def from_zeros(self):
        """The case with initial states of zeros."""
        return replace(self, states=tuple(map(np.zeros_like, self.states)))

    def cell_weights(self, layer, direction):
        """The weights of one direction of one layer by the names that a cell gives them."""
        ending = suffix(layer, direction)
        return {name.removesuffix(ending): w for name, w in self.weights.items() if name.endswith(ending)}

    def module(self, **options):
        """A module with these weights."""
        module = MODULES[self.kind](
            self.x.shape[-1],
            self.hidden_size,
            self.num_layers,
            bidirectional=self.bidirectional,
            bias="bias_ih_l0" in self.weights,
            dtype=self.x.dtype,
            rng=0,
            **options,
        )
        module.load(self.weights)
        return module

    def arguments(self, layout="time first", wrap=lambda array: array):
        """What a module takes: (x, state, lengths) and keywords; (dy, dstate)."""
        put, _ = LAYOUTS[layout]
        put_state = put if layout == "unbatched" else LAYOUTS["time first"][0]
        reset = None if self.reset is None else put(self.reset)
        forward = (wrap(put(self.x)), structured([put_state(s) for s in self.states]), self.lengths)
        return forward, {"reset": reset}, (wrap(put(self.dy)), structured([put_state(d) for d in self.dstates]))

    def infer(self, module=None):
        """y and the state after, by name, of a call that leaves no tape."""
        args, keywords, _ = self.arguments()
        y, state = (module or self.module())(*args, **keywords)
        return {"y": y, **dict(zip(STATES, arrays_of(state), strict=False))}

    def run(self, module=None, layout="time first", wrap=lambda array: array, *, tape="full", seed=None, **backward):
        """y, the state after and every gradient by name, time first."""
        _, take = LAYOUTS[layout]
        take_state = take if layout == "unbatched" else LAYOUTS["time first"][1]
        module = module or self.module(batch_first=layout == "batch first")
        args, keywords, gradients = self.arguments(layout, wrap)
        y, state, tape = module.forward(*args, **keywords, tape=tape, seed=seed)
        results = flat(module.backward(tape, *gradients, **backward))
        results |= {"y": y, **dict(zip(STATES, arrays_of(state), strict=False))}
        of_states = {"h", "c", "dh", "dc"}
        return {
            name: take_state(array) if name in of_states else take(array) if name in ("y", "dx") else array
            for name, array in results.items()
        }


def draw(
    kind, T, B, inputs, H, dtype=np.float32, *,
    num_layers=1, bidirectional=False, bias=True, shortest=None, reset=False, seed=0,
):  # fmt: skip
    """A random case. Lengths are drawn from `shortest` on, where it is given; `reset` zeroes a third of the steps."""
    rng = np.random.default_rng([seed, T, B, inputs, H])

    def normal(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(dtype)

    cell, P, directions = fusedstep._core.cells()[cell_kind(kind)], width(kind, H), 1 + bidirectional
    rows, weights = cell["gates"] * H, {}
    for layer, direction in itertools.product(range(num_layers), range(directions)):
        below, ending = directions * P if layer else inputs, suffix(layer, direction)
        weights[f"weight_ih{ending}"] = normal(rows, below, scale=below**-0.5)
        weights[f"weight_hh{ending}"] = normal(rows, P, scale=P**-0.5)
        if bias:
            weights |= {f"{name}{ending}": normal(rows) for name in ("bias_ih", "bias_hh")}
        if cell["peepholes"]:
            weights[f"weight_ch{ending}"] = normal(cell["peepholes"], H)
        if P < H:
            weights[f"weight_hr{ending}"] = normal(P, H, scale=2 * H**-0.5)
        if cell["norms"]:
            weights |= {f"{name}{ending}": 1 + normal(rows, scale=0.3) for name in ("gain_ih", "gain_hh")}
        if cell["norms"] and cell["states"] > 1:
            weights[f"gain_c{ending}"] = 1 + normal(H, scale=0.3)
            weights |= {f"bias_c{ending}": normal(H)} if bias else {}
    states, dstates = (
        tuple(normal(num_layers * directions, B, n) for n in (P, H)[: cell["states"]]) for _ in ("states", "gradients")
    )
    return Case(
        kind, num_layers, bidirectional, normal(T, B, inputs), states, weights, normal(T, B, directions * P), dstates,
        lengths=None if shortest is None else rng.integers(shortest, T + 1, B),
        reset=rng.random((T, B)) < 1 / 3 if reset else None,
    )  # fmt: skip


REFERENCES = {"layer_norm_lstm": rnn.layer_norm_lstm_reference, "layer_norm_gru": rnn.layer_norm_gru_reference}


def steps_of_sequences(kind):
    """A step forward and backward, in the forms of a row of CELLS, as sequences of one step."""

    def step(x, state, *, tape, **weights):
        inputs, H = x.shape[1], weights["weight_hh"].shape[1]
        module = MODULES[kind](inputs, H, bias="bias_ih" in weights, dtype=x.dtype, rng=0)
        module.load({f"{name}_l0": w for name, w in weights.items()})
        _, out, kept = module.forward(x[None], structured([s[None] for s in arrays_of(state)]))
        out = structured([s[0] for s in arrays_of(out)])
        return (out, (module, kept)) if tape else out

    def backward(tape, *dstates):
        module, kept = tape
        g = module.backward(kept, None, structured([d[None] for d in dstates]))
        weights = {name.removesuffix("_l0"): gradient for name, gradient in g.weights.items()}
        return Gradients(g.x[0], structured([d[0] for d in arrays_of(g.state)]), weights)

    return step, backward


def steps_of(kind):
    """A kind's step, forward and backward, and its reference: of a projection all are NumPy's."""
    if kind in REFERENCES:
        return *steps_of_sequences(kind), REFERENCES[kind]
    row = CELLS[cell_kind(kind)]
    if kind in CELLS:
        return row.step, row.backward, row.reference

    def step(x, state, *, weight_hr, tape=False, **weights):
        m, c = row.reference(x, state, **weights)
        out = m @ weight_hr.T, c
        return (out, (x, state, weights, weight_hr, m)) if tape else out

    def backward(tape, dh, dc):
        x, state, weights, weight_hr, m = tape
        g = row.backward_reference(x, state, weights, dh @ weight_hr, dc)
        return Gradients(g.x, g.state, {**g.weights, "weight_hr": dh.T @ m})

    return step, backward, step


def row_steps(case, reverse):
    """(t, the rows that are t steps long and more) in the order in which a direction takes them."""
    T, B, _ = case.x.shape
    lengths = np.full(B, T) if case.lengths is None else case.lengths
    for t in range(T)[:: -1 if reverse else 1]:
        rows = np.flatnonzero(lengths > t)
        if rows.size:
            yield t, rows


def loop_forward(case, step):
    """y, the states after, and (t, rows, tape) of the steps of each layer's directions.

    `step` is that of a row of CELLS, with a tape: (x, state, **weights) to (state, tape).
    """
    T, B, _ = case.x.shape
    H, directions = case.width, case.directions
    y, states, taken = case.x, tuple(s.copy() for s in case.states), []
    for layer in range(case.num_layers):
        x, y = y, np.zeros((T, B, directions * H), case.x.dtype)
        for direction in range(directions):
            own, weights = [s[layer * directions + direction] for s in states], case.cell_weights(layer, direction)
            taken.append([])
            for t, rows in row_steps(case, reverse=direction == 1):
                before = [s[rows] for s in own]
                if case.reset is not None:
                    for s in before:
                        s[case.reset[t, rows]] = 0
                after, tape = step(x[t, rows], structured(before), **weights)
                for s, array in zip(own, arrays_of(after), strict=True):
                    s[rows] = array
                y[t, rows, direction * H : (direction + 1) * H] = own[0][rows]
                taken[-1].append((t, rows, tape))
    return y, states, taken


def loop_backward(case, taken):
    """dx, the states' gradients, and the weights' gradients with the sums of their steps' sizes, all by name.

    The gradient of h is dy plus what comes back from the step after; that of a layer's input is the sum over its
    directions. Weight gradients of the steps are added in float64.
    """
    H, directions = case.width, case.directions
    _, backward, _ = steps_of(case.kind)
    dy, dstates = case.dy, tuple(d.copy() for d in case.dstates)
    gradients = {name: np.zeros(w.shape) for name, w in case.weights.items()}
    sizes = {name: np.zeros(w.shape) for name, w in case.weights.items()}
    for layer in reversed(range(case.num_layers)):
        parts = []
        for direction in range(directions):
            own = [d[layer * directions + direction] for d in dstates]
            width = case.weights[f"weight_ih{suffix(layer, direction)}"].shape[1]
            parts.append(np.zeros((*dy.shape[:2], width), dy.dtype))
            for t, rows, tape in reversed(taken[layer * directions + direction]):
                dh, *dc = (d[rows] for d in own)
                dh = dh + dy[t, rows, direction * H : (direction + 1) * H]
                step = backward(tape, dh, *dc)
                parts[-1][t, rows] = step.x
                for d, array in zip(own, arrays_of(step.state), strict=True):
                    if case.reset is not None:
                        array[case.reset[t, rows]] = 0
                    d[rows] = array
                for name, gradient in step.weights.items():
                    gradients[name + suffix(layer, direction)] += gradient
                    sizes[name + suffix(layer, direction)] += np.abs(gradient)
        dy = reduce(np.add, parts)
    return {"dx": dy, **{f"d{n}": d for n, d in zip(STATES, dstates, strict=False)}}, gradients, sizes


def mirror(case):
    """(What a run of the case gives to the bit, its weight gradients in float64, the sizes of their terms)."""
    step, _, _ = steps_of(case.kind)
    y, states, taken = loop_forward(case, partial(step, tape=True))
    results, gradients, sizes = loop_backward(case, taken)
    return {**results, "y": y, **dict(zip(STATES, states, strict=False))}, gradients, sizes


def reference(case):
    """y and the state after, by name, through the cells' NumPy references."""
    *_, step = steps_of(case.kind)
    y, states, _ = loop_forward(case, lambda x, state, **weights: (step(x, state, **weights), None))
    return {"y": y, **dict(zip(STATES, states, strict=False))}


# Tails of every vector and tile, blocks of rows, sums over more than a block, one row, and work for two threads.
DIGEST_CASES = {
    "one": {"T": 1, "B": 1, "inputs": 1, "H": 2},
    "row": {"T": 5, "B": 1, "inputs": 40, "H": 33, "num_layers": 2},
    "directions": {"T": 4, "B": 7, "inputs": 5, "H": 17, "num_layers": 2, "bidirectional": True, "shortest": 0},
    "reset": {"T": 6, "B": 3, "inputs": 17, "H": 16, "reset": True, "shortest": 1, "bias": False},
    "blocks": {"T": 9, "B": 70, "inputs": 31, "H": 63},
    "chunks": {"T": 90, "B": 100, "inputs": 3, "H": 5, "reset": True, "shortest": 1},
}


def digest():
    """A hash of what every module computes, forward and backward, by kind, dtype and case."""
    hashes = {}
    for kind, dtype, name in itertools.product(MODULES, DTYPES, DIGEST_CASES):
        case = draw(kind, **DIGEST_CASES[name], dtype=dtype)
        noise = {"recurrent_dropout": 0.25, "zoneout": 0.125} if name in ("directions", "reset") else {}
        module = case.module(dropout=0.25 if case.num_layers > 1 else 0.0, **noise)
        results = [case.run(module, seed=5), case.infer(module.freeze())]
        sha = hashlib.sha256(b"".join(r[name].tobytes() for r in results for name in sorted(r)))
        hashes[f"{kind} {dtype.__name__} {name}"] = sha.hexdigest()
    return hashes


if __name__ == "__main__":
    print(json.dumps(digest()))
