"""Sequences against the true mathematics: references in float64, finite differences, torch; and what dropout does."""

from dataclasses import replace

import numpy as np
import pytest

from .cells import DTYPES, STATES, arrays_of, error, same_bits, structured
from .sequences import MODULES, cell_kind, draw, mirror, reference, suffix

# torch says so where h is projected
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
kinds = pytest.mark.parametrize("kind", MODULES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
like_torch = pytest.mark.parametrize("kind", ["lstm", "projected_lstm", "gru"])

# Largest error over largest value. An error of a step passes through those after it, and through the layers above.
OUTPUT_BOUND = {np.float32: 1e-5, np.float64: 2e-14}
GRADIENT_BOUND = {np.float32: 3e-5, np.float64: 1e-13}

# Of gradients of three hidden units in float32. Where these lie close together, their norm divides by little.
SINGLE_BOUND = {kind: 1e-4 if "norm" in kind else 1e-5 for kind in MODULES}

FORMS = {
    "layer": {},
    "no bias": {"bias": False, "num_layers": 2},
    "layers": {"num_layers": 2},
    "directions": {"num_layers": 2, "bidirectional": True},
    "lengths": {"num_layers": 2, "shortest": 0},
    "lengths and directions": {"num_layers": 2, "bidirectional": True, "shortest": 0},
    "reset": {"num_layers": 2, "reset": True},
    "reset and lengths": {"num_layers": 2, "reset": True, "shortest": 0},
}
forms = pytest.mark.parametrize("form", FORMS)


@kinds
@dtypes
@forms
def test_outputs_equal_float64_reference(kind, dtype, form):
    case = draw(kind, 12, 5, 19, 35, dtype, **FORMS[form])
    actual = case.infer()
    for name, true in reference(case.astype(np.float64)).items():
        assert actual[name].dtype == dtype
        assert error(actual[name], true) <= OUTPUT_BOUND[dtype], name


@kinds
@dtypes
@forms
def test_gradients_equal_float64_mirror(kind, dtype, form):
    case = draw(kind, 12, 5, 19, 35, dtype, **FORMS[form])
    results, gradients, _ = mirror(case.astype(np.float64))
    actual = case.run()
    for name, true in (results | gradients).items():
        assert error(actual[name], true) <= GRADIENT_BOUND[dtype], name


def finite_differences(case, module, seed=None, epsilon=1e-6):
    """Gradients of Σ dy·y + Σ dstate·state by central differences, of every element of every array, by name."""
    arrays = {"dx": case.x, **{f"d{n}": s for n, s in zip(STATES, case.states, strict=False)}, **module.weights}
    gradients = {name: np.empty_like(array) for name, array in arrays.items()}
    args, keywords, _ = case.arguments()

    def loss():
        y, state, _ = module.forward(*args, **keywords, seed=seed)
        pairs = zip((case.dy, *case.dstates), (y, *arrays_of(state)), strict=True)
        return sum(float((d * a).sum()) for d, a in pairs)

    for name, array in arrays.items():
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + epsilon
            above = loss()
            array[index] = value - epsilon
            gradients[name][index] = (above - loss()) / (2 * epsilon)
            array[index] = value
    return gradients


@kinds
@forms
def test_backward_matches_finite_difference(kind, form):
    case = draw(kind, 4, 3, 2, 3, np.float64, **FORMS[form])
    actual, single = case.run(), case.astype(np.float32).run()
    for name, true in finite_differences(case, case.module()).items():
        assert error(actual[name], true) <= 1e-7, name
        assert error(single[name], true) <= SINGLE_BOUND[kind], name


@kinds
def test_absent_gradients_count_as_zero(kind):
    case = draw(kind, 4, 3, 5, 6, np.float64, num_layers=2, bidirectional=True, shortest=0)
    module, ((args, keywords, (dy, dstate))) = case.module(), case.arguments()
    zero_states, zero = structured([np.zeros_like(d) for d in case.dstates]), np.zeros_like(dy)
    for given, zeros in (((dy, None), (dy, zero_states)), ((dy,), (dy, zero_states)), ((None, dstate), (zero, dstate))):
        first, second = (
            module.backward(module.forward(*args, **keywords)[2], *gradients) for gradients in (given, zeros)
        )
        np.testing.assert_array_equal(first.x, second.x)
        for ours, desired in zip(arrays_of(first.state), arrays_of(second.state), strict=True):
            np.testing.assert_array_equal(ours, desired)
        for name, desired in second.weights.items():
            np.testing.assert_array_equal(first.weights[name], desired)


@kinds
@dtypes
def test_accumulate_adds_to_what_out_holds(kind, dtype):
    case = draw(kind, 5, 4, 6, 18, dtype, num_layers=2, bidirectional=True, shortest=0)
    desired, rng = case.run(), np.random.default_rng(0)
    out = {name: rng.standard_normal(w.shape).astype(dtype) for name, w in case.weights.items()}
    before = {name: array.copy() for name, array in out.items()}
    actual = case.run(out=out, accumulate=True)
    for name, array in out.items():
        assert np.shares_memory(actual[name], array)
        assert error(array, before[name] + desired[name]) <= 4 * np.finfo(dtype).eps, name
    for name in actual.keys() - out.keys():
        assert same_bits(actual[name], desired[name])
    once_more = case.run(out=out)
    for name, array in out.items():
        assert same_bits(array, desired[name]), name
        assert np.shares_memory(once_more[name], array)


# ---- dropout


def chain(dropout, num_layers=2, width=32):
    """A GRU whose layers give tanh of their input, after a first one that gives 0.1 everywhere."""
    module = MODULES["gru"](1, width, num_layers, dropout=dropout, dtype=np.float64, rng=0)
    for name, array in module.weights.items():
        array[...] = 0
        if name.startswith("bias_ih"):
            array[width : 2 * width] = -800  # z is 0
    module.weights["bias_ih_l0"][2 * width :] = np.arctanh(0.1)
    for layer in range(1, num_layers):
        module.weights[f"weight_ih{suffix(layer, 0)}"][2 * width :] = np.eye(width)
    return module


def survivors(dropout, seed, T=60, B=20, **options):
    """What dropout left of the first layer's output, of which all is 1 without it."""
    y, _, _ = chain(dropout, **options).forward(np.zeros((T, B, 1)), seed=seed)
    return np.arctanh(y) / 0.1


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_fraction_and_scales_it(dropout):
    left = survivors(dropout, seed=1)
    kept = left > 0
    assert not left[~kept].any()
    np.testing.assert_allclose(left[kept], 1 / (1 - dropout), rtol=1e-12)
    deviation = np.sqrt(dropout * (1 - dropout))
    assert abs(kept.mean() - (1 - dropout)) <= 5 * deviation / np.sqrt(kept.size)
    for axis in range(3):  # no step, row or unit is special, and neighbours are independent
        others = tuple({0, 1, 2} - {axis})
        spread = kept.mean(axis=others)
        assert np.abs(spread - (1 - dropout)).max() <= 5 * deviation / np.sqrt(kept.size / kept.shape[axis])
        centred = kept - kept.mean()
        products = centred * np.roll(centred, 1, axis=axis)
        assert abs(products.mean()) <= 5 * deviation**2 / np.sqrt(kept.size)


def test_seed_decides_the_mask():
    masks = [survivors(0.5, seed) > 0 for seed in (0, 1, 2, 2**40, 2**64 - 1)]
    for i, first in enumerate(masks):
        for second in masks[i + 1 :]:
            assert abs((first == second).mean() - 0.5) <= 5 * 0.5 / np.sqrt(first.size)
    assert same_bits(survivors(0.5, 2), survivors(0.5, np.int64(2)))
    module, x = chain(0.5), np.zeros((60, 20, 1))
    assert not same_bits(module.forward(x)[0], module.forward(x)[0])
    assert same_bits(chain(0.5).forward(x)[0], chain(0.5).forward(x)[0])  # their generators started alike


def test_layers_have_masks_of_their_own():
    """Of two masks in a row both keep a quarter, which one mask used twice would not."""
    kept = survivors(0.5, seed=3, num_layers=3) > 0
    assert abs(kept.mean() - 0.25) <= 5 * np.sqrt(0.25 * 0.75 / kept.size)


@kinds
def test_no_dropout_in_inference_nor_after_the_last_layer(kind):
    case = draw(kind, 4, 3, 5, 8, num_layers=2)
    desired = case.infer()
    module = case.module(dropout=0.5)
    for name, array in case.infer(module).items():
        assert same_bits(array, desired[name])
    trained = case.run(module, seed=1)
    assert same_bits(trained["h"][0], desired["h"][0])  # what the first layer hands on as its state is whole
    assert not same_bits(trained["y"], desired["y"])
    assert trained["y"].all()


@kinds
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "directions"])
def test_backward_of_dropout_matches_finite_difference(kind, bidirectional):
    case = draw(kind, 3, 2, 2, 3, np.float64, num_layers=3, bidirectional=bidirectional, shortest=1)
    module = case.module(dropout=0.4)
    actual = case.run(module, seed=11)
    lean = case.run(module, seed=11, tape="lean")
    for name, true in finite_differences(case, module, seed=11).items():
        assert error(actual[name], true) <= 1e-7, name
        assert same_bits(lean[name], actual[name]), name


