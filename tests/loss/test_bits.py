"""The same bits for any number of threads, any instruction set, a row alone or in a batch, in place or not."""

import hashlib
import json

import numpy as np
import pytest
from digests import OTHERS, digest_under
from fusedstep import loss
from fusedstep.loss import custom, math

from loss.methods import METHODS

DTYPES = (np.float32, np.float64)


def charbonnier(pred, target, eps=0.1):
    return math.sqrt((pred - target) ** 2 + eps * eps)


def mixed(pred, target):
    d = pred - target
    return math.where(d > 0, math.tanh(d) * math.log1p(d * d), math.exp(d) - math.softplus(pred)) / (1 + abs(target))


def dice(pred, target):
    p = math.sigmoid(pred)
    return 1 - (2 * math.sum(p * target) + 1) / (math.sum(p) + math.sum(target) + 1)


def chained(pred, target):
    """Of pairs of arithmetic, and of a choice by a comparison."""
    d = (pred - target) / 1.3
    return math.where(d < target, 0.3, 0.7) * (d * d) * pred + 2 / (1.5 + d * d) - math.log(3 + pred * pred) / 1.7


CUSTOM = {f.__name__: custom(f) for f in (charbonnier, mixed, dice, chained)}


def results():
    """Everything that is computed from fixed inputs, by name: pairs of value and gradient."""
    found = {}
    for dtype in DTYPES:
        rng = np.random.default_rng(0)
        for method in METHODS:
            for i, options in enumerate(method.options):
                x, t = method.draw(rng, (3, 4321), dtype)
                found[f"{method.name}-{method.target}-{i}-{dtype.__name__}"] = method(x, t, **options)
        for classes in (1, 10, 32, 33, 300, 1000):
            x, y = rng.normal(0, 3, (130, classes)).astype(dtype), rng.integers(0, classes, 130)
            w, u = rng.uniform(0.5, 2, classes).astype(dtype), rng.uniform(0.5, 2, 130).astype(dtype)
            t = rng.uniform(0, 1, x.shape).astype(dtype)
            for name, options in {
                "plain": {"target": y},
                "weighted": {"target": y, "weight": w, "sample_weight": u},
                "smooth": {"target": y, "label_smoothing": 0.1, "z_loss": 1e-3},
                "smooth-weighted": {"target": y, "label_smoothing": 0.1, "weight": w},
                "probabilities": {"target": t},
                "probabilities-weighted": {"target": t, "weight": w},
            }.items():
                found[f"cross_entropy-{classes}-{name}-{dtype.__name__}"] = loss.cross_entropy(x, **options)
        for name, f in CUSTOM.items():
            x, t = rng.normal(0, 2, (77, 333)).astype(dtype), rng.normal(0, 2, (77, 333)).astype(dtype)
            found[f"custom-{name}-{dtype.__name__}"] = f(x, t)
    return found


def digest():
    return {
        name: hashlib.sha256(np.float64(value).tobytes() + grad.tobytes()).hexdigest()[:16]
        for name, (value, grad) in results().items()
    }


@pytest.fixture(scope="module")
def own_digest():
    return digest()


@pytest.mark.parametrize("isa", OTHERS)
def test_instruction_sets_agree(isa, own_digest):
    assert digest_under("loss.test_bits", isa) == own_digest


def test_digest_tells_results_apart(own_digest):
    # At one class every variant without masses of its own is 0.
    several = [value for name, value in own_digest.items() if "cross_entropy-1-" not in name]
    assert len(set(several)) == len(several)


@pytest.mark.parametrize("threads_", [2, 3, 8])
def test_number_of_threads_does_not_show(threads, threads_, own_digest):
    threads(1)
    assert digest() == own_digest
    threads(threads_)
    assert digest() == own_digest


def test_shares_taken_by_others_do_not_show(threads):
    """Of arrays that are several runs of blocks for a thread."""
    rng = np.random.default_rng(4)
    x, t = rng.normal(size=(2, 600_001)).astype(np.float32)
    logits, classes = x[:600_000].reshape(-1, 10), rng.integers(0, 10, 60_000)
    calls = [(loss.mse, x, t), (CUSTOM["charbonnier"], x, t), (loss.cross_entropy, logits, classes)]
    threads(1)
    expected = [f(a, b) for f, a, b in calls]
    for n in (2, 3, 7):
        threads(n)
        for (f, a, b), (value, grad) in zip(calls, expected, strict=True):
            found, own = f(a, b)
            assert found == value
            np.testing.assert_array_equal(own, grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [3, 16, 32, 33, 100, 257, 1000])
def test_row_alone_and_in_a_batch(classes, dtype):
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 3, (37, classes)).astype(dtype), rng.integers(0, classes, 37)
    values, grad = loss.cross_entropy(x, y, reduction="none", label_smoothing=0.1)
    for r in range(37):
        value, own = loss.cross_entropy(x[r], y[r], reduction="none", label_smoothing=0.1)
        assert value == values[r]
        np.testing.assert_array_equal(own, grad[r])


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_do_not_depend_on_their_place(dtype):
    rng = np.random.default_rng(1)
    for f, (x, t) in [
        *((m, m.draw(rng, 67, dtype)) for m in METHODS if {} in m.options),
        *((CUSTOM[name], rng.normal(0, 2, (2, 67)).astype(dtype)) for name in ("charbonnier", "mixed", "chained")),
    ]:
        values, grad = f(x, t, reduction="none")
        for n in range(67):
            for part in (slice(n), slice(n, None)):
                found, own = f(x[part].copy(), t[part].copy(), reduction="none")
                np.testing.assert_array_equal(found, values[part])
                np.testing.assert_array_equal(own, grad[part])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_in_place_has_the_same_bits(dtype):
    rng = np.random.default_rng(2)
    for classes in (10, 50, 700):
        x, y = rng.normal(0, 3, (20, classes)).astype(dtype), rng.integers(0, classes, 20)
        t = rng.uniform(0, 1, x.shape).astype(dtype)
        turned = np.ascontiguousarray(x.T)
        for f, a, options in (
            (loss.cross_entropy, x, {"target": y}),
            (loss.cross_entropy, x, {"target": t, "label_smoothing": 0.1}),
            (loss.cross_entropy, turned, {"target": y, "axis": 0}),
            (loss.nll, x, {"target": y}),
            (loss.mse, x, {"target": t}),
            *((CUSTOM[name], x, {"target": t}) for name in CUSTOM),
        ):
            value, grad = f(a, **options)
            place = a.copy()
            other, same = f(place, out=place, **options)
            assert same is place
            assert other == value
            np.testing.assert_array_equal(place, grad)


def test_input_is_left_alone():
    x, t = np.ones((40, 50), np.float32), np.zeros((40, 50), np.float32)
    for f, target in ((loss.cross_entropy, np.zeros(40, int)), (loss.mse, t), (CUSTOM["dice"], t)):
        f(x, target)
        assert (x == 1).all()


def test_sum_does_not_lose_small_terms():
    x = np.full(1 << 20, 1e-4, np.float32)
    x[0] = 1e4
    expected = float(np.float32(1e4)) ** 2 + ((1 << 20) - 1) * float(np.float32(1e-4) * np.float32(1e-4))
    assert loss.mse(x, 0.0, reduction="sum", grad=False) == pytest.approx(expected, rel=1e-14)


if __name__ == "__main__":
    print(json.dumps(digest()))
