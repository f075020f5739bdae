"""Wrong hyperparameters and saved states raise one clear error that names them, and change nothing."""

import math

import numpy as np
import pytest
from fusedstep.optim import Adagrad, Adam, AdamW, RMSprop
from fusedstep.optim import _hyper as checks

from .methods import defaults
from .refusal import float32, refused

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


def test_misspelt_attribute():
    opt = Adam(float32(3))
    with pytest.raises(AttributeError, match="learning_rate"):
        opt.learning_rate = 0.5


@pytest.mark.parametrize(
    ("cls", "name", "old", "new"),
    [
        (Adam, "amsgrad", False, True),
        (AdamW, "amsgrad", True, False),
        (RMSprop, "centered", False, True),
        (RMSprop, "momentum", 0.0, 0.9),
        (RMSprop, "momentum", 0.9, 0.0),
        (Adagrad, "initial_accumulator_value", 0.0, 0.1),
    ],
)
def test_option_that_decides_the_states_stays(cls, name, old, new):
    groups = [{"params": float32(2), name: new}, {"params": float32(2), name: old}]
    optimizer = cls(groups)
    with pytest.raises(ValueError, match=f"^{name} decides the states at construction: it was {old!r}.* got {new!r}"):
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
