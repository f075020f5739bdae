"""Values and gradients against NumPy in float64, and against torch where it is installed."""

import numpy as np
import pytest
from fusedstep import loss
from hypothesis import given, settings
from hypothesis import strategies as st

from loss import methods
from loss.drawn import broadcast_like, dtypes, reductions, rows, shapes
from loss.methods import METHODS

CASES = [(method, options) for method in METHODS for options in method.options]


def name_of(value):
    """A case in a test's name: of the method its name."""
    return getattr(value, "name", None) or str(value)


cases = pytest.mark.parametrize(("method", "options"), CASES, ids=name_of)
RTOL = {np.float32: 2e-5, np.float64: 1e-12}


def close(actual, desired, dtype):
    desired = np.asarray(desired)
    scale = max(1e-3, np.max(np.abs(desired), initial=0))
    np.testing.assert_allclose(actual, desired, rtol=RTOL[dtype], atol=RTOL[dtype] * scale)


@cases
@given(st.data(), shapes, reductions, dtypes, st.integers(0, 2**32 - 1))
def test_elementwise_value_and_gradient(method, options, data, shape, reduction, dtype, seed):
    rng = np.random.default_rng(seed)
    x, t = method.draw(rng, shape, dtype)
    given_ = dict(options)
    wide = dict(options)
    weight = broadcast_like(data.draw, rng, shape, dtype)
    if method.name == "binary_cross_entropy_with_logits":
        positive = broadcast_like(data.draw, rng, shape, dtype)
        given_["pos_weight"] = positive
        wide = {} if positive is None else {"pos_weight": positive.astype(np.float64)}
    w = np.ones(shape) if weight is None else np.broadcast_to(weight, shape).astype(np.float64)
    x64, t64 = x.astype(np.float64), t.astype(np.float64)
    element = w * method.reference(x64, t64, **wide)
    h = 1e-6
    slope = w * (method.reference(x64 + h, t64, **wide) - method.reference(x64 - h, t64, **wide)) / (2 * h)
    divisor = 1.0
    if reduction == "mean":
        divisor = w.sum() if method.weighted_mean and weight is not None else float(x.size)
    value, grad = method(x, t, weight=weight, reduction=reduction, **given_)
    assert grad.shape == x.shape
    assert grad.dtype == dtype
    if divisor == 0:
        assert value == 0
        return
    close(value, element if reduction == "none" else element.sum() / divisor, dtype)
    np.testing.assert_allclose(grad, slope / divisor, rtol=2e-5, atol=2e-7 * max(1, np.max(np.abs(slope), initial=0)))
    alone = method(x, t, weight=weight, reduction=reduction, grad=False, **given_)
    np.testing.assert_array_equal(alone, value)


@given(rows())
def test_cross_entropy_value_and_gradient(drawn):
    x, target, options = drawn
    value, grad = loss.cross_entropy(x, target, **options)
    expected, slope = methods.cross_entropy(x, target, **options)
    rtol = 3e-5 if x.dtype == np.float32 else 1e-10
    assert np.isfinite(value).all()
    np.testing.assert_allclose(value, expected, rtol, atol=rtol)
    np.testing.assert_allclose(grad, slope, rtol, atol=rtol * np.max(np.abs(slope), initial=1e-6))
    np.testing.assert_array_equal(loss.cross_entropy(x, target, grad=False, **options), value)


