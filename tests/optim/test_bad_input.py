"""Wrong input raises one clear error that names the argument and the value, and leaves every array as it was."""

import contextlib
import math
import re

import numpy as np
import pytest
from fusedstep.optim import Adagrad, Adam, AdamW, RMSprop, adagrad_step, adam_step, adamw_step, rmsprop_step
from fusedstep.optim import _hyper as checks

from .methods import defaults


@contextlib.contextmanager
def refused(error, message, *arrays):
    """The body raises `error` with a message that begins so, and changes no byte of the arrays."""
    before = [a.tobytes() for a in arrays]
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        yield
    assert [a.tobytes() for a in arrays] == before


def misaligned(n):
    return np.frombuffer(bytearray(4 * n + 1), np.uint8)[1:].view(np.float32)


def read_only(n):
    array = np.ones(n, np.float32)
    array.flags.writeable = False
    return array


def float32(*shape):
    return np.ones(shape, np.float32)


class Unshared:
    """Its memory cannot be shared: every export is a copy."""

    def __array__(self, dtype=None, copy=None):
        return np.ones(5, np.float32)


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
    ("grad_scale", 0.0, ValueError),
    ("grad_scale", math.nan, ValueError),
    ("grad_scale", math.inf, ValueError),
    ("grad_scale", None, TypeError),
    ("grad_scale", "1", TypeError),
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


# ---- hyperparameters

# By kind: numbers out of range, and what is no number (or no flag, or no pair).
OUT_OF_RANGE = {
    checks.nonnegative: [-1.0, math.nan, math.inf],
    checks.unit: [-0.1, 1.1, math.nan],
    checks.betas: [(0.9, 1.0), (-0.1, 0.9), (math.nan, 0.9)],
    checks.flag: [],
}
NO_NUMBER = {
    checks.nonnegative: [True, "0.1", None, 1j],
    checks.unit: [False, "0", [0.5]],
    checks.betas: [0.9, (0.9,), (0.9, 0.9, 0.9), (0.9, "0.9"), None],
    checks.flag: [1, 0.0, None, "True"],
}
HYPERS = [
    pytest.param(cls, name, value, error, id=f"{cls.__name__}-{name}-{value!r}")
    for cls in (Adam, AdamW, RMSprop, Adagrad)
    for name in defaults(cls)
    for error, values in ((ValueError, OUT_OF_RANGE), (TypeError, NO_NUMBER))
    for value in values[cls.hyper(name).check]
]


@pytest.mark.parametrize(("cls", "name", "value", "error"), HYPERS)
def test_wrong_hyperparameter(cls, name, value, error):
    """To the constructor, in a group, set on a group, set on the optimizer."""
    p = float32(3)
    with pytest.raises(error, match="beta" if name == "betas" else name):
        cls(p, **{name: value})
    with pytest.raises(error, match="beta" if name == "betas" else name):
        cls([{"params": p, name: value}])
    optimizer = cls(p)
    before = dict(optimizer.param_groups[0])
    with pytest.raises(error, match="beta" if name == "betas" else name):
        optimizer.param_groups[0][name] = value
    with pytest.raises(error, match="beta" if name == "betas" else name):
        setattr(optimizer, name, value)
    assert dict(optimizer.param_groups[0]) == before


def test_message_names_the_value_and_the_range():
    with pytest.raises(ValueError, match=r"^beta2 must be in \[0, 1\), got 1\.0$"):
        Adam(float32(2), betas=(0.9, 1.0))
    with pytest.raises(ValueError, match=r"^lr must be finite and at least 0, got nan$"):
        Adam(float32(2), lr=math.nan)
    with pytest.raises(TypeError, match=r"^amsgrad must be True or False, got 1$"):
        Adam(float32(2), amsgrad=1)


