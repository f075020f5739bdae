"""The kernels of cells that normalise rows in small launches, checked: for sanitizers, and for sources with a bug.

`python -m tests.cuda.norm_launches VARIANT ROOTS…`, as `rnn_launches`. Forward is compared with the NumPy reference in
double, and the gradients with its difference quotients.
"""

import sys
from pathlib import Path

import numpy as np
from fusedstep.rnn import layer_norm_gru_reference, layer_norm_lstm_reference

from tests.cuda.rnn_launches import SOURCES, Launchers, Sweep
from tests.cuda_host import build

# As rnn_launches.CELLS; and the norms.
NORMED = {"layer_norm_lstm": ((4, 4, 12, True, True), 3), "layer_norm_gru": ((3, 3, 10, False, True), 4)}


class NormedSweep(Sweep):
    """A sweep whose gains are near 1."""

    def __init__(self, kind, T, B, H, reverse, lengths=None):
        cell, norms = NORMED[kind]
        gates, *_, has_c, _ = cell

        def more(normal, zeros):
            arrays = {name: 1 + normal(gates * H) / 2 for name in ("gain_ih", "gain_hh")}
            arrays["statistics"] = zeros(T, B, 2 * norms)
            if has_c:
                arrays |= {"gain_c": 1 + normal(H) / 2, "bias_c": normal(H)}
                arrays |= {name: zeros(T, B, H) for name in ("normed_c", "dnormed_c")}
            return arrays

        super().__init__(kind, T, B, H, reverse, lengths, cell=cell, more=more)

    def parameters(self):
        """What the reference takes, in double: the input's products, the state before, and weights."""
        of_weights = ("weight_hh", "bias_ih", "bias_hh", "gain_ih", "gain_hh", "gain_c", "bias_c")
        weights = {name: self.arrays[name].astype(float) for name in of_weights if name in self.arrays}
        return self.arrays["input"].astype(float), [initial.astype(float) for initial, *_ in self.states], weights


def reference(sweep, inputs, state, weights):
    """y and the last state, by the NumPy steps: W_ih is the identity of the input's products."""
    T, B, H = sweep.sizes
    weight_ih, y = np.eye(inputs.shape[2]), np.zeros((T, B, H))
    order = range(T)[::-1] if sweep.r.reverse else range(T)
    for taken, step in enumerate(order):
        if not sweep.r.reverse:
            state = [np.where(sweep.reset[taken, :, None], 0, s) for s in state]
        if len(state) > 1:
            state = layer_norm_lstm_reference(inputs[step], tuple(state), weight_ih, **weights)
        else:
            state = [layer_norm_gru_reference(inputs[step], state[0], weight_ih, **weights)]
        y[step] = state[0]
    return y, state


def check_normed(kernels, kind, T, B, H, reverse):
    sweep = NormedSweep(kind, T, B, H, reverse)
    inputs, state, weights = sweep.parameters()
    y, _ = reference(sweep, inputs, state, weights)
    dy = sweep.arrays["dy"].astype(float)
    dstate = [sweep.arrays[name].astype(float) for name in ("dh", "dc")[: len(state)]]

    def loss(inputs, *state):
        y, last = reference(sweep, inputs, list(state), weights)
        return (dy * y).sum() + sum((d * s).sum() for d, s in zip(dstate, last, strict=True))

    sweep.take_steps(kernels.step)
    np.testing.assert_allclose(sweep.arrays["y"], y, rtol=1e-4, atol=1e-4)
    rng, given = np.random.default_rng(1), (inputs, *state)
    results = [sweep.arrays[name] for name in ("dinput", "dh", "dc")[: len(given)]]
    for i, gradient in enumerate(results):
        along = rng.standard_normal(gradient.shape)
        below, above = (loss(*given[:i], given[i] + end * along, *given[i + 1 :]) for end in (-1e-5, 1e-5))
        expected = (above - below) / 2e-5
        assert abs((gradient * along).sum() - expected) <= 1e-3 * (1 + np.abs(gradient * along).sum()), (i, expected)


def check_lengths(kernels, kind):
    """Rows that end early: their tapes and gradients stay as they were, and the others' do not change."""
    whole, some = (NormedSweep(kind, 3, 2, 5, True, lengths) for lengths in (None, np.array([0, 3])))
    for sweep in (whole, some):
        sweep.take_steps(kernels.step)
    for name in ("y", "dinput"):
        assert not some.arrays[name][:, 0].any()
        assert np.array_equal(some.arrays[name][:, 1], whole.arrays[name][:, 1])


def check(kernels, variant):
    """Rows of less than a block of units, of some, of more than the threads take at once."""
    for kind in [kind for kind in NORMED if kernels.library.has_cell(kind.encode())]:
        for H in (5, 70) if variant == "thread" else (1, 5, 16, 70):
            check_normed(kernels, kind, 2, 2, H, reverse=H == 16)
        check_lengths(kernels, kind)


if __name__ == "__main__":
    variant, *roots = sys.argv[1:]
    library = build.library("rnn", variant, SOURCES, *map(Path, roots))
    check(Launchers(library, 4), variant)
