"""The functions of the compiled core: error in ULP against the true value, range, limits, NaN and zero."""

import hashlib
import json

import numpy as np
import pytest
from digests import OTHERS, digest_under
from fusedstep import _core

NAMES = ("exp", "sigmoid", "tanh", "log", "log1p", "softplus")
DTYPES = (np.float32, np.float64)

# Largest error in ULP. float32: over all inputs. float64: over samples.
BOUNDS = {
    ("exp", np.float32): 1.0,
    ("sigmoid", np.float32): 2.5,
    ("tanh", np.float32): 2.0,
    ("exp", np.float64): 1.0,
    ("sigmoid", np.float64): 2.5,
    ("tanh", np.float64): 2.5,
    ("log", np.float32): 1.0,
    ("log1p", np.float32): 1.0,
    ("softplus", np.float32): 2.0,
    ("log", np.float64): 1.0,
    ("log1p", np.float64): 1.0,
    ("softplus", np.float64): 2.0,
}
# At -inf and +inf, and the range between them.
LIMITS = {"exp": (0, np.inf), "sigmoid": (0, 1), "tanh": (-1, 1), "softplus": (0, np.inf)}
LOWEST = {"log": 0, "log1p": -1}  # where they are -inf; NaN below
WIDER = {np.float32: np.float64, np.float64: np.longdouble}