@settings(max_examples=max(10, settings.default.max_examples // 2))
@given(rows())
def test_cross_entropy_matches_torch(drawn):
    torch = pytest.importorskip("torch")
    x, target, options = drawn
    for ours in ("sample_weight", "z_loss"):
        options.pop(ours, None)
    kept = target.dtype.kind == "f" or np.any(target != options.get("ignore_index", -100))
    if not kept or x.shape[0] == 0:
        return  # torch gives NaN
    if options["reduction"] == "mean" and target.dtype.kind == "i" and "weight" in options:
        own = options["weight"][target[target != options.get("ignore_index", -100)]].sum()
        if own == 0:
            return
    theirs = dict(options)
    if "weight" in theirs:
        theirs["weight"] = torch.from_numpy(theirs["weight"].astype(np.float64))
    logits = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    labels = torch.from_numpy(target.astype(np.float64 if target.dtype.kind == "f" else np.int64))
    expected = torch.nn.functional.cross_entropy(logits, labels, **theirs)
    expected.sum().backward()
    value, grad = loss.cross_entropy(x, target, **options)
    rtol = 3e-5 if x.dtype == np.float32 else 1e-9
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol, atol=rtol)
    np.testing.assert_allclose(grad, logits.grad.numpy(), rtol, atol=rtol)


TORCH = {
    "mse": "mse_loss",
    "l1": "l1_loss",
    "smooth_l1": "smooth_l1_loss",
    "huber": "huber_loss",
    "kl_div": "kl_div",
    "binary_cross_entropy_with_logits": "binary_cross_entropy_with_logits",
}


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batchmean"])
@pytest.mark.parametrize(("method", "options"), [c for c in CASES if c[0].name in TORCH], ids=name_of)
def test_elementwise_matches_torch(method, options, reduction):
    torch = pytest.importorskip("torch")
    if reduction == "batchmean" and method.name != "kl_div":
        return
    x, t = method.draw(np.random.default_rng(5), (7, 30), np.float64)
    tensor = torch.from_numpy(x).requires_grad_()
    expected = getattr(torch.nn.functional, TORCH[method.name])(
        tensor, torch.from_numpy(t), reduction=reduction, **options
    )
    expected.sum().backward()
    value, grad = method(x, t, reduction=reduction, **options)
    np.testing.assert_allclose(value, expected.detach().numpy(), 1e-12)
    np.testing.assert_allclose(grad, tensor.grad.numpy(), 1e-11, 1e-15)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_weighted_losses_match_torch(reduction):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    rng = np.random.default_rng(2)
    x, t, w, positive = (rng.uniform(0.1, 2, s) for s in ((4, 5), (4, 5), (4, 5), (5,)))
    for ours, theirs in ((loss.mse, F.mse_loss), (loss.l1, F.l1_loss), (loss.huber, F.huber_loss)):
        expected = theirs(*map(torch.from_numpy, (x, t)), weight=torch.from_numpy(w), reduction=reduction)
        np.testing.assert_allclose(ours(x, t, weight=w, reduction=reduction, grad=False), expected.numpy(), 1e-12)
    tensor = torch.from_numpy(x).requires_grad_()
    expected = F.binary_cross_entropy_with_logits(
        tensor, torch.from_numpy(t), torch.from_numpy(w), pos_weight=torch.from_numpy(positive), reduction=reduction
    )
    expected.sum().backward()
    value, grad = loss.binary_cross_entropy_with_logits(x, t, weight=w, pos_weight=positive, reduction=reduction)
    np.testing.assert_allclose(value, expected.detach().numpy(), 1e-12)
    np.testing.assert_allclose(grad, tensor.grad.numpy(), 1e-12)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_nll_matches_reference(reduction):
    rng = np.random.default_rng(3)
    x, target = rng.normal(size=(50, 7)), rng.integers(0, 7, 50)
    target[::5] = 3
    w, u = rng.uniform(0.5, 2, 7), rng.uniform(0.5, 2, 50)
    value, grad = loss.nll(x, target, w, ignore_index=3, sample_weight=u, reduction=reduction)
    own = u * w[target] * (target != 3)
    values = -own * x[np.arange(50), target]
    scale = 1 / own.sum() if reduction == "mean" else 1
    np.testing.assert_allclose(value, values if reduction == "none" else values.sum() * scale, 1e-12)
    np.testing.assert_allclose(grad, -(own * scale)[:, None] * np.eye(7)[target], 1e-12)


# Layouts.


@pytest.mark.parametrize("classes", [5, 40, 300])
@pytest.mark.parametrize("probabilities", [False, True])
def test_axis_of_classes_gives_the_same_bits(classes, probabilities):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(3, 5, 7, classes)).astype(np.float32)
    target = rng.integers(0, classes, (3, 5, 7))
    target[0, 0, :3] = -100
    if probabilities:
        target = rng.uniform(0, 1, x.shape).astype(np.float32)
    options = {"label_smoothing": 0.1, "weight": rng.uniform(1, 2, classes).astype(np.float32)}
    turned = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    there = np.ascontiguousarray(np.moveaxis(target, -1, 1)) if probabilities else target
    value, grad = loss.cross_entropy(x, target, **options)
    other, turned_grad = loss.cross_entropy(turned, there, axis=1, **options)
    assert value == other
    np.testing.assert_array_equal(np.moveaxis(turned_grad, 1, -1), grad)
    if not probabilities:
        value, grad = loss.nll(x, target)
        other, turned_grad = loss.nll(turned, target, axis=1)
        assert value == other
        np.testing.assert_array_equal(np.moveaxis(turned_grad, 1, -1), grad)


