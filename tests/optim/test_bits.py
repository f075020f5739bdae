"""A step has the bits of the NumPy reference: any option, dtype, length, place in memory and number of threads."""

import functools
import math

import fusedstep
import numpy as np
import pytest
from fusedstep.optim import _hyper as checks
from fusedstep.optim import adagrad_step, adam_step, adamw_step, rmsprop_step
from hypothesis import given, settings
from hypothesis import strategies as st

from .methods import DTYPES, METHODS, Method, Mirror, assert_same_bits, defaults, normal, placed

# Numbers at which arithmetic goes another way: signed zeros, subnormals, the largest, infinities, NaN.
SPECIAL = {
    dtype: np.array(
        [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan]
        + [s * x for s in (1, -1) for x in (limits.smallest_subnormal, limits.tiny, limits.eps, limits.max)],
        dtype,
    )
    for dtype in DTYPES
    for limits in [np.finfo(dtype)]
}


def in_lanes(values):
    """Their sum in 32 lanes, lane j taking the values j, j + 32, …, which are then folded in halves."""
    lanes = np.zeros(32)
    for row in np.pad(values, (0, -values.size % 32)).reshape(-1, 32):
        lanes = lanes + row
    while lanes.size > 1:
        lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
    return float(lanes[0])


def reference_norm(gradients):
    """The norm in the order of the compiled one: blocks of 4096 elements in lanes, then their sums in lanes."""
    wide = [g.reshape(-1).astype(np.float64) for g in gradients]
    sums = [in_lanes(g[i : i + 4096] ** 2) for g in wide for i in range(0, g.size, 4096)]
    return math.sqrt(in_lanes(np.array(sums)))


def clip(norm, max_norm):
    return min(1.0, max_norm / (norm + 1e-6))


@functools.cache
def short_arrays(dtype):
    """A parameter and two gradients of each length 0 … 130."""
    rng = np.random.default_rng(0)
    return [[normal(rng, n, dtype) for n in range(131)] for _ in range(3)]


@functools.cache
def long_arrays(dtype):
    """A parameter, a gradient and a state."""
    rng = np.random.default_rng(0)
    return [normal(rng, 1_000_003, dtype) for _ in range(3)]


def test_step_equals_reference(variant, dtype):
    start, *grads = short_arrays(dtype)
    params = [p.copy() for p in start]
    mirror = Mirror(variant, params)
    optimizer = variant.optimizer(params)
    for g in grads:
        optimizer.step(g)
        mirror.step(g)
    mirror.assert_equals(params, optimizer)


def test_step_equals_reference_on_large_array(variant, dtype, threads):
    start, g, state = long_arrays(dtype)
    mirror = Mirror(variant, [start])
    for own in mirror.states[0]:
        np.abs(state, out=own)
    before = [own.copy() for own in mirror.states[0]]
    mirror.step([g])
    for count in (1, 2):
        threads(count)
        p = start.copy()
        optimizer = variant.optimizer(p)
        for name, own in zip(variant.state_names, before, strict=True):
            optimizer.state[0][name][...] = own
        optimizer.step(g)
        mirror.assert_equals([p], optimizer)


def test_one_tensor_equals_many(variant, dtype, rng, threads):
    whole, *grads = (array[:100_000].copy() for array in long_arrays(dtype))
    cuts = np.sort(rng.integers(0, whole.size, 60))
    parts = [p.copy() for p in np.split(whole, cuts)]
    threads(2)
    together, apart = variant.optimizer(whole), variant.optimizer(parts)
    for g in grads:
        together.step(g)
        apart.step(np.split(g, cuts))
    assert_same_bits(np.concatenate(parts), whole)


def test_place_in_memory_changes_nothing(variant, dtype, rng):
    start, g = normal(rng, 67, dtype), normal(rng, 67, dtype)
    desired = Mirror(variant, [start])
    desired.step([g])
    for offset in range(16):
        p = placed(start, offset)
        optimizer = variant.optimizer(p)
        optimizer.step(placed(g, 15 - offset))
        desired.assert_equals([p], optimizer)


def assert_special_values_equal_reference(method, dtype):
    """Every pair of special values as parameter and gradient."""
    values = SPECIAL[dtype]
    p, g = (np.ascontiguousarray(x).reshape(-1) for x in np.meshgrid(values, values))
    mirror = Mirror(method, [p])
    optimizer = method.optimizer(p)
    for k in range(3):
        shifted = np.roll(g, k)
        optimizer.step(shifted)
        mirror.step([shifted])
    mirror.assert_equals([p], optimizer)


def test_special_values_equal_reference(variant, dtype):
    assert_special_values_equal_reference(variant, dtype)


@pytest.mark.parametrize("value", [0.0, 1e-60, 1e-310, 1e60])
def test_scalars_at_the_ends_of_float32_equal_reference(method, dtype, value):
    """Hyperparameters that round to 0, to subnormals and to infinity."""
    for name in defaults(method.cls):
        if method.cls.hyper(name).check is checks.nonnegative:
            with np.errstate(over="ignore"):  # an initial state of 1e60 is infinite
                assert_special_values_equal_reference(Method(method.name, {name: value}), dtype)


