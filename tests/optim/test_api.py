"""What a user meets: forms of parameters, groups, records of a step, saved states, copies."""

import copy
import doctest
import importlib
import math
import pickle
import pkgutil

import fusedstep.optim
import numpy as np
import pytest
from fusedstep.optim import OPTIMIZERS, Adam, AdamW, RMSprop, StepInfo

from .methods import Method, Mirror, assert_same_bits, normal
from .peers import torch_optimizer


def draw(dtype=np.float32, shapes=((3, 4), (5,)), seed=0):
    rng = np.random.default_rng(seed)
    return [normal(rng, shape, dtype) for shape in shapes]


def copies(arrays):
    return [a.copy() for a in arrays]


def assert_same(actual, desired):
    for a, d in zip(actual, desired, strict=True):
        assert_same_bits(a, d)


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
    assert dict(group) == {"params": [p], **method.hyper}
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


# ---- states


def test_state_dict_is_a_copy_in_torchs_layout(method):
    p = np.ones(3)
    optimizer = method.optimizer([p])
    optimizer.step([np.ones(3)])
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups"}
    assert set(state["state"][0]) == {"step", *method.state_names}
    assert state["state"][0]["step"] == 1
    assert state["param_groups"] == [{**method.hyper, "params": [0]}]
    before = copy.deepcopy(state)
    optimizer.step([np.ones(3)])
    optimizer.lr = 0.7
    for name in method.state_names:
        assert_same_bits(state["state"][0][name], before["state"][0][name])
    assert state["param_groups"] == before["param_groups"]


def reloaded(optimizer, method, params):
    fresh = method.optimizer(params)
    fresh.lr = 0.9
    fresh.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    return fresh


# How an optimizer may be taken up again, given it, its method and copies of its parameters.
RESUMED = {
    "state_dict": reloaded,
    "pickle": lambda optimizer, *_: pickle.loads(pickle.dumps(optimizer)),
    "deepcopy": lambda optimizer, *_: copy.deepcopy(optimizer),
}


@pytest.mark.parametrize("how", RESUMED)
def test_resumed_equals_uninterrupted(how, variant, dtype):
    params = draw(dtype)
    mirror = Mirror(variant, params)
    optimizer = variant.optimizer(params)
    for seed in range(2):
        optimizer.step(draw(dtype, seed=seed))
        mirror.step(draw(dtype, seed=seed))
    optimizer.step([draw(dtype)[0], None])
    mirror.step([draw(dtype)[0], None])
    at_save = copies(params)
    other = RESUMED[how](optimizer, variant, copies(params))
    for seed in range(2, 4):
        other.step(draw(dtype, seed=seed))
        mirror.step(draw(dtype, seed=seed))
    mirror.assert_equals(other.param_groups[0]["params"], other)
    assert_same(params, at_save)
    assert dict(other.param_groups[0]).keys() == dict(optimizer.param_groups[0]).keys()
    assert all(other.param_groups[0][key] == value for key, value in variant.hyper.items())


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_copy_with_its_parameters_stays_connected(how):
    p = np.ones(3)
    pair = {"w": p, "optimizer": Adam({"w": p}, lr=0.1)}
    other = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    other["optimizer"].step({"w": np.ones(3)})
    np.testing.assert_allclose(other["w"], 0.9)
    assert p.tolist() == [1, 1, 1]


def test_copy_keeps_groups_and_names():
    optimizer = AdamW([{"params": {"w": np.ones(2)}, "lr": 0.1}, {"params": {"b": np.ones(1)}, "lr": 0.2}])
    other = copy.deepcopy(optimizer)
    assert [group["lr"] for group in other.param_groups] == [0.1, 0.2]
    info = other.step({"b": np.array([np.inf]), "w": np.ones(2)}, check_finite=True)
    assert info.first_nonfinite == "b"


@pytest.mark.parametrize("to_torch", [False, True])
def test_state_goes_to_and_from_torch(variant, dtype, to_torch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    params = draw(dtype)
    theirs = [torch.tensor(p) for p in params]
    optimizer, other = variant.optimizer(params), torch_optimizer(variant, theirs)

    def step_ours(seed):
        optimizer.step(draw(dtype, seed=seed))

    def step_theirs(seed):
        for p, g in zip(theirs, draw(dtype, seed=seed), strict=True):
            p.grad = torch.tensor(g)
        other.step()

    for seed in range(3):
        step_ours(seed)
        step_theirs(seed)
    if to_torch:
        state = optimizer.state_dict()
        state["state"] = {
            i: {name: torch.tensor(value) for name, value in own.items()} for i, own in state["state"].items()
        }
        other.load_state_dict({**other.state_dict(), "state": state["state"]})
    else:
        optimizer.load_state_dict(other.state_dict())
    for p, q in zip(params, theirs, strict=True):
        q.copy_(torch.tensor(p))
    step_ours(3)
    step_theirs(3)
    tolerance = 64 * np.finfo(dtype).eps
    for p, q in zip(params, theirs, strict=True):
        np.testing.assert_allclose(p, q.numpy(), rtol=tolerance, atol=tolerance * variant.hyper["lr"])
    assert [own["step"] for own in optimizer.state] == [4, 4]


def test_torch_state_with_scheduler_and_no_steps_loads(method):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    other = torch_optimizer(method, [torch.ones(3, dtype=torch.float64)])
    torch.optim.lr_scheduler.OneCycleLR(other, max_lr=0.5, total_steps=10, cycle_momentum=False)
    optimizer = method.optimizer([np.ones(3)])
    optimizer.step([np.ones(3)])
    optimizer.load_state_dict(other.state_dict())
    assert optimizer.state[0]["step"] == 0
    assert math.isclose(optimizer.lr, 0.02)
    for name, start in zip(method.state_names, method.states(np.ones(3)), strict=True):
        assert_same_bits(optimizer.state[0][name], start)


@pytest.mark.parametrize("indexed", [False, True])
def test_state_of_names_loads_by_name(indexed):
    """Ours has indices and names, as torch's; one whose indices are the names is taken too."""
    first = Adam({"w": np.ones(2), "b": np.ones(2)})
    first.step({"w": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])})
    saved = first.state_dict()
    if not indexed:
        group = {key: value for key, value in saved["param_groups"][0].items() if key != "param_names"}
        saved = {
            "state": {"w": saved["state"][0], "b": saved["state"][1]},
            "param_groups": [{**group, "params": ["w", "b"]}],
        }
    second = Adam({"b": np.ones(2), "w": np.ones(2)})
    second.load_state_dict(saved)
    assert_same_bits(second.state[1]["exp_avg"], first.state[0]["exp_avg"])
    assert_same_bits(second.state[0]["exp_avg"], first.state[1]["exp_avg"])


def test_state_is_aligned_to_cache_lines(method):
    optimizer = method.optimizer([np.zeros(n, np.float32) for n in (1, 3, 1000, 600_000)])
    for own in optimizer.state:
        for name in method.state_names:
            assert own[name].ctypes.data % 64 == 0


def test_rmsprop_momentum_may_change_between_nonzero_values():
    optimizer = RMSprop(np.ones(2), momentum=0.9)
    optimizer.momentum = 0.5
    assert optimizer.momentum == 0.5


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
