"""What the tests of the cells share: random steps, results as flat dicts of arrays, comparisons, and a digest of bits.

As a script it prints the digest of what this process computes, as JSON: the bits under FUSEDSTEP_ISA.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import fusedstep
import numpy as np
from fusedstep.rnn import CELLS

DTYPES = (np.float32, np.float64)
STATES = ("h", "c")


def structured(arrays):
    """A state in the cell's form: (h, c) for an LSTM, h for a GRU."""
    return tuple(arrays) if len(arrays) == 2 else arrays[0]


def arrays_of(state):
    return state if isinstance(state, tuple) else (state,)


def flat(gradients):
    """Gradients by name: dx, dh, dc and the weights'."""
    states = zip(STATES, arrays_of(gradients.state), strict=False)
    return {"dx": gradients.x, **{f"d{name}": array for name, array in states}, **gradients.weights}


@dataclass(frozen=True)
class Step:
    """The arrays of one step, and of one step backward."""

    kind: str
    x: Any
    states: tuple[Any, ...]
    weights: dict[str, Any]
    douts: tuple[Any, ...]

    @property
    def state(self):
        return structured(self.states)

    def astype(self, dtype):
        return self.map(lambda array: array.astype(dtype))

    def map(self, f):
        """A step with f applied to every array."""
        return Step(
            self.kind,
            f(self.x),
            tuple(f(s) for s in self.states),
            {name: f(w) for name, w in self.weights.items()},
            tuple(f(d) for d in self.douts),
        )

    def rows(self, index):
        """The step of some rows alone."""
        return replace(
            self,
            x=self.x[index],
            states=tuple(s[index] for s in self.states),
            douts=tuple(d[index] for d in self.douts),
        )

    def forward(self, **options):
        """The new state's arrays, by the functional form."""
        return arrays_of(CELLS[self.kind].step(self.x, self.state, **self.weights, **options))

    def backward(self):
        """The new state and every gradient by name, by the functional forms."""
        row = CELLS[self.kind]
        out, tape = row.step(self.x, self.state, **self.weights, tape=True)
        return dict(zip(STATES, arrays_of(out), strict=False)) | flat(row.backward(tape, *self.douts))

    def reference(self):
        return arrays_of(CELLS[self.kind].reference(self.x, self.state, **self.weights))

    def reference_backward(self):
        gradients = CELLS[self.kind].backward_reference(self.x, self.state, self.weights, *self.douts)
        return dict(zip(STATES, self.reference(), strict=False)) | flat(gradients)

    def with_initial_weights(self):
        """The step with weights that a new cell of this kind starts with."""
        inputs, H = self.x.shape[-1], self.states[0].shape[-1]
        return replace(self, weights=dict(CELLS[self.kind].cell(inputs, H, dtype=self.x.dtype, rng=0).weights))

    def cell(self):
        """A cell object with these weights."""
        _, inputs = self.weights["weight_ih"].shape
        _, H = self.weights["weight_hh"].shape
        cell = CELLS[self.kind].cell(inputs, H, bias="bias_ih" in self.weights, dtype=self.x.dtype, rng=0)
        for name, array in cell.weights.items():
            array[...] = self.weights[name]
        return cell


def draw(kind, B, inputs, H, dtype=np.float32, *, biases=("bias_ih", "bias_hh"), seed=0):
    """A random step of B rows. What passes a weight matrix keeps its size; biases and peepholes are as large."""
    rng = np.random.default_rng([seed, B, inputs, H])

    def normal(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(dtype)

    cell = fusedstep._core.cells()[kind]
    rows = cell["gates"] * H
    weights = {"weight_ih": normal(rows, inputs, scale=inputs**-0.5), "weight_hh": normal(rows, H, scale=H**-0.5)}
    weights |= {name: normal(rows) for name in biases}
    if cell["peepholes"]:
        weights["weight_ch"] = normal(cell["peepholes"], H)
    states, douts = (tuple(normal(B, H) for _ in range(cell["states"])) for _ in range(2))
    return Step(kind, normal(B, inputs), states, weights, douts)


def same_bits(a, b):
    """Whether two arrays are equal to the bit, −0 being not +0."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def assert_same_bits(actual, desired):
    """Compare dicts or sequences of arrays."""
    if not isinstance(desired, dict):
        actual, desired = dict(enumerate(actual)), dict(enumerate(desired))
    assert actual.keys() == desired.keys()
    for name, expected in desired.items():
        got = actual[name]
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype), name
        different = got.view(f"u{got.itemsize}") != expected.view(f"u{got.itemsize}")
        assert not different.any(), (
            f"{name}: {different.sum()} of {different.size} differ, first at {np.argwhere(different)[0]}"
        )


def error(actual, true):
    """Normwise: largest absolute error over largest absolute value."""
    scale = np.abs(true).max()
    return float(np.abs(actual - true).max() / (scale if scale > 0 else 1))


# Tails of every vector and tile, more rows than a block of the sums over the batch, and work for two threads.
DIGEST_SHAPES = ((1, 1, 1), (1, 40, 33), (3, 17, 16), (7, 5, 100), (70, 31, 63), (300, 24, 40))


def digest():
    """A hash of what every cell computes, forward and backward, by kind, dtype and shape."""
    hashes = {}
    for kind in CELLS:
        for dtype in DTYPES:
            for shape in DIGEST_SHAPES:
                step = draw(kind, *shape, dtype)
                results = step.backward()
                results |= {f"frozen {i}": a for i, a in enumerate(arrays_of(step.cell().freeze()(step.x, step.state)))}
                sha = hashlib.sha256(b"".join(array.tobytes() for array in results.values()))
                hashes[f"{kind} {dtype.__name__} {shape}"] = sha.hexdigest()
    return hashes


if __name__ == "__main__":
    print(json.dumps(digest()))