# Any value that a hyperparameter may have.
VALUES = {
    checks.flag: st.booleans(),
    checks.fraction: st.floats(0, 1, exclude_max=True),
    checks.betas: st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
    checks.unit: st.floats(0, 1),
    checks.nonnegative: st.floats(0, 1e4),
}


@st.composite
def methods(draw):
    """A method with any values of its hyperparameters."""
    method = draw(st.sampled_from(METHODS))
    keys = draw(st.sets(st.sampled_from(sorted(defaults(method.cls)))))
    return Method(method.name, {key: draw(VALUES[method.cls.hyper(key).check]) for key in sorted(keys)})


calls = st.fixed_dictionaries(
    {
        "max_norm": st.none() | st.floats(1e-3, 1e3) | st.just(math.inf),
        "grad_scale": st.just(1.0) | st.floats(1e-3, 1e5),
        "check_finite": st.booleans(),
        "zero_grads": st.booleans(),
    }
)
shapes = st.lists(st.lists(st.integers(0, 40), max_size=3).map(tuple), min_size=1, max_size=6)


@settings(max_examples=4 * settings.default.max_examples)
@given(
    method=methods(),
    dtype=st.sampled_from(DTYPES),
    shapes=shapes,
    calls=st.lists(calls, min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_any_call_equals_reference(method, dtype, shapes, calls, seed):
    rng = np.random.default_rng(seed)
    params = [placed(normal(rng, shape, dtype), rng.integers(16)) for shape in shapes]
    mirror = Mirror(method, params)
    optimizer = method.optimizer(params)
    for call in calls:
        grads = [None if rng.random() < 0.2 else placed(normal(rng, p.shape, dtype), rng.integers(16)) for p in params]
        before = [g if g is None else g.copy() for g in grads]
        info = optimizer.step(grads, **call)
        assert info.applied
        assert info.first_nonfinite is None
        multiplier = 1 / call["grad_scale"]
        if call["max_norm"] is None and not call["check_finite"]:
            assert info.norm is None
        else:
            assert info.norm == reference_norm([g for g in before if g is not None]) / call["grad_scale"]
            if call["max_norm"] is not None:
                multiplier = clip(info.norm, call["max_norm"]) / call["grad_scale"]
        mirror.step(before, multiplier)
        for g, old in zip(grads, before, strict=True):
            if g is not None:
                assert_same_bits(g, np.zeros_like(old) if call["zero_grads"] else old, "gradient")
    mirror.assert_equals(params, optimizer)


@settings(max_examples=2 * settings.default.max_examples)
@given(
    method=methods(),
    dtype=st.sampled_from(DTYPES),
    n=st.integers(0, 130),
    step=st.integers(1, 10**6),
    grad_scale=st.floats(1e-3, 1e5),
    seed=st.integers(0, 99),
)
def test_functional_forms_equal_reference(method, dtype, n, step, grad_scale, seed):
    rng = np.random.default_rng(seed)
    hyper = dict(method.hyper)
    p, g, *states = (placed(normal(rng, n, dtype), rng.integers(16)) for _ in range(2 + len(method.state_names)))
    states = [placed(np.abs(s), rng.integers(16)) for s in states]
    desired, desired_states = p.copy(), tuple(s.copy() for s in states)
    method.reference(desired, g, desired_states, step, 1 / grad_scale)
    named = dict(zip(method.state_names, states, strict=True))
    hyper.pop("amsgrad", None)
    hyper.pop("centered", None)
    hyper.pop("initial_accumulator_value", None)
    if method.name == "rmsprop":
        rmsprop_step(p, g, grad_scale=grad_scale, **named, **hyper)
    elif method.name == "adagrad":
        adagrad_step(p, g, grad_scale=grad_scale, step=step, **named, **hyper)
    else:
        function = adamw_step if method.name == "adamw" else adam_step
        function(p, g, *states, grad_scale=grad_scale, step=step, **hyper)
    assert_same_bits(p, desired, "p")
    for name, actual, wanted in zip(method.state_names, states, desired_states, strict=True):
        assert_same_bits(actual, wanted, name)


@pytest.mark.parametrize("exponent", [-200, 0, 200])
def test_norm_keeps_its_accuracy_where_squares_overflow(exponent, rng):
    grads = [rng.standard_normal(n) * 10.0**exponent for n in (5000, 0, 17)]
    optimizer = fusedstep.optim.Adam([np.zeros(g.shape) for g in grads])
    info = optimizer.step(grads, check_finite=True)
    assert info.applied
    true = math.sqrt(math.fsum((float(x) / 10.0**exponent) ** 2 for g in grads for x in g)) * 10.0**exponent
    assert math.isclose(info.norm, true, rel_tol=1e-14)


def test_norm_is_the_same_on_any_number_of_threads(dtype, rng, threads):
    grads = [normal(rng, n, dtype) for n in (300_001, 0, 3, 70_000)]
    norms = []
    for count in (1, 2, 3):
        threads(count)
        optimizer = fusedstep.optim.Adam([np.zeros_like(g) for g in grads])
        norms.append(optimizer.step(grads, check_finite=True).norm)
    assert norms == [reference_norm(grads)] * 3