functions = pytest.mark.parametrize("name", NAMES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def truth(name, x):
    """The function in the precision of x, which is wider than the one under test."""
    if name == "exp":
        return np.exp(x)
    if name in ("tanh", "log", "log1p"):
        return getattr(np, name)(x)
    if name == "softplus":
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    e = np.exp(-np.abs(x))
    return np.where(np.signbit(x), e, 1) / (1 + e)


def ulp_error(y, true):
    """Distance of y from the true value in units of y's last place at that value, 0 where both are NaN.

    A true value that rounds to infinity wants infinity; an infinity in place of a finite value counts as 2 ** emax.
    """
    info = np.finfo(y.dtype)
    rounded = true.astype(y.dtype)
    _, exponent = np.frexp(true)
    exponent = np.clip(np.where(np.isfinite(true), exponent, 0), info.minexp + 1, info.maxexp)
    overflow = np.ldexp(np.ones_like(true), info.maxexp)
    value = np.where(np.isinf(y), np.copysign(overflow, y), y.astype(true.dtype))
    error = np.ldexp(np.abs(value - true), info.nmant + 1 - exponent)
    error = np.where(np.isnan(true) & np.isnan(y), 0, np.where(np.isnan(true) | np.isnan(y), np.inf, error))
    return np.where(np.isinf(rounded) & (y == rounded), 0, error)


def worst(name, x):
    """Largest error in ULP over x, and the x where it is."""
    with np.errstate(all="ignore"):
        error = ulp_error(_core.math(name, x), truth(name, x.astype(WIDER[x.dtype.type])))
    at = int(np.argmax(error))
    return float(error[at]), float(x[at])


def samples(dtype):
    """Every exponent with random mantissas, the range where the functions bend, and the edges with their neighbours."""
    rng = np.random.default_rng(7)
    info = np.finfo(dtype)
    exponents = np.arange(info.minexp - info.nmant, info.maxexp)
    magnitudes = np.ldexp(rng.uniform(1, 2, (64, exponents.size)), exponents).astype(dtype).ravel()
    overflow = np.log(float(info.max))
    underflow = -np.log(float(info.tiny))
    zero = underflow + (info.nmant + 1) * np.log(2)
    bends = np.concatenate([rng.uniform(0, width, 200_000) for width in (1, 20, zero + 2)])
    folds = np.arange(1, 3000) * (np.log(2) / 4)  # where n of the reduction changes, and where r is 0
    edges = np.array([0, 1, 20, 40, overflow, underflow, zero, zero + 1, info.tiny, info.smallest_subnormal, *folds])
    edges = edges.astype(dtype)
    edges = np.concatenate([edges, np.nextafter(edges, dtype(0)), np.nextafter(edges, dtype(np.inf)), [info.max]])
    x = np.concatenate([magnitudes, bends.astype(dtype), edges.astype(dtype)])
    return np.concatenate([x, -x])


@functions
@dtypes
def test_error_is_within_bound(name, dtype):
    if np.finfo(WIDER[dtype]).nmant <= np.finfo(dtype).nmant + 8:
        pytest.skip(f"{WIDER[dtype].__name__} is no wider than {dtype.__name__} here: nothing to compare with")
    error, at = worst(name, samples(dtype))
    assert error <= BOUNDS[name, dtype], f"{error:.4f} ULP at x = {at.hex()}"


@pytest.mark.slow
@functions
def test_error_is_within_bound_over_all_float32(name):
    chunk = 1 << 18  # the temporaries of a chunk stay in cache
    found = [
        worst(name, np.arange(start, start + chunk, dtype=np.uint32).view(np.float32))
        for start in range(0, 1 << 32, chunk)
    ]
    error, at = max(found)
    assert error <= BOUNDS[name, np.float32], f"{error:.4f} ULP at x = {at.hex()}"


limited = pytest.mark.parametrize("name", LIMITS)


@limited
@dtypes
def test_values_stay_in_range(name, dtype):
    y = _core.math(name, samples(dtype))
    low, high = LIMITS[name]
    assert y.dtype == dtype
    assert low <= y.min()
    assert y.max() <= high


@limited
@dtypes
def test_limits_at_infinity(name, dtype):
    y = _core.math(name, np.array([-np.inf, np.inf], dtype))
    np.testing.assert_array_equal(y, np.array(LIMITS[name], dtype))


@functions
@dtypes
def test_nan_stays_nan(name, dtype):
    x = np.zeros(67, dtype)
    x[::3] = np.nan
    x[1::3] = -np.nan
    np.testing.assert_array_equal(np.isnan(_core.math(name, x)), np.isnan(x))


@dtypes
def test_values_at_zero(dtype):
    zeros = np.array([0.0, -0.0], dtype)
    np.testing.assert_array_equal(_core.math("exp", zeros), np.ones(2, dtype))
    np.testing.assert_array_equal(_core.math("sigmoid", zeros), np.full(2, 0.5, dtype))
    y = _core.math("tanh", zeros)
    np.testing.assert_array_equal(y, zeros)
    np.testing.assert_array_equal(np.signbit(y), [False, True])


@dtypes
@pytest.mark.parametrize("name", LOWEST)
def test_logarithms_have_their_limits(name, dtype):
    low = dtype(LOWEST[name])
    y = _core.math(name, np.array([-np.inf, np.nextafter(low, dtype(-2)), low, np.inf], dtype))
    np.testing.assert_array_equal(y, np.array([np.nan, np.nan, -np.inf, np.inf], dtype))
    assert _core.math(name, np.array([1 + low], dtype)) == 0
    if name == "log1p":
        np.testing.assert_array_equal(np.signbit(_core.math(name, np.array([0.0, -0.0], dtype))), [False, True])
    else:
        assert _core.math(name, np.array([-0.0], dtype)) == -np.inf


@dtypes
def test_tanh_is_odd(dtype):
    x = samples(dtype)
    np.testing.assert_array_equal(_core.math("tanh", -x), -_core.math("tanh", x))


@functions
@dtypes
def test_result_does_not_depend_on_position(name, dtype):
    x = np.abs(np.random.default_rng(3).normal(0, 8, 70)).astype(dtype)
    whole = _core.math(name, x)
    for length in range(x.size):
        np.testing.assert_array_equal(_core.math(name, x[:length].copy()), whole[:length])
        np.testing.assert_array_equal(_core.math(name, x[length:].copy()), whole[length:])


def digests():
    """Of what this process computes, one of all NaNs."""
    found = {}
    for name in NAMES:
        for dtype in DTYPES:
            y = _core.math(name, samples(dtype))
            y[np.isnan(y)] = np.nan
            found[f"{name}-{dtype.__name__}"] = hashlib.sha256(y.tobytes()).hexdigest()
    return found


@pytest.mark.parametrize("isa", OTHERS)
def test_instruction_sets_agree(isa):
    """Also where results are subnormal or overflow: AVX-512 scales by an instruction, others by two products."""
    assert digest_under("test_math", isa) == digests()


if __name__ == "__main__":
    print(json.dumps(digests()))
