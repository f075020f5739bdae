"""Weights packed as int8: the bits of a NumPy reference, everywhere, and what they cost."""

import hashlib
import json
import pickle
from functools import partial

import fusedstep
import numpy as np
import pytest
from digests import assert_same_under

from .cells import STATES, arrays_of
from .sequences import MODULES, draw, loop_forward, thread_count

FLOAT = np.float32
kinds = pytest.mark.parametrize("kind", MODULES)
referenced = pytest.mark.parametrize("kind", [kind for kind in MODULES if "layer_norm" not in kind])  # see `step`
sigmoid, tanh = (partial(fusedstep._core.math, name) for name in ("sigmoid", "tanh"))


def fma(a, b, c):
    """a*b + c. The product is exact in float64; that the sum is rounded there first shows once in 2**29 times."""
    return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(FLOAT)


def codes(rows):
    """Integers and the scale of each row."""
    scale = np.abs(rows).max(axis=1, keepdims=True) / FLOAT(127)
    usable = (scale > 0) & np.isfinite(scale)
    quotient = np.rint(np.where(usable, rows, 0) / np.where(usable, scale, 1))
    return quotient.clip(-127, 127).astype(np.int32), scale


def accumulated(start, x, weight):
    """start + x @ weight.T over codes."""
    (a, scale_a), (b, scale_b) = codes(x), codes(weight)
    return fma((a @ b.T).astype(FLOAT), scale_a * scale_b.T, start)


def step(kind, x, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, weight_ch=None, weight_hr=None):
    """One step, in the cells' order of operations: the new state, and no tape."""
    h, *c = arrays_of(state)
    rows = len(weight_ih)
    H, zeros = rows // (3 if "gru" in kind or "coupled" in kind else 4), np.zeros(rows, FLOAT)
    bias_ih, bias_hh = (zeros if bias is None else bias for bias in (bias_ih, bias_hh))
    late = 2 * H if "gru" in kind else 4 * H  # gates from here on are not in one chain with the input's product
    after = kind == "gru"
    start = bias_ih + (np.where(np.arange(3 * H) < late, bias_hh, FLOAT(0)) if after else bias_hh)
    a = accumulated(np.broadcast_to(start, (len(x), len(start))), x, weight_ih)
    a[:, :late] = accumulated(a[:, :late], h, weight_hh[:late])
    gate = [a[:, at : at + H].copy() for at in range(0, a.shape[1], H)]
    if "lstm" in kind:
        (c,) = c
        *w_i, w_f, w_o = np.zeros((3, H), FLOAT) if weight_ch is None else weight_ch
        *i, f, g, o = gate
        f, g = sigmoid(fma(w_f, c, f)), tanh(g)
        i = 1 - f if "coupled" in kind else sigmoid(fma(w_i[0], c, i[0]))
        c = fma(f, c, i * g)
        m = sigmoid(fma(w_o, c, o)) * tanh(c)
        return (m if weight_hr is None else accumulated(np.zeros_like(h), m, weight_hr), c), None
    r, z = map(sigmoid, gate[:2])
    if after:
        hidden = accumulated(np.broadcast_to(bias_hh[late:], h.shape), h, weight_hh[late:])
        n = tanh(fma(r, hidden, gate[2]))
    else:
        n = tanh(accumulated(gate[2], r * h, weight_hh[late:]))
    return fma(1 - z, n, z * h), None


def reference(case):
    with np.errstate(invalid="ignore"):
        y, states, _ = loop_forward(case, lambda x, state, **weights: step(case.kind, x, state, **weights))
    return {"y": y, **dict(zip(STATES, states, strict=False))}


def results(case):
    """What the module frozen as int8 gives."""
    return case.infer(case.module().freeze("int8"))


def assert_equal(actual, desired):
    assert actual.keys() == desired.keys()
    for name in desired:
        np.testing.assert_array_equal(actual[name], desired[name], err_msg=name)


# Widths that are no multiple of 4 or of a vector, tiles and panels in part, blocks of rows, and work for two threads.
CASES = {
    "one": {"T": 1, "B": 1, "inputs": 1, "H": 2},
    "row": {"T": 5, "B": 1, "inputs": 39, "H": 150, "num_layers": 2},
    "directions": {"T": 4, "B": 7, "inputs": 5, "H": 17, "num_layers": 2, "bidirectional": True, "shortest": 0},
    "reset": {"T": 6, "B": 3, "inputs": 18, "H": 16, "reset": True, "shortest": 1, "bias": False},
    "blocks": {"T": 4, "B": 105, "inputs": 31, "H": 63},
}
cases = pytest.mark.parametrize("name", CASES)


@referenced
@cases
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_frozen_equals_reference(kind, name, threads):
    case = draw(kind, **CASES[name])
    with thread_count(threads):
        assert_equal(results(case), reference(case))


def digest():
    """A hash of what every module computes, by kind and case."""
    hashes = {}
    for kind in MODULES:
        for name, shape in CASES.items():
            found = results(draw(kind, **shape))
            hashes[f"{kind} {name}"] = hashlib.sha256(
                b"".join(found[key].tobytes() for key in sorted(found))
            ).hexdigest()
    return hashes


@pytest.fixture(scope="module")
def own_digest():
    return digest()


