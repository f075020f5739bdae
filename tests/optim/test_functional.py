"""The functional forms: they refuse wrong input before they change anything."""

import math

import numpy as np
import pytest
from fusedstep.optim import adagrad_step, adam_step, adamw_step, rmsprop_step

from .refusal import float32, misaligned, read_only, refused

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