# ---- torch


@pytest.fixture(name="torch", scope="module")
def import_torch():
    return pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")


def run_torch(torch, case):
    """What torch's module makes of a case, by the names of `Case.run`."""
    T, _, inputs = case.x.shape
    dtype = torch.from_numpy(case.x).dtype
    projection = {"proj_size": case.width} if case.width < case.hidden_size else {}
    module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell_kind(case.kind)](
        inputs,
        case.hidden_size,
        case.num_layers,
        **projection,
        bidirectional=case.bidirectional,
        bias="bias_ih_l0" in case.weights,
        dtype=dtype,
    )
    module.load_state_dict({name: torch.from_numpy(w) for name, w in case.weights.items()})
    x, *states = (torch.from_numpy(a.copy()).requires_grad_() for a in (case.x, *case.states))
    rows = x
    if case.lengths is not None:
        lengths = torch.from_numpy(case.lengths)
        rows = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, out = module(rows, structured(states))
    if case.lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=T)
    outs, douts = (y, *arrays_of(out)), (case.dy, *case.dstates)
    sum((torch.from_numpy(d) * o).sum() for d, o in zip(douts, outs, strict=True)).backward()
    inputs = {"dx": x, **{f"d{n}": s for n, s in zip(STATES, states, strict=False)}, **dict(module.named_parameters())}
    gradients = {name: tensor.grad.numpy() for name, tensor in inputs.items()}
    return gradients | {n: o.detach().numpy() for n, o in zip(("y", *STATES), outs, strict=False)}


