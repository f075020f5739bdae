"""The mathematics is torch's: against kept results, against torch itself, and against the pure-Python references."""

from pathlib import Path

import numpy as np
import pytest
from fusedstep import _pure

from .methods import DTYPES, VARIANTS, Method
from .peers import torch_optimizer

GOLDEN = Path(__file__).parent.parent / "golden" / "optim.npz"  # made by make.py beside it


def assert_near(actual, desired, lr=0.0):
    """Equal but for roundings, in which torch's own implementations differ: relative to the value or to a step."""
    tolerance = 64 * np.finfo(actual.dtype).eps
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance * lr)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def test_golden_file_covers_every_option(golden):
    assert set(golden) == {"torch", "start", "grads"} | {f"{m}/{np.dtype(t)}" for m in VARIANTS for t in DTYPES}


def test_steps_equal_golden(variant, dtype, golden):
    p = golden["start"].astype(dtype)
    optimizer = variant.optimizer(p)
    for g in golden["grads"].astype(dtype):
        optimizer.step(g)
    desired_p, *desired_states = golden[f"{variant}/{np.dtype(dtype)}"]
    assert_near(p, desired_p, variant.hyper["lr"])
    for name, desired in zip(variant.state_names, desired_states, strict=True):
        assert_near(optimizer.state[0][name], desired)


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_steps_equal_torch(variant, dtype, rng, max_norm):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    params = [rng.standard_normal(shape).astype(dtype) for shape in [(), (7,), (0, 3), (5, 6)]]
    theirs = [torch.tensor(p) for p in params]
    optimizer, other = variant.optimizer(params), torch_optimizer(variant, theirs)
    for _ in range(8):
        grads = [rng.standard_normal(p.shape).astype(dtype) for p in params]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        info = optimizer.step(grads, max_norm=max_norm)
        if max_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
            np.testing.assert_allclose(info.norm, norm, rtol=8 * np.finfo(dtype).eps)
        other.step()
    for own, theirs_p in zip(params, theirs, strict=True):
        assert_near(own, theirs_p.numpy(), variant.hyper["lr"])


# How each pure-Python reference is called for one step: (p, g, states, step).
PURE = {
    "adam": lambda p, g, s, t: _pure.adam_step(p, g, *s, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8),
    "rmsprop": lambda p, g, s, t: _pure.rmsprop_step(p, g, *s, lr=1e-2, alpha=0.99, eps=1e-8),  # noqa: ARG005
    "adagrad": lambda p, g, s, t: _pure.adagrad_step(p, g, *s, t, lr=1e-2, eps=1e-10),
}


@pytest.mark.parametrize("name", PURE)
def test_steps_equal_pure_python(name, rng):
    method = Method(name)
    p = rng.standard_normal(20)
    lists, states = p.tolist(), [s.tolist() for s in method.states(p)]
    optimizer = method.optimizer(p)
    for t in range(1, 9):
        g = rng.standard_normal(20)
        optimizer.step(g)
        PURE[name](lists, g.tolist(), states, t)
    np.testing.assert_allclose(p, lists, rtol=1e-12, atol=1e-15)


def test_centered_rmsprop_stays_finite_on_constant_gradients(dtype):
    """torch does not clamp the variance at 0 and reaches NaN here."""
    p = np.ones(64, dtype)
    g = np.linspace(0.1, 7, 64).astype(dtype)
    optimizer = Method("rmsprop", {"centered": True}).optimizer(p)
    for _ in range(3000):
        optimizer.step(g)
    assert np.isfinite(p).all()


def test_minimises_a_quadratic(method, dtype):
    w = np.array([1.0, -2.0, 3.0], dtype)
    optimizer = method.cls(w, lr=0.3)
    losses = []
    for _ in range(200):
        losses.append(float((w * w).sum()))
        optimizer.step(2 * w)
    assert losses[-1] < 0.1 * losses[0]


def test_maximize_is_the_step_of_the_negated_gradient(method, dtype, rng):
    start, g = rng.standard_normal((2, 9)).astype(dtype)
    up, down = start.copy(), start.copy()
    method.cls(up, maximize=True).step(g)
    method.cls(down).step(-g)
    np.testing.assert_array_equal(up, down)
