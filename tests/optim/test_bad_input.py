"""Wrong gradients, options and parameters raise one clear error that names the argument and the value.

Every array is left as it was.
"""

import math
import re

import numpy as np
import pytest
from fusedstep.optim import Adam

from .refusal import Unshared, float32, misaligned, read_only, refused

# ---- gradients: each takes the place of grads[1], whose parameter has shape (5,)

GRADIENTS = {
    "shape": (float32(6), ValueError, "grads[1]: expected shape (5,), got (6,)"),
    "number of dimensions": (float32(5, 1), ValueError, "grads[1]: expected shape (5,), got (5, 1)"),
    "empty": (float32(0), ValueError, "grads[1]: expected shape (5,), got (0,)"),
    "zero-dimensional": (np.array(1.0, np.float32), ValueError, "grads[1]: expected shape (5,), got ()"),
    "float64": (np.ones(5), TypeError, "grads[1]: expected dtype float32, got float64"),
    "float16": (np.ones(5, np.float16), TypeError, "grads[1]: expected a float32 or float64 array, got dtype float16"),
    "integer": (np.ones(5, np.int32), TypeError, "grads[1]: expected a float32 or float64 array, got dtype int32"),
    "complex": (np.ones(5, complex), TypeError, "grads[1]: expected a float32 or float64 array, got dtype complex128"),
    "byte order": (np.ones(5, ">f4"), TypeError, "grads[1]: expected a float32 or float64 array, got dtype >f4"),
    "object": (np.ones(5, object), TypeError, "grads[1]: expected a float32 or float64 array, got dtype object"),
    "list": ([1.0] * 5, TypeError, "grads[1]: expected a float32 or float64 array in CPU memory, got list"),
    "number": (1.0, TypeError, "grads[1]: expected a float32 or float64 array in CPU memory, got float"),
    "NumPy number": (
        np.float32(1),
        TypeError,
        "grads[1]: expected a float32 or float64 array in CPU memory, got float32",
    ),
    "text": ("ones", TypeError, "grads[1]: expected a float32 or float64 array in CPU memory, got str"),
    "copy": (Unshared(), TypeError, "grads[1]: expected a float32 or float64 array in CPU memory, got Unshared"),
    "strided": (
        float32(10)[::2],
        ValueError,
        "grads[1]: expected a C-contiguous array, got shape (5,) with strides (8,)",
    ),
    "reversed": (
        float32(5)[::-1],
        ValueError,
        "grads[1]: expected a C-contiguous array, got shape (5,) with strides (-4,)",
    ),
    "broadcast": (np.broadcast_to(np.float32(1), 5), ValueError, "grads[1]: expected a C-contiguous array"),
    "misaligned": (misaligned(5), ValueError, "grads[1]: expected elements aligned to their size"),
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_wrong_gradient(case, method):
    gradient, error, message = GRADIENTS[case]
    params, first = [float32(4, 3), float32(5)], float32(4, 3)
    optimizer = method.optimizer(params)
    states = [own[name] for own in optimizer.state for name in method.state_names]
    for options in ({}, {"max_norm": 1.0}, {"zero_grads": True}):
        with refused(error, message, *params, *states, first):
            optimizer.step([first, gradient], **options)
    assert [own["step"] for own in optimizer.state] == [0, 0]
    assert optimizer.step([first, float32(5)]).applied


def test_transposed_gradient():
    p = float32(3, 4)
    with refused(ValueError, "grads: expected a C-contiguous array, got shape (3, 4) with strides (4, 12)", p):
        Adam(p).step(float32(4, 3).T)


FORMS = {
    "too few": ([0, 1], [float32(5)], ValueError, "grads: expected 2 arrays, got 1"),
    "too many": ([0, 1], [float32(5)] * 3, ValueError, "grads: expected 2 arrays, got 3"),
    "none": ([0, 1], [], ValueError, "grads: expected 2 arrays, got 0"),
    "array for a list": ([0, 1], float32(2, 5), TypeError, "grads: expected a list or tuple"),
    "None for a list": ([0, 1], None, TypeError, "grads: expected a list or tuple"),
    "dict for a list": ([0, 1], {0: float32(5)}, TypeError, "grads: expected a list or tuple"),
    "list for names": ("wb", [float32(5)] * 2, TypeError, "grads: expected a dict with the names of params, got list"),
    "missing name": ("wb", {"w": float32(5)}, ValueError, "grads: expected the names of params, got none for 'b'"),
    "other name": (
        "wb",
        {"w": float32(5), "b": float32(5), "x": float32(5)},
        ValueError,
        "grads: expected the names of params, got also 'x'",
    ),
    "shape by name": (
        "wb",
        {"w": float32(5), "b": float32(6)},
        ValueError,
        "grads['b']: expected shape (5,), got (6,)",
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_wrong_form_of_gradients(case, method):
    names, grads, error, message = FORMS[case]
    params = [float32(5), float32(5)]
    optimizer = method.optimizer(dict(zip(names, params, strict=True)) if isinstance(names, str) else params)
    with refused(error, message, *params):
        optimizer.step(grads)


OPTIONS = [
    ("max_norm", 0.0, ValueError),
    ("max_norm", -1.0, ValueError),
    ("max_norm", math.nan, ValueError),
    ("max_norm", "1", TypeError),
    ("max_norm", True, TypeError),
    ("grad_scale", 0.0, ValueError),
    ("grad_scale", math.nan, ValueError),
    ("grad_scale", math.inf, ValueError),
    ("grad_scale", None, TypeError),
    ("grad_scale", "1", TypeError),
    ("grad_scale", True, TypeError),
]


@pytest.mark.parametrize(("name", "value", "error"), OPTIONS)
def test_wrong_option_of_step(name, value, error, method):
    p, g = float32(5), float32(5)
    optimizer = method.optimizer(p)
    with refused(error, name, p, g):
        optimizer.step(g, **{name: value})
    with pytest.raises(error, match=re.escape(repr(value))):
        optimizer.step(g, **{name: value})


# ---- memory


def test_gradient_that_shares_memory_with_parameter_or_state(method):
    memory = float32(12)
    p, other = memory[:5], float32(5)
    optimizer = method.optimizer([p, other])
    states = [optimizer.state[1][name] for name in method.state_names]
    for wrong in (p, memory[4:9], *states):
        with refused(ValueError, "grads[1]: expected memory of its own, got an overlap", memory, other, *states):
            optimizer.step([float32(5), wrong])
    assert optimizer.step([float32(5), memory[5:10]]).applied


def test_gradients_that_share_memory_only_where_they_are_zeroed(method):
    params, memory = [float32(5), float32(5)], float32(9)
    optimizer = method.optimizer(params)
    grads = [memory[:5], memory[4:]]
    assert optimizer.step(grads).applied
    with refused(ValueError, "grads[1]: with zero_grads expected memory of its own", *params, memory):
        optimizer.step(grads, zero_grads=True)


def test_read_only_gradient_only_where_it_is_zeroed(method):
    p, g = float32(5), read_only(5)
    optimizer = method.optimizer([p])
    assert optimizer.step([g]).applied
    with refused(ValueError, "grads[0]: expected a writeable array, got a read-only one", p):
        optimizer.step([g], zero_grads=True)


def test_parameter_that_became_read_only(method):
    params = [float32(5), float32(5)]
    optimizer = method.optimizer(params)
    params[1].flags.writeable = False
    with refused(ValueError, "params[1]: expected a writeable array, got a read-only one", *params):
        optimizer.step([float32(5), float32(5)])
    params[1].flags.writeable = True
    assert optimizer.step([float32(5), float32(5)]).applied


# ---- parameters


SHARED = np.ones(9, np.float32)
PARAMS = {
    "no arrays": ([], ValueError, "params: expected at least one array, got none"),
    "no names": ({}, ValueError, "params: expected at least one array, got none"),
    "no arrays in groups": ([{"params": []}], ValueError, "params: expected at least one array, got none"),
    "None": (None, TypeError, "params: expected a float32 or float64 array in CPU memory, got NoneType"),
    "number": (1.0, TypeError, "params: expected a float32 or float64 array in CPU memory, got float"),
    "numbers": ([1.0, 2.0], TypeError, "params[0]: expected a float32 or float64 array in CPU memory, got float"),
    "lists": ([float32(2), [1.0]], TypeError, "params[1]: expected a float32 or float64 array in CPU memory, got list"),
    "integers": ([np.ones(2, int)], TypeError, "params[0]: expected a float32 or float64 array, got dtype int64"),
    "objects": (
        {"w": np.ones(2, object)},
        TypeError,
        "params['w']: expected a float32 or float64 array, got dtype object",
    ),
    "byte order": (np.ones(2, ">f8"), TypeError, "params: expected a float32 or float64 array, got dtype >f8"),
    "copy": ([Unshared()], TypeError, "params[0]: expected a float32 or float64 array in CPU memory, got Unshared"),
    "transposed": (float32(3, 4).T, ValueError, "params: expected a C-contiguous array, got shape (4, 3) with strides"),
    "strided": ([float32(9)[::2]], ValueError, "params[0]: expected a C-contiguous array, got shape (5,) with strides"),
    "misaligned": ([misaligned(5)], ValueError, "params[0]: expected elements aligned to their size"),
    "read-only": ([float32(5), read_only(5)], ValueError, "params[1]: expected a writeable array, got a read-only one"),
    "twice": ([SHARED, SHARED], ValueError, "params[1]: expected memory of its own, got an overlap with params[0]"),
    "overlap": (
        [SHARED[4:], float32(1), SHARED[:5]],
        ValueError,
        "params[0]: expected memory of its own, got an overlap",
    ),
    "overlap of groups": (
        [{"params": SHARED}, {"params": SHARED[:2]}],
        ValueError,
        "params[0]: expected memory of its own, got an overlap with params[1]",
    ),
    "a group and an array": (
        [{"params": float32(2)}, float32(2)],
        TypeError,
        "params: expected arrays or parameter groups",
    ),
    "a group without arrays": (
        [{"lr": 0.1}],
        ValueError,
        "params[0]: expected a parameter group with the key 'params'",
    ),
    "a name twice": (
        [{"params": {"w": float32(2)}}, {"params": {"w": float32(2)}}],
        ValueError,
        "params: expected every name once, got ['w', 'w']",
    ),
    "names in one group": (
        [{"params": {"w": float32(2)}}, {"params": float32(2)}],
        TypeError,
        "params: expected names in every parameter group or in none",
    ),
    "an array for groups of one dict": ({"params": [float32(2)]}, TypeError, "params['params']: expected a float32"),
}


@pytest.mark.parametrize("case", PARAMS)
def test_wrong_parameters(case, method):
    params, error, message = PARAMS[case]
    with refused(error, message, SHARED):
        method.cls(params)