def test_unknown_hyperparameter(method):
    optimizer = method.optimizer(float32(2))
    with pytest.raises(KeyError, match=r"no hyperparameter 'learning_rate'; there are .*lr"):
        optimizer.param_groups[0]["learning_rate"] = 0.1
    with pytest.raises(KeyError, match="no hyperparameter 'learning_rate'"):
        method.cls([{"params": float32(2), "learning_rate": 0.1}])
    with pytest.raises(KeyError, match="no hyperparameter 'step'"):
        optimizer.param_groups[0]["step"] = 1
    with pytest.raises(TypeError, match="params"):
        optimizer.param_groups[0]["params"] = []
    with pytest.raises(TypeError, match="lr"):
        del optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("cls", "name", "old", "new"),
    [
        (Adam, "amsgrad", False, True),
        (AdamW, "amsgrad", True, False),
        (RMSprop, "centered", False, True),
        (RMSprop, "momentum", 0.0, 0.9),
        (RMSprop, "momentum", 0.9, 0.0),
    ],
)
def test_option_that_decides_the_states_stays(cls, name, old, new):
    groups = [{"params": float32(2), name: new}, {"params": float32(2), name: old}]
    optimizer = cls(groups)
    with pytest.raises(ValueError, match=f"^{name} decides which states there are: it was {old!r}.* got {new!r}"):
        optimizer.param_groups[1][name] = new
    with pytest.raises(ValueError, match=f"^{name} decides"):
        setattr(optimizer, name, new)
    assert [group[name] for group in optimizer.param_groups] == [new, old]


# ---- saved states


def saved():
    """A state of Adam over two arrays, and its parts for replacement."""
    optimizer = Adam([float32(2, 3), float32(4)])
    optimizer.step([float32(2, 3), float32(4)])
    return optimizer.state_dict()


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


def with_state(index, **changes):
    state = saved()
    state["state"][index].update(changes)
    return state


def with_group(**changes):
    state = saved()
    state["param_groups"][0].update(changes)
    return state


STATES = {
    "groups": (
        lambda: {**saved(), "param_groups": saved()["param_groups"] * 2},
        ValueError,
        "param_groups: expected 1 groups, got 2",
    ),
    "params": (lambda: with_group(params=[0]), ValueError, "param_groups[0]: expected 2 params, got 1"),
    "shape": (
        lambda: with_state(1, exp_avg=float32(5)),
        ValueError,
        "state[1]['exp_avg']: expected shape (4,), got (5,)",
    ),
    "scalar": (lambda: with_state(1, exp_avg=0.5), TypeError, "state[1]['exp_avg']: expected a float32"),
    "text": (lambda: with_state(1, exp_avg=np.array(list("abcd"))), TypeError, "state[1]['exp_avg']: expected"),
    "objects": (lambda: with_state(1, exp_avg=np.array([None] * 4)), TypeError, "state[1]['exp_avg']: expected"),
    "complex": (lambda: with_state(1, exp_avg=np.ones(4, complex)), TypeError, "state[1]['exp_avg']: expected"),
    "missing": (
        lambda: {**saved(), "state": {**saved()["state"], 1: without(saved()["state"][1], "exp_avg")}},
        ValueError,
        "state[1]: expected ('step', 'exp_avg', 'exp_avg_sq'), got ('step', 'exp_avg_sq')",
    ),
    "step missing": (
        lambda: {**saved(), "state": {**saved()["state"], 1: without(saved()["state"][1], "step")}},
        ValueError,
        "state[1]: expected",
    ),
    "negative step": (
        lambda: with_state(1, step=-1),
        ValueError,
        "state[1]['step'] must be an integer from 0 on, got -1",
    ),
    "NaN step": (
        lambda: with_state(1, step=math.nan),
        ValueError,
        "state[1]['step'] must be an integer from 0 on, got nan",
    ),
    "half step": (
        lambda: with_state(1, step=1.5),
        ValueError,
        "state[1]['step'] must be an integer from 0 on, got 1.5",
    ),
    "no step": (
        lambda: with_state(1, step=None),
        TypeError,
        "state[1]['step'] must be a number, got None",
    ),
    "hyperparameter": (lambda: with_group(lr=-1.0), ValueError, "lr must be finite and at least 0, got -1.0"),
    "unknown hyperparameter": (lambda: with_group(momentum=0.9), KeyError, "\"Adam has no hyperparameter 'momentum'"),
    "other states": (lambda: with_group(amsgrad=True), ValueError, "param_groups[0]: its options need other states"),
}