@like_torch
@dtypes
@pytest.mark.parametrize("lengths", [None, 1], ids=["full", "packed"])
@pytest.mark.parametrize("form", ["layer", "no bias", "layers", "directions"])
def test_results_and_gradients_equal_torch(torch, kind, dtype, lengths, form):
    case = draw(kind, 9, 6, 7, 20, dtype, shortest=lengths, **FORMS[form])
    ours, theirs = case.run(), run_torch(torch, case)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert error(ours[name], array) <= 2 * GRADIENT_BOUND[dtype], name


def check_weight_gradients(torch, case):
    """Each weight gradient in float32 is at most twice as far from float64 as torch's.

    With a projection torch adds products step by step (another way than without): of a recurrent weight and biases its
    error is smaller then, and of weight_ih at many steps ten times as large, so that its largest is what counts.
    """
    true, theirs, ours = run_torch(torch, case.astype(np.float64)), run_torch(torch, case), case.run()
    errors = {name: error(theirs[name], true[name]) for name in case.weights}
    if case.width < case.hidden_size:
        errors = {name: e if "weight_hr" in name else max(errors.values()) for name, e in errors.items()}
    for name in case.weights:
        assert error(ours[name], true[name]) <= 2 * errors[name], name


@like_torch
@pytest.mark.parametrize(("T", "B"), [(100, 32), (25, 128)], ids=str)
def test_weight_gradients_are_as_accurate_as_torch(torch, kind, T, B):
    check_weight_gradients(torch, draw(kind, T, B, 24, 40))


@like_torch
def test_weight_gradients_of_long_sums_are_as_accurate_as_torch(torch, kind):
    check_weight_gradients(torch, draw(kind, 1000, 256, 8, 12))


@like_torch
def test_gradients_of_one_direction_are_those_of_its_weights_alone(kind):
    """A bidirectional layer is two layers side by side, of which one runs over the reversed sequence."""
    case = draw(kind, 6, 3, 4, 5, np.float64, bidirectional=True)
    whole, H = case.run(), case.width
    for direction, order in enumerate((slice(None), slice(None, None, -1))):
        own = slice(direction * H, (direction + 1) * H)
        part = replace(
            case,
            bidirectional=False,
            x=case.x[order].copy(),
            states=tuple(s[[direction]] for s in case.states),
            weights={f"{name}_l0": w for name, w in case.cell_weights(0, direction).items()},
            dy=case.dy[order, :, own].copy(),
            dstates=tuple(d[[direction]] for d in case.dstates),
        ).run()
        assert same_bits(part["y"][order], whole["y"][:, :, own])
        for name in case.cell_weights(0, direction):
            np.testing.assert_allclose(part[f"{name}_l0"], whole[name + suffix(0, direction)], rtol=1e-12, atol=1e-13)
