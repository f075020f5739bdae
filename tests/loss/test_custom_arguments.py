"""Custom losses: arguments of every shape and kind, and what operations give at their limits."""

import numpy as np
import pytest
from fusedstep import loss
from fusedstep.loss import custom, math

from loss.functions import SMOOTH, draw, scaled

KINDS = {name: custom(f) for name, f in SMOOTH.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (1,), (300,), (700, 1), (3, 1, 300), (3, 700, 1), (1, 700, 300), (3, 700, 300)])
def test_gradients_of_broadcast_parameters_of_many_elements(shape, dtype):
    """Which are added up in several parts."""
    f = custom(lambda p, t, a: (p * a - t) ** 2)
    rng = np.random.default_rng(5)
    p, a = rng.normal(size=(3, 700, 300)).astype(dtype), rng.normal(size=shape).astype(dtype)
    _, _, more = f(p, 0.5, a=a, wrt="a", reduction="sum")
    each = 2 * p.astype(np.float64) * (p.astype(np.float64) * a - 0.5)
    axes = tuple(i for i in range(3) if i < 3 - len(shape) or shape[i - 3 + len(shape)] == 1)
    expected = each.sum(axes, keepdims=True).reshape(shape)
    assert more["a"].dtype == dtype
    atol = 1e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(more["a"], expected, 2e-6 if dtype == np.float32 else 1e-12, atol * np.abs(each).max())


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


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0, 2.5, 3.7, 16.5])
@pytest.mark.parametrize("number", ["constant", "parameter", "array"])
def test_powers_of_zero(power, number):
    d = np.array([0.0, 0.5, -2.0])
    if number == "constant":
        value, grad = custom(lambda p, t: abs(p - t) ** power + t * p)(d, 0.0, reduction="none")
    else:
        b = power if number == "parameter" else np.full(3, power)
        value, grad = custom(lambda p, t, b: abs(p - t) ** b)(d, 0.0, b=b, reduction="none")
    np.testing.assert_allclose(value, np.abs(d) ** power, 1e-13)
    slope = power * np.abs(d) ** max(power - 1, 0) if power else np.zeros(3)
    np.testing.assert_allclose(grad, np.sign(d) * slope, 1e-13)


@pytest.mark.parametrize("power", [-3.0, -1.0, 0.0, 1.0, 2.0, 3.0, 5.0, 20.0, 33.0])
def test_whole_powers_of_negative_numbers(power):
    d = np.array([0.5, -0.5, -2.0, 3.0])
    for f, given_ in (
        (custom(lambda p, t: (p - t) ** power + t * p), {}),
        (custom(lambda p, t, b: (p - t) ** b), {"b": power}),
    ):
        value, grad = f(d, 0.0, reduction="none", **given_)
        np.testing.assert_allclose(value, d**power, 1e-13)
        np.testing.assert_allclose(grad, power * d ** (power - 1), 1e-13)
    value, grad = custom(lambda p, t, b: p**b + t)(d, 0.0, b=0.5, reduction="none")
    assert np.isnan(value).tolist() == np.isnan(grad).tolist() == [False, True, True, False]
    total = custom(lambda p, t, a, b: a**b * p + t)(d, 0.0, a=-2.0, b=3.0, reduction="sum", grad=False)
    assert total == pytest.approx(-8 * d.sum())


def test_ties_go_to_the_first():
    f = custom(lambda p, t: math.maximum(p, t) + 10 * math.minimum(p, t))
    assert f(np.ones(1), np.ones(1))[1] == 11
    g = custom(lambda p, t: math.maximum(t, p) + 10 * math.minimum(t, p))
    assert g(np.ones(1), np.ones(1))[1] == 0


def test_sum_counts_a_rows_value_once_for_each_element():
    p, t = draw()
    f = custom(lambda pred, _, a=1.0: math.sum(math.sum(pred)) + math.sum(a) * pred)
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name", ["bce", "log_cosh", "charbonnier", "cauchy", "welsch", "tanh", "huber", "wing", "dice"]
)
def test_extreme_predictions_stay_finite(name, dtype):
    p, t = (a.ravel() for a in np.meshgrid([-1e4, -100, -1e-30, 0, 1e-30, 100, 1e4], [0, 1, -3]))
    for reduction in ("none", "mean"):
        value, grad = KINDS[name](p.astype(dtype), t.astype(dtype), reduction=reduction)
        assert np.isfinite(value).all()
        assert np.isfinite(grad).all()


def test_a_program_of_many_values_at_once():
    """More than the machine's steps pass on in registers: each is read again at the end."""

    def f(p, t):
        parts = [math.tanh(p * k) + t / (k + 1) for k in range(40)]
        first, total = parts[0], parts[0]
        for part in parts[1:]:
            total = total + part * first
        for part in reversed(parts):
            total = total - part * part
        return total

    loss_of = custom(f)
    p, t = draw((3, 333))
    assert loss_of.check(p, t).error < 1e-6
    for n in (1, 15, 63, 64, 65, 127, 333):
        values, grad = loss_of(p[:, :n].copy(), t[:, :n].copy(), reduction="none")
        whole, slope = loss_of(p, t, reduction="none")
        np.testing.assert_array_equal(values, whole[:, :n])
        np.testing.assert_array_equal(grad, slope[:, :n])
