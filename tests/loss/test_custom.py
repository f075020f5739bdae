# ruff: noqa: ARG005, FURB136, PLW0108, RUF005, RUF021 - functions as users write them
"""Custom losses: values against NumPy, gradients against finite differences, and what cannot be traced."""

import math as python_math
import re

import numpy as np
import pytest
from fusedstep import loss
from fusedstep.loss import custom, math
from hypothesis import given, settings
from hypothesis import strategies as st

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
KINDS = {name: custom(f) for name, f in SMOOTH.items()}


class Numpy:
    """`fusedstep.loss.math`, of NumPy in float64."""

    exp, log, log1p, sqrt, abs, tanh = np.exp, np.log, np.log1p, np.sqrt, np.abs, np.tanh
    where, minimum, maximum, clip = np.where, np.minimum, np.maximum, np.clip

    @staticmethod
    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    @staticmethod
    def softplus(x):
        return np.logaddexp(0, x)

    @staticmethod
    def sum(x):
        return np.sum(x, -1, keepdims=True)


def in_numpy(f, p, t, monkeypatch):
    monkeypatch.setitem(f.__globals__, "math", Numpy)
    return f(p, t)


def draw(shape=(6, 7), seed=0):
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(0, 1.3, shape)), np.asarray(rng.normal(0, 1.3, shape))


@pytest.mark.parametrize("name", KINDS)
def test_gradient_matches_finite_differences(name):
    p, t = draw()
    assert KINDS[name].check(p, t).error < 1e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", KINDS)
def test_value_matches_numpy(name, dtype, monkeypatch):
    p, t = (a.astype(dtype) for a in draw())
    expected = in_numpy(SMOOTH[name], p.astype(np.float64), t.astype(np.float64), monkeypatch)
    by_row = expected.shape == (6, 1)
    values, grad = KINDS[name](p, t, reduction="none")
    rtol = 2e-5 if dtype == np.float32 else 1e-12
    assert values.shape == ((6,) if by_row else (6, 7))
    np.testing.assert_allclose(values.reshape(expected.shape), expected, rtol, atol=rtol)
    total, same = KINDS[name](p, t, reduction="sum")
    assert total == pytest.approx(values.astype(np.float64).sum(), rel=1e-12, abs=1e-12)
    np.testing.assert_array_equal(same, grad)
    mean, scaled = KINDS[name](p, t)
    assert mean == pytest.approx(total / values.size, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(scaled, grad / values.size, 2e-5, 1e-7)
    assert KINDS[name](p, t, grad=False) == mean


LEAVES = st.sampled_from(["p", "t", "2", "0.5", "-1", "0", "1", "a"])


def grown(inner):
    pair = st.tuples(inner, inner)
    return st.one_of(
        st.tuples(pair, st.sampled_from("+-*")).map(lambda x: f"({x[0][0]} {x[1]} {x[0][1]})"),
        pair.map(lambda x: f"({x[0]} / (2 + {x[1]} * {x[1]}))"),
        pair.map(lambda x: f"math.where({x[0]} + p < {x[1]}, {x[0]} * p, {x[1]} + p)"),
        pair.map(lambda x: f"math.maximum({x[0]} + p, {x[1]})"),
        inner.map(lambda x: f"math.tanh({x} + p)"),
        inner.map(lambda x: f"math.sigmoid({x} - p)"),
        inner.map(lambda x: f"math.sqrt(1 + ({x}) ** 2 + p * p)"),
        inner.map(lambda x: f"math.sum({x} * p)"),
    )


@settings(max_examples=3 * settings.default.max_examples)
@given(st.recursive(LEAVES, grown, max_leaves=12))
def test_drawn_functions_match_numpy_and_differences(text):
    source = f"lambda p, t, a=1.5: {text} + p * t"
    f = custom(eval(source, {"math": math}))
    p, t = draw((3, 5), 1)
    expected = eval(source, {"math": Numpy})(p, t)
    values, grad = f(p, t, reduction="none")
    scale = 1 + np.max(np.abs(expected))
    np.testing.assert_allclose(values, np.broadcast_to(expected, (3, 5)), 1e-11, 1e-11 * scale)
    found = f.check(p, t, samples=15)
    assert found.error < 1e-5 * scale, found
    other = f(p, t, a=np.full((3, 1), 1.5), reduction="none")
    np.testing.assert_allclose(other[1], grad, 1e-9, 1e-9 * scale)


@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (4096,), (4097,), (3, 5000), (2, 1, 9), (64, 10), (0,), (0, 3), (3, 0)]
)
def test_shapes(shape):
    p, t = draw(shape)
    value, grad = KINDS["charbonnier"](p, t)
    d = p - t
    assert value == pytest.approx(np.sqrt(d * d + 0.01).mean() if d.size else 0)
    np.testing.assert_allclose(grad, d / np.sqrt(d * d + 0.01) / max(1, d.size), 1e-12)
    if p.ndim:
        value, grad = KINDS["dice"](p, t)
        assert grad.shape == shape


