"""What a user meets: forms of parameters, groups, records of a step, saved states, copies."""

import doctest
import importlib
import math
import pkgutil

import fusedstep.optim
import numpy as np
import pytest
from fusedstep.optim import OPTIMIZERS, Adam, RMSprop, StepInfo

from .methods import Method, Mirror, assert_same, copies, draw

# ---- forms of parameters and gradients


FORMS = {
    "list": (lambda p: p, lambda g: g),
    "tuple": (tuple, tuple),
    "iterator": (iter, list),
    "dict": (lambda p: dict(zip("wb", p, strict=True)), lambda g: dict(zip("bw", g[::-1], strict=True))),
    "groups": (lambda p: [{"params": p[:1]}, {"params": p[1:]}], list),
    "groups of an array": (lambda p: [{"params": p[0]}, {"params": p[1]}], tuple),
    "groups of names": (lambda p: [{"params": {"w": p[0]}}, {"params": {"b": p[1]}}], lambda g: {"w": g[0], "b": g[1]}),
    "an empty group": (lambda p: [{"params": p}, {"params": []}], list),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_parameters_takes_the_same_step(form, method):
    params, grads = draw(), draw(seed=1)
    mirror = Mirror(method, params)
    mirror.step(grads)
    of_params, of_grads = FORMS[form]
    optimizer = method.optimizer(of_params(params))
    assert optimizer.step(of_grads(grads)).applied
    mirror.assert_equals(params, optimizer)


def test_single_array_takes_a_single_gradient(method):
    (p,), (g,) = draw(shapes=[(7,)]), draw(shapes=[(7,)], seed=1)
    mirror = Mirror(method, [p])
    mirror.step([g])
    optimizer = method.optimizer(p)
    optimizer.step(g)
    mirror.assert_equals([p], optimizer)
    assert optimizer.param_groups[0]["params"][0] is p


def test_dtypes_mix_in_one_optimizer(method):
    params, grads = draw(np.float32) + draw(np.float64), draw(np.float32, seed=1) + draw(np.float64, seed=1)
    mirror = Mirror(method, params)
    mirror.step(grads)
    optimizer = method.optimizer(params)
    optimizer.step(grads)
    mirror.assert_equals(params, optimizer)


def test_empty_array_is_noop(method):
    p = np.zeros((0, 3), np.float32)
    optimizer = method.optimizer([p, np.zeros(0)])
    info = optimizer.step([np.zeros((0, 3), np.float32), np.zeros(0)], max_norm=1.0, zero_grads=True)
    assert (info.norm, info.applied) == (0.0, True)


def test_none_leaves_parameter_and_step_count_alone(method):
    params = draw()
    mirror = Mirror(method, params)
    optimizer = method.optimizer(params)
    for seed, given in enumerate([(True, True), (False, True), (True, False), (False, False), (True, True)]):
        grads = [g if there else None for g, there in zip(draw(seed=seed), given, strict=True)]
        optimizer.step(grads)
        mirror.step(grads)
    assert mirror.steps == [3, 3]
    mirror.assert_equals(params, optimizer)


def test_none_alone_steps_nothing():
    p = np.ones(2)
    optimizer = Adam(p)
    assert optimizer.step(None, check_finite=True) == (0.0, True, None)
    assert optimizer.state[0]["step"] == 0


# ---- hyperparameters and groups


def test_groups_have_their_own_hyperparameters():
    params, grads = draw(), draw(seed=1)
    desired = copies(params)
    for p, g, options in zip(desired, grads, [{"lr": 0.1}, {"betas": (0.5, 0.9), "maximize": True}], strict=True):
        Adam(p, **{"lr": 0.01, "weight_decay": 0.1, **options}).step(g)
    groups = [{"params": [params[0]], "lr": 0.1}, {"params": [params[1]], "betas": (0.5, 0.9), "maximize": True}]
    optimizer = Adam(groups, lr=0.01, weight_decay=0.1)
    optimizer.step(grads)
    assert_same(params, desired)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]


@pytest.mark.parametrize("through_group", [False, True])
def test_hyperparameters_may_change_between_steps(variant, through_group):
    """Set to others and back; each step has those of its time."""
    params = draw()
    mirror = Mirror(variant, params)
    optimizer = variant.optimizer(params)
    for seed, changes in enumerate([{"lr": 0.5, "eps": 0.3}, {"weight_decay": 0.7}, {"lr": 0.0}, {"maximize": True}]):
        for name, value in changes.items():
            if through_group:
                optimizer.param_groups[0][name] = value
            else:
                setattr(optimizer, name, value)
            assert optimizer.param_groups[0][name] == getattr(optimizer, name) == value
        mirror.method = Method(variant.name, {**mirror.method.options, **changes})
        grads = draw(seed=seed)
        optimizer.step(grads)
        mirror.step(grads)
    mirror.assert_equals(params, optimizer)