# Limits.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [3, 50, 700])
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_logits_stay_finite(dtype, classes, size):
    rng = np.random.default_rng(0)
    x = rng.choice([-size, 0, size], (64, classes)).astype(dtype)
    y = rng.integers(0, classes, 64)
    for options in ({}, {"label_smoothing": 0.1}, {"z_loss": 1e-4}):
        value, grad = loss.cross_entropy(x, y, **options)
        expected, slope = methods.cross_entropy(x, y, **options)
        np.testing.assert_allclose(value, expected, 1e-6)
        np.testing.assert_allclose(grad, slope, 1e-5, 1e-8)


@pytest.mark.parametrize("method", [m for m in METHODS if m.target != "real"], ids=lambda m: m.name)
def test_extreme_scores_stay_finite(method):
    for x in (-1e4, -100.0, -1e-30, 0.0, 1e-30, 100.0, 1e4):
        for t in (-1.0, 1.0) if method.target == "sign" else (0.0, 1.0):
            for options in method.options:
                given_ = np.full(3, x, np.float32)
                value, grad = method(given_, t, **options)
                assert np.isfinite(value)
                assert np.isfinite(grad).all()
                np.testing.assert_allclose(value, method.reference(np.float64(x), t, **options), 1e-5, 1e-30)


def test_logits_of_minus_infinity_are_classes_that_cannot_be():
    x = np.array([[0.0, -np.inf, 1.0], [-np.inf, 2.0, -np.inf]], np.float32)
    for width in (3, 400):
        wide = np.full((2, width), -np.inf, np.float32)
        wide[:, -3:] = x
        value, grad = loss.cross_entropy(wide, np.array([width - 1, width - 2]), reduction="none")
        np.testing.assert_allclose(value, [np.log1p(np.exp(-1)), 0], 1e-6)
        assert np.isfinite(grad).all()


def test_small_loss_of_large_logits_is_accurate():
    x = np.array([[1e4, 1e4 - 12]], np.float32)
    np.testing.assert_allclose(loss.cross_entropy(x, np.array([0]), grad=False), np.log1p(np.exp(-12)), 1e-6)


def test_mean_over_nothing_is_zero():
    x, ignored = np.ones((2, 3), np.float32), np.full(2, -100)
    for f in (loss.cross_entropy, loss.nll):
        value, grad = f(x, ignored)
        assert value == 0
        assert not grad.any()
        value, grad = f(np.empty((0, 3)), np.empty(0, np.int64))
        assert value == 0
        assert grad.shape == (0, 3)
    value, grad = loss.mse(x, 0.0, weight=np.zeros_like(x))
    assert value == 0
    assert not grad.any()


def test_rows_of_no_weight_are_left_out_whatever_they_hold():
    x = np.array([[np.nan, 1.0], [0.0, 0.0]], np.float32)
    value, grad = loss.cross_entropy(x, np.array([0, 1]), sample_weight=np.array([0, 1], np.float32))
    assert value == pytest.approx(np.log(2))
    np.testing.assert_allclose(grad, [[0, 0], [0.5, -0.5]])


def test_nan_gives_nan():
    for classes in (4, 300):
        x = np.zeros((2, classes), np.float32)
        x[0, 2] = np.nan
        value, grad = loss.cross_entropy(x, np.array([1, 1]), reduction="none")
        assert np.isnan(value).tolist() == [True, False]
        assert np.isnan(grad[0]).all()
        assert not np.isnan(grad[1]).any()
    for method in METHODS:
        _, grad = method(np.array([np.nan, 0.5], np.float32), 1.0)
        if method.name != "kl_div":  # whose gradient does not depend on the input
            assert np.isnan(grad).tolist() == [True, False], method.name