def test_sum_over_the_last_axis_needs_one():
    with pytest.raises(ValueError, match="pred: expected at least one dimension"):
        custom(lambda pred, target: math.sum(pred) + target)(np.array(1.0), 0.0)


# Arguments.


def scaled(pred, target, weight=1.0, power=2.0):
    return weight * abs(pred - target) ** power


@pytest.mark.parametrize("shape", [(), (1,), (7,), (6, 1), (5, 1, 7), (5, 6, 7)])
def test_targets_and_parameters_broadcast(shape):
    f = custom(scaled)
    p, _ = draw((5, 6, 7))
    rng = np.random.default_rng(3)
    t, w = rng.normal(size=shape), rng.uniform(1, 2, shape)
    value, grad, more = f(p, t, weight=w, power=3.0, wrt=("target", "weight", "power"))
    d = p - t
    assert value == pytest.approx((w * np.abs(d) ** 3).mean())
    slope = 3 * w * d * np.abs(d) / d.size
    np.testing.assert_allclose(grad, slope, 1e-11)

    def summed(a):
        axes = tuple(i for i in range(3) if i < 3 - len(shape) or shape[i - 3 + len(shape)] == 1)
        return a.sum(axes, keepdims=True).reshape(shape)

    np.testing.assert_allclose(more["target"], summed(-slope), 1e-9, 1e-15)
    np.testing.assert_allclose(more["weight"], summed(np.abs(d) ** 3 / d.size), 1e-11)
    assert more["power"] == pytest.approx((w * np.abs(d) ** 3 * np.log(np.abs(d))).mean())
    assert more["weight"].shape == shape


def test_gradients_of_numbers_that_rows_and_elements_take():
    f = custom(lambda p, t, a=1.0, b=2.0: (a * p - t) ** 2 + a * b * math.sum(p * a) + b)
    p, t = draw()
    given_ = {"a": 0.7, "b": -0.4}
    _, _, found = f(p, t, **given_, wrt=("a", "b"))
    for name, value in given_.items():
        moved = [f(p, t, **(given_ | {name: value + h}), grad=False) for h in (1e-6, -1e-6)]
        assert found[name] == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.bool_])
def test_targets_may_be_integers(dtype):
    p, _ = draw()
    t = (p > 0.3).astype(dtype)
    expected = KINDS["square"](p, t.astype(np.float64))
    for target in (t, np.asfortranarray(t), t[::-1][::-1]):
        value, grad = KINDS["square"](p, target)
        assert value == expected[0]
        np.testing.assert_array_equal(grad, expected[1])