def test_attribute_stands_for_every_group():
    optimizer = Adam([{"params": p, "lr": lr} for p, lr in zip(draw(), (0.1, 0.2), strict=True)])
    assert optimizer.betas == (0.9, 0.999)
    with pytest.raises(ValueError, match=r"lr differs .* param_groups\[i\]\['lr'\]"):
        _ = optimizer.lr
    optimizer.lr = 0.3
    assert optimizer.lr == 0.3
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.3]


def test_group_is_a_mapping_of_its_hyperparameters(method):
    p = np.ones(3)
    group = method.optimizer(p).param_groups[0]
    assert dict(group) == {"params": [p], **method.hyper, "master": False}
    assert len(group) == len(list(group))
    assert "lr" in group
    assert "learning_rate" not in group
    group.update(lr=0.25)
    assert group["lr"] == 0.25
    assert "lr=0.25" in repr(group)


def test_repr_shows_the_method_and_its_hyperparameters(method):
    text = repr(method.optimizer(np.ones(3)))
    assert text.startswith(method.cls.__name__)
    assert "lr=" in text


def test_rmsprop_momentum_may_change_between_nonzero_values():
    optimizer = RMSprop(np.ones(2), momentum=0.9)
    optimizer.momentum = 0.5
    assert optimizer.momentum == 0.5


def test_numpy_numbers_are_hyperparameters():
    optimizer = Adam(np.ones(2), lr=np.float64(0.5), betas=[np.float64(0.5), 0], maximize=np.bool_(True))
    assert (optimizer.lr, optimizer.betas, optimizer.maximize) == (0.5, (0.5, 0.0), True)


# ---- the record of a step


def test_info_has_norm_only_where_it_is_computed():
    optimizer = Adam([np.zeros(2), np.zeros(1)])
    grads = [np.array([3.0, 0.0]), np.array([4.0])]
    assert optimizer.step(grads) == (None, True, None)
    assert optimizer.step(grads, check_finite=True) == (5.0, True, None)
    info = optimizer.step(grads, max_norm=1.0, grad_scale=2.0)
    assert isinstance(info, StepInfo)
    assert (info.norm, info.applied, info.first_nonfinite) == (2.5, True, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "options", [{"max_norm": 1.0}, {"check_finite": True}, {"check_finite": True, "zero_grads": True}]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nonfinite_gradient_changes_nothing_and_is_named(bad, options, dtype, method):
    shapes = [(3,), (200,), (7,)]
    params, grads = draw(dtype, shapes), draw(dtype, shapes, seed=1)
    mirror = Mirror(method, params)
    optimizer = method.optimizer(params)
    optimizer.step(grads)
    mirror.step(grads)
    wrong = copies(grads)
    wrong[1][150] = wrong[2][0] = bad
    before = copies(wrong)
    info = optimizer.step(wrong, **options)
    assert (info.applied, info.first_nonfinite) == (False, 1)
    assert not math.isfinite(info.norm)
    assert_same(wrong, before)
    mirror.assert_equals(params, optimizer)
    info = optimizer.step([wrong[0], None, wrong[2]], **options)
    assert (info.applied, info.first_nonfinite) == (False, 2)
    assert optimizer.step(grads, check_finite=True).applied
    mirror.step(grads)
    mirror.assert_equals(params, optimizer)


def test_nonfinite_gradient_is_named_by_its_key():
    optimizer = Adam({"w": np.ones(2), "b": np.ones(1)})
    info = optimizer.step({"w": np.ones(2), "b": np.array([np.nan])}, check_finite=True)
    assert info.first_nonfinite == "b"


def test_nan_propagates_without_a_check(method):
    p = np.ones(3)
    info = method.optimizer(p).step(np.array([1.0, np.nan, 1.0]))
    assert info == (None, True, None)
    assert np.isnan(p).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_finite_gradients_are_finite(dtype):
    large = {np.float32: 3e38, np.float64: 1e200}[dtype]
    p = np.zeros(10_000, dtype)
    info = Adam(p, lr=0.1).step(np.full_like(p, large), max_norm=1.0)
    assert info.applied
    assert math.isclose(info.norm, 100 * float(dtype(large)), rel_tol=1e-12)
    assert np.isfinite(p).all()


# ---- documentation


@pytest.mark.parametrize("module", [name for _, name, _ in pkgutil.iter_modules(fusedstep.optim.__path__)])
def test_docstring_examples(module):
    result = doctest.testmod(importlib.import_module(f"fusedstep.optim.{module}"))
    assert result.failed == 0


def test_every_method_and_function_has_an_example():
    public = [getattr(fusedstep.optim, name) for name in fusedstep.optim.__all__]
    wanted = [
        *OPTIMIZERS.values(),
        *(f for f in public if callable(f) and getattr(f, "__name__", "").endswith("_step")),
    ]
    assert all(">>>" in f.__doc__ for f in wanted)
