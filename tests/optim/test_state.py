"""Saved states and copies: an optimizer goes on from them as if it had not stopped, also to and from torch."""

import copy
import math
import pickle

import numpy as np
import pytest
from fusedstep.optim import Adam, AdamW

from .methods import Mirror, assert_same, assert_same_bits, copies, draw
from .peers import torch_optimizer


def test_state_dict_is_a_copy_in_torchs_layout(method):
    p = np.ones(3)
    optimizer = method.optimizer([p])
    optimizer.step([np.ones(3)])
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups"}
    assert set(state["state"][0]) == {"step", *method.state_names}
    assert state["state"][0]["step"] == 1
    assert state["param_groups"] == [{**method.hyper, "master": False, "params": [0]}]
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
def test_state_goes_to_and_from_torch(variant, to_torch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    params = draw(np.float64)
    theirs = [torch.tensor(p) for p in params]
    optimizer, other = variant.optimizer(params), torch_optimizer(variant, theirs)

    def step_ours(seed):
        optimizer.step(draw(np.float64, seed=seed))

    def step_theirs(seed):
        for p, g in zip(theirs, draw(np.float64, seed=seed), strict=True):
            p.grad = torch.tensor(g)
        other.step()

    for seed in range(3):  # one side has a past, and hands it to the other
        (step_ours if to_torch else step_theirs)(seed)
    if to_torch:
        states = {
            i: {name: torch.tensor(value) for name, value in own.items()}
            for i, own in optimizer.state_dict()["state"].items()
        }
        other.load_state_dict({**other.state_dict(), "state": states})
        for p, q in zip(params, theirs, strict=True):
            q.copy_(torch.tensor(p))
    else:
        optimizer.load_state_dict(other.state_dict())
        for p, q in zip(params, theirs, strict=True):
            p[...] = q.numpy()
    step_ours(3)
    step_theirs(3)
    tolerance = 64 * np.finfo(np.float64).eps
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