def test_target_need_not_be_contiguous():
    p, t = draw()
    wide = np.zeros((6, 14))
    wide[:, ::2] = t
    for target in (np.asfortranarray(t), wide[:, ::2], t[::-1][::-1], t[:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(KINDS["square"](p, target)[1], KINDS["square"](p, t)[1])


def test_branch_that_is_not_chosen_has_no_part_in_the_gradient():
    f = custom(lambda p, t: math.where(p > 0, math.sqrt(p), t) * 2 / (1 + t * t))
    p, t = np.array([4.0, -1.0, 0.0]), np.ones(3)
    _, grad = f(p, t, reduction="sum")
    np.testing.assert_array_equal(grad, [0.25, 0.0, 0.0])  # torch.where gives NaN for the last two


def test_ties_go_to_the_first():
    f = custom(lambda p, t: math.maximum(p, t) + 10 * math.minimum(p, t))
    assert f(np.ones(1), np.ones(1))[1] == 11
    g = custom(lambda p, t: math.maximum(t, p) + 10 * math.minimum(t, p))
    assert g(np.ones(1), np.ones(1))[1] == 0


def test_sum_counts_a_rows_value_once_for_each_element():
    p, t = draw()
    f = custom(lambda pred, target, a=1.0: math.sum(math.sum(pred)) + math.sum(a) * pred)
    value, grad, more = f(p, t, a=0.5, reduction="sum", wrt="a")
    assert value == pytest.approx(7 * 7 * p.sum() + 3.5 * p.sum())
    np.testing.assert_allclose(grad, np.full((6, 7), 7 * 7 + 3.5))
    assert more["a"] == pytest.approx(7 * p.sum())


def test_parameters_may_have_names_of_operations():
    f = custom(lambda sum, log, power=2.0, multiply=3.0: multiply * (sum - log) ** 2 + power)  # noqa: A006
    p, t = draw()
    value, grad = f(p, t)
    assert value == pytest.approx((3 * (p - t) ** 2 + 2).mean())
    np.testing.assert_allclose(grad, 6 * (p - t) / p.size)


def test_as_the_standard_ones():
    p, t = (a.astype(np.float32) for a in draw((40, 50)))
    for ours, standard in (("square", loss.mse), ("huber", loss.huber), ("bce", loss.binary_cross_entropy_with_logits)):
        target = (t > 0).astype(np.float32) if ours == "bce" else t
        value, grad = KINDS[ours](p, target)
        expected, slope = standard(p, target)
        assert value == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(grad, slope, 1e-5, 1e-10)


# What check and explain say.


def test_check_sees_a_wrong_gradient(monkeypatch):
    f = custom(lambda pred, target: pred * target)
    p, t = draw()
    assert f.check(p, t).error < 1e-9
    monkeypatch.setitem(
        f._plans, next(iter(f._plans)), custom(lambda pred, target: pred * target * 1.01)._plan(frozenset(), (), True)
    )
    found = f.check(p, t, samples=3)
    assert found.error > 1e-3
    assert found.name == "pred"
    assert found.gradient == pytest.approx(1.01 * found.difference)


def test_explain_prints_steps_and_costs(capsys):
    custom(scaled).explain()
    KINDS["dice"].explain()
    text = capsys.readouterr().out
    assert "scaled(pred, target, weight, power), a value for each element" in text
    assert "once a call" in text
    assert "2 values read and 1 written (12 bytes in float32)" in text
    assert "a value for each row" in text
    assert "once a row" in text
    KINDS["square"].explain()
    assert "an element: 3 steps, 3 FLOPs" in capsys.readouterr().out


def test_equal_values_are_computed_once():
    f = custom(lambda p, t: math.exp(p - t) + t * math.exp(p - t) + math.exp(p - t) ** 2)
    p, t = draw()
    f(p, t)
    (plan,) = f._plans.values()
    assert [step.name for step in plan.program.code].count("exp") == 1


# What cannot be traced.


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda p, t: p if p > t else t, TypeError, "a branch on a traced value"),
        (lambda p, t: max(p, t), TypeError, "a branch on a traced value"),
        (lambda p, t: p > t and t or p, TypeError, "a branch on a traced value"),
        (lambda p, t: 0 < p < 1, TypeError, "a branch on a traced value"),
        (lambda p, t: np.exp(p - t), TypeError, "numpy.exp of a traced value: write fusedstep.loss.math.exp"),
        (lambda p, t: np.ones(3) * p, TypeError, "an array meets a traced value: make the array a named parameter"),
        (lambda p, t: p * np.ones(3), TypeError, "an array meets a traced value: make the array a named parameter"),
        (lambda p, t: p + [1.0], TypeError, "expected a traced value or a number, got list: make it a named"),
        (lambda p, t: np.sum(p), TypeError, "numpy.sum of a traced value: write it with fusedstep.loss.math"),
        (lambda p, t: python_math.exp(p), TypeError, "a number is asked of a traced value"),
        (lambda p, t: float(p), TypeError, "a number is asked of a traced value"),
        (lambda p, t: p[0], TypeError, "items of a traced value"),
        (lambda p, t: sum(p), TypeError, "items of a traced value"),
        (lambda p, t: p.mean(), AttributeError, "a traced value has no mean"),
        (lambda p, t: p + "1", TypeError, "expected a traced value or a number, got str"),
        (lambda p, t: 1.0, TypeError, "<lambda>: expected a traced value as the result, got float"),
        (lambda p, t: t * 2, ValueError, "<lambda>: expected a result that depends on p"),
        (lambda p, t: math.exp(1.0) * p, TypeError, "exp: expected at least one traced value, got numbers alone"),
        (lambda p: p, TypeError, "f: expected the arguments pred and target first, got (p)"),
        (lambda p, t, *more: p, TypeError, "f: expected named parameters, got *more"),
        (lambda p, t, out: p, ValueError, "f: expected another name than out"),
    ],
)
def test_what_cannot_be_traced_is_an_error_at_definition(f, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        custom(f)