@pytest.mark.parametrize("case", STATES)
def test_wrong_state_dict(case):
    make, error, message = STATES[case]
    optimizer = Adam([float32(2, 3), float32(4)], lr=0.1)
    states = [own[name] for own in optimizer.state for name in ("exp_avg", "exp_avg_sq")]
    before = dict(optimizer.param_groups[0])
    state = make()
    state["param_groups"][0].setdefault("lr", 0.5)
    with refused(error, message, *states):
        optimizer.load_state_dict(state)
    assert [own["step"] for own in optimizer.state] == [0, 0]
    assert all(optimizer.param_groups[0][key] == value for key, value in before.items() if key != "params")


# ---- functional forms

FUNCTIONS = {
    adam_step: ("m", "v"),
    adamw_step: ("m", "v", "max_v"),
    rmsprop_step: ("square_avg",),
    adagrad_step: ("sum",),
}


def arguments(function):
    """Valid arrays by name, and the rest of a call."""
    arrays = {name: float32(5) for name in ("p", "g", *FUNCTIONS[function])}
    return arrays, {} if function is rmsprop_step else {"step": 1}


WRONG_ARRAYS = {
    "shape": (lambda: float32(6), ValueError),
    "dtype": (lambda: np.ones(5), TypeError),
    "integer": (lambda: np.ones(5, int), TypeError),
    "list": (lambda: [1.0] * 5, TypeError),
    "None": (lambda: None, TypeError),
    "strided": (lambda: float32(10)[::2], ValueError),
    "misaligned": (lambda: misaligned(5), ValueError),
    "read-only": (lambda: read_only(5), ValueError),
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_wrong_array_of_functional_form(function, case):
    make, error = WRONG_ARRAYS[case]
    arrays, rest = arguments(function)
    for name in arrays:
        wrong = {**arrays, name: make()}
        if (case == "read-only" and name == "g") or (case == "None" and name == "max_v"):
            function(**wrong, **rest)
            continue
        at_fault = "g" if name == "p" and case in ("shape", "dtype") else name
        with refused(error, f"{at_fault}: expected", *arrays.values()):
            function(**wrong, **rest)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_overlapping_arrays_of_functional_form(function):
    arrays, rest = arguments(function)
    names = list(arrays)
    memory = float32(9)
    for i, second in enumerate(names):
        for first in names[:i]:
            wrong = {**arrays, first: memory[:5], second: memory[4:]}
            with refused(ValueError, f"{second}: expected memory of its own, got an overlap with {first}", memory):
                function(**wrong, **rest)


NUMBERS = [
    ("lr", math.nan, ValueError),
    ("lr", "1", TypeError),
    ("eps", -1.0, ValueError),
    ("maximize", 1, TypeError),
    ("grad_scale", 0.0, ValueError),
    ("grad_scale", math.nan, ValueError),
    ("grad_scale", None, TypeError),
    ("step", 0, ValueError),
    ("step", 1.5, ValueError),
    ("step", True, ValueError),
    ("step", None, ValueError),
]


@pytest.mark.parametrize(
    ("function", "name", "value", "error"),
    [
        pytest.param(function, *number, id=f"{function.__name__}-{number[0]}-{number[1]!r}")
        for function in FUNCTIONS
        for number in NUMBERS
        if number[0] != "step" or function is not rmsprop_step  # which has no step count
    ],
)
def test_wrong_number_of_functional_form(function, name, value, error):
    arrays, rest = arguments(function)
    with refused(error, f"{name} must be", *arrays.values()):
        function(**arrays, **{**rest, name: value})


def test_momentum_and_its_buffer_go_together():
    arrays, _ = arguments(rmsprop_step)
    with refused(ValueError, "momentum_buffer: expected an array exactly where momentum is not 0", *arrays.values()):
        rmsprop_step(**arrays, momentum=0.9)
    with refused(ValueError, "momentum_buffer: expected an array exactly where momentum is not 0", *arrays.values()):
        rmsprop_step(**arrays, momentum_buffer=float32(5))
