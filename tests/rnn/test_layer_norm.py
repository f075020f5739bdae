"""Layer normalisation: against torch's operations, and where rows are constant, short or far from zero."""

import copy
import pickle

import numpy as np
import pytest
from fusedstep.rnn import GRU, LSTM
from fusedstep.rnn.layer_norm import normalized

from .cells import DTYPES, STATES, error
from .sequences import MODULES, draw, reference, suffix

KINDS = ("layer_norm_lstm", "layer_norm_gru")
kinds = pytest.mark.parametrize("kind", KINDS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def test_normalized_has_no_mean_and_variance_one():
    a = 3 + 2 * np.random.default_rng(0).standard_normal((4, 50))
    np.testing.assert_allclose(normalized(a).mean(axis=1), 0, atol=1e-14)
    np.testing.assert_allclose(normalized(a).var(axis=1), a.var(axis=1) / (a.var(axis=1) + 1e-5), rtol=1e-13)


# ---- torch's layer_norm and autograd


def lstm_step(torch, x, state, w):
    norm, (h, c) = torch.nn.functional.layer_norm, state
    H = h.shape[1]
    gates = norm(x @ w["weight_ih"].T, (4 * H,), w["gain_ih"], w.get("bias_ih"))
    gates = gates + norm(h @ w["weight_hh"].T, (4 * H,), w["gain_hh"], w.get("bias_hh"))
    i, f, g, o = gates.chunk(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * norm(c, (H,), w["gain_c"], w.get("bias_c")).tanh(), c


def gru_step(torch, x, state, w):
    (h,) = state
    H = h.shape[1]

    def parts(a, gain, bias):
        norm = torch.nn.functional.layer_norm
        rz, n = (
            norm(a[:, own], (a[:, own].shape[1],), gain[own], None if bias is None else bias[own])
            for own in (slice(2 * H), slice(2 * H, None))
        )
        return *rz.chunk(2, dim=1), n

    x_r, x_z, x_n = parts(x @ w["weight_ih"].T, w["gain_ih"], w.get("bias_ih"))
    h_r, h_z, h_n = parts(h @ w["weight_hh"].T, w["gain_hh"], w.get("bias_hh"))
    z = (x_z + h_z).sigmoid()
    return ((1 - z) * (x_n + (x_r + h_r).sigmoid() * h_n).tanh() + z * h,)


def run_torch(torch, case):
    """What torch's operations and autograd make of a case without lengths, by the names of `Case.run`."""
    step = lstm_step if case.kind == "layer_norm_lstm" else gru_step
    leaves = {name: torch.from_numpy(w.copy()).requires_grad_() for name, w in case.weights.items()}
    x, *states = (torch.from_numpy(a.copy()).requires_grad_() for a in (case.x, *case.states))
    y, finals = x, [[] for _ in states]
    for layer in range(case.num_layers):
        outs = []
        for direction in range(case.directions):
            ending = suffix(layer, direction)
            w = {name.removesuffix(ending): leaf for name, leaf in leaves.items() if name.endswith(ending)}
            state, order = [s[layer * case.directions + direction] for s in states], range(len(y))
            rows = [None] * len(y)
            for t in order[::-1] if direction else order:
                if case.reset is not None:
                    state = [torch.where(torch.from_numpy(case.reset[t])[:, None], 0.0, s) for s in state]
                state = list(step(torch, y[t], state, w))
                rows[t] = state[0]
            outs.append(torch.stack(rows))
            for final, s in zip(finals, state, strict=True):
                final.append(s)
        y = torch.cat(outs, dim=2)
    results = (y, *map(torch.stack, finals))
    sum((torch.from_numpy(d) * r).sum() for d, r in zip((case.dy, *case.dstates), results, strict=True)).backward()
    inputs = {"dx": x, **{f"d{n}": s for n, s in zip(STATES, states, strict=False)}, **leaves}
    gradients = {name: tensor.grad.numpy() for name, tensor in inputs.items()}
    return gradients | {n: r.detach().numpy() for n, r in zip(("y", *STATES), results, strict=False)}


@kinds
@pytest.mark.parametrize(
    "form", [{}, {"bias": False}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "reset": True}], ids=str
)
def test_results_and_gradients_equal_torch(kind, form):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    case = draw(kind, 9, 6, 7, 37, np.float64, **form)
    ours, theirs = case.run(), run_torch(torch, case)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert error(ours[name], array) <= 1e-9, name


@kinds
@pytest.mark.parametrize(("T", "B"), [(100, 32), (25, 128)], ids=str)
def test_gradients_in_float32_are_as_accurate_as_torch(kind, T, B):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    case = draw(kind, T, B, 24, 40)
    true, theirs, ours = run_torch(torch, case.astype(np.float64)), run_torch(torch, case), case.run()
    for name, array in true.items():
        assert error(ours[name], array) <= 3 * error(theirs[name], array), name


# ---- unusual rows


@kinds
@dtypes
def test_mean_far_above_the_deviations_costs_what_it_costs_the_products(kind, dtype):
    """Rows of W x + 1000, spread by 1: the sum of squares less that of the mean would leave no digit in float32."""
    case = draw(kind, 5, 4, 6, 40, dtype)
    case.weights["weight_ih_l0"][:, 0] = 1000  # all rows of W_ih alike
    case.x[..., 0] = 1
    desired = reference(case.astype(np.float64))
    for name, array in case.infer().items():
        assert error(array, desired[name]) <= 1e4 * np.finfo(dtype).eps, name


@kinds
@dtypes
@pytest.mark.parametrize("H", [1, 2, 16, 17])
def test_constant_rows_give_finite_values_and_gradients(kind, dtype, H):
    """No input, no state: every variance is 0, and what is left is the biases."""
    case = draw(kind, 3, 2, 5, H, dtype).from_zeros()
    case.x[...] = 0
    results = case.run()
    assert all(np.isfinite(array).all() for array in results.values())
    first = case.steps(0, 1).infer()
    assert error(first["y"], reference(case.steps(0, 1).astype(np.float64))["y"]) <= 1e-5


@dtypes
def test_one_hidden_unit_has_no_deviation(dtype):
    """N over c alone is 0: h′ is σ(o)·tanh(bias_c), and no gradient passes c′ to it."""
    case = draw("layer_norm_lstm", 4, 3, 2, 1, dtype)
    results, gate = case.run(), case.weights["bias_c_l0"]
    assert np.abs(results["y"]).max() <= np.abs(np.tanh(gate)).max()
    assert np.all(results["gain_c_l0"] == 0)
    assert np.all(np.sign(results["y"]) == np.sign(gate))


# ---- options


REFUSED = {
    "with peepholes": (
        LSTM,
        {"peephole": True, "layer_norm": True},
        ValueError,
        "layer_norm must be False with peephole",
    ),
    "coupled": (LSTM, {"coupled": True, "layer_norm": True}, ValueError, "layer_norm must be False with coupled"),
    "reset before": (
        GRU,
        {"reset_after": False, "layer_norm": True},
        ValueError,
        "layer_norm must be False with reset_after=False, got True",
    ),
    "no flag": (GRU, {"layer_norm": 1}, TypeError, "layer_norm must be True or False, got 1"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_option_that_does_not_fit_is_refused(wrong):
    cls, options, error_of, message = REFUSED[wrong]
    with pytest.raises(error_of, match=f"^{message}"):
        cls(3, 4, **options)


@kinds
def test_option_is_kept(kind):
    module = MODULES[kind](3, 4, rng=0)
    assert "layer_norm=True" in repr(module)
    for other in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        type(module).from_torch(module.to_torch()),
    ):
        assert other.layer_norm
        assert other.weights.keys() == module.weights.keys()
    assert not type(module)(3, 4).layer_norm


@kinds
@pytest.mark.parametrize("lacking", ["gain_ih_l0", "gain_hh_l0"])
def test_state_dict_without_a_gain_is_refused(kind, lacking):
    state_dict = MODULES[kind](3, 4, rng=0).to_torch()
    del state_dict[lacking]
    with pytest.raises(ValueError, match=rf"^state_dict: expected .* got no \['{lacking}'\]"):
        (LSTM if "lstm" in kind else GRU).from_torch(state_dict)


@kinds
@pytest.mark.parametrize("tape", ["full", "lean"])
def test_tape_keeps_what_was_normalised(kind, tape):
    """Beside the gates: every accumulator normalised, and two statistics of each norm."""
    H, module = 16, MODULES[kind](3, 16, rng=0)
    plain = MODULES[kind.removeprefix("layer_norm_")](3, 16, rng=0)
    gates, norms = (4, 3) if "lstm" in kind else (3, 4)
    more = 2 * gates * H + 2 * norms if tape == "full" else 0
    assert module.tape_bytes(7, 5, tape) == plain.tape_bytes(7, 5, tape) + 7 * 5 * 4 * more
    _, _, kept = module.forward(np.ones((7, 5, 3), np.float32), tape=tape)
    assert kept.nbytes == module.tape_bytes(7, 5, tape)


def test_gains_belong_to_their_gates():
    """Other gains of o change h, and not c."""
    module = LSTM(3, 8, layer_norm=True, dtype=np.float64, rng=0)
    x, state = np.random.default_rng(1).standard_normal((1, 2, 3)), (np.ones((1, 2, 8)),) * 2
    _, (h, c) = module(x, state)
    for name in ("gain_ih_l0", "gain_hh_l0"):
        module.weights[name][24:] *= 2
    _, (other_h, other_c) = module(x, state)
    np.testing.assert_array_equal(c, other_c)
    assert np.all(h != other_h)