@pytest.mark.parametrize("isa", fusedstep.build_info()["isas"])
def test_instruction_sets_agree(isa, own_digest):
    assert_same_under("rnn.test_sequence_int8", isa, own_digest)


def test_digest_tells_results_apart(own_digest):
    assert len(set(own_digest.values())) == len(own_digest) == len(MODULES) * len(CASES)


@kinds
@pytest.mark.parametrize(("B", "threads"), [(1, 1), (1, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("zoneout", [0.0, 0.25])
def test_stream_equals_frozen_sequence(kind, B, threads, zoneout):
    case = draw(kind, 6, B, 21, 130, num_layers=2).from_zeros()
    module = case.module(zoneout=zoneout)
    stream = module.stream(B, weights="int8", threads=threads)
    assert stream.weights == "int8"
    y = np.stack([stream.step(x_t) for x_t in case.x])
    found = {"y": y, **dict(zip(STATES, arrays_of(stream.state), strict=False))}
    assert_equal(found, case.infer(module.freeze("int8")))


@kinds
def test_row_alone_equals_row_in_batch(kind):
    case = draw(kind, 5, 9, 13, 40, num_layers=2, shortest=1)
    whole = results(case)
    for row in (0, 4, 8):
        alone = results(case.rows([row]))
        for name in alone:
            np.testing.assert_array_equal(alone[name][:, 0], whole[name][:, row])


@kinds
def test_pieces_equal_the_whole(kind):
    case = draw(kind, 7, 3, 10, 20)
    module, (args, keywords, _) = case.module().freeze("int8"), case.arguments()
    x, state, _ = args
    first, state = module(x[:3], state, **keywords)
    second, state = module(x[3:], state, **keywords)
    whole = case.infer(module)
    np.testing.assert_array_equal(np.concatenate([first, second]), whole["y"])
    np.testing.assert_array_equal(arrays_of(state)[0], whole["h"])


@referenced
def test_rows_of_zeros_and_of_extreme_sizes(kind):
    """Scales of 0, rounded ones of denormal numbers, and weights of which a row is 0."""
    case = draw(kind, 4, 6, 12, 20)
    sizes = np.array([0, 1e-45, 1.5e-43, 1e-38, 1, 1e30], FLOAT)
    ones = case.x / np.abs(case.x).max(axis=2, keepdims=True)
    case.x[...] = ones * sizes[:, None]
    for name in ("weight_ih_l0", "weight_hh_l0"):
        case.weights[name][3] = 0
    for state in case.states:
        state[:, 2] = 0
    found = results(case)
    assert np.isfinite(found["y"]).all()
    assert_equal(found, reference(case))


@referenced
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_row_that_is_not_finite_gives_nan_and_no_other_row(kind, value):
    case = draw(kind, 4, 5, 11, 24)
    desired = results(case)
    case.x[1, 3, 7] = value
    found = results(case)
    assert np.isnan(found["y"][1:, 3]).all()
    assert np.isnan(found["h"][:, 3]).all()
    others = [0, 1, 2, 4]
    np.testing.assert_array_equal(found["y"][:, others], desired["y"][:, others])
    np.testing.assert_array_equal(found["y"][0], desired["y"][0])
    assert_equal(found, reference(case))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weight_that_is_not_finite_gives_nan_in_its_unit(value):
    case = draw("lstm", 1, 3, 11, 24)
    case.weights["weight_ih_l0"][5, 2] = value
    y = results(case)["y"][0]
    assert np.isnan(y[:, 5]).all()
    assert np.isfinite(np.delete(y, 5, axis=1)).all()


@kinds
def test_error_is_small_and_larger_than_that_of_bfloat16(kind):
    module = MODULES[kind](48, 64, 2, rng=0)
    x = draw(kind, 12, 4, 48, 64).x
    error = {weights: module.stream(4, weights=weights).quantization_error(x) for weights in ("bfloat16", "int8")}
    bound = 0.25 if "layer_norm" in kind else 0.02  # a norm of the small states of new weights enlarges what is lost
    assert 0 < error["bfloat16"] < error["int8"] < bound


def test_frozen_module_pickles():
    case = draw("gru", 3, 2, 30, 40, num_layers=2, bidirectional=True)
    module = case.module().freeze("int8")
    assert_equal(case.infer(pickle.loads(pickle.dumps(module))), case.infer(module))


@pytest.mark.parametrize("call", ["freeze", "stream"])
def test_rows_too_wide_for_exact_sums_are_refused(call):
    module = MODULES["gru"](2**17 + 1, 1, rng=0)
    with pytest.raises(ValueError, match=r"^weights: .*131072.*131073"):
        getattr(module, call)(weights="int8")
    assert not module.frozen


def test_widest_rows_are_exact():
    """The largest sums, of either sign, are far beyond what float32 holds exactly."""
    case = draw("gru", 1, 1, 2**17, 1)
    case.x[...] = 1
    case.weights["weight_ih_l0"][...] = np.array([[1], [-1], [1e-4]], FLOAT)
    case.weights["weight_ih_l0"][:, -1] = 0
    assert_equal(results(case), reference(case))


if __name__ == "__main__":
    print(json.dumps(digest()))
