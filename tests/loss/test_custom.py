# ruff: noqa: ARG005, FURB136, PLW0108, RUF005, RUF021 - functions as users write them
"""Custom losses: values against NumPy, gradients against finite differences, and what cannot be traced."""

import math as python_math
import re

import numpy as np
import pytest
from fusedstep.loss import custom, math
from hypothesis import given, settings
from hypothesis import strategies as st

from loss.functions import SMOOTH, draw, scaled

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
    if p.ndim and shape[-1]:
        value, grad = KINDS["dice"](p, t)
        assert grad.shape == shape


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_sum_over_the_last_axis_needs_elements(shape):
    with pytest.raises(ValueError, match=r"pred: expected a last axis with elements, as it is summed, got shape \("):
        custom(lambda pred, target: math.sum(pred) + target)(np.ones(shape), 0.0)


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


def test_softplus_and_its_derivative_share_an_exponential():
    for f in (KINDS["log_cosh"], KINDS["bce"]):
        names = [step.name for step in f._plan(frozenset(), (), True).program.code]
        assert names.count("decay") == names.count("softplus_of") == names.count("sigmoid_of") == 1
        assert not {"softplus", "sigmoid", "exp"} & set(names)


def test_a_power_of_two_multiplies_the_sum():
    f = custom(lambda p, t: 4 * math.log1p((p - t) ** 2))
    p, t = (a.astype(np.float32) for a in draw())
    assert "multiply" not in [step.name for step in f._plan(frozenset(), (), False).program.code][-1:]
    values = f(p, t, reduction="none", grad=False)
    assert f(p, t, reduction="sum", grad=False) == pytest.approx(values.astype(np.float64).sum(), rel=1e-14)


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
