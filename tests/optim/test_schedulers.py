"""Schedulers: torch's learning rates, closed forms, resuming, and refusal of wrong arguments."""

import itertools
import math
import pickle

import numpy as np
import pytest
from fusedstep.optim import Adam, CosineWarmupLR, OneCycleLR, ReduceLROnPlateau, StepLR

SCHEDULERS = {
    "step": lambda optimizer: StepLR(optimizer, step_size=3, gamma=0.5),
    "cosine": lambda optimizer: CosineWarmupLR(optimizer, total_steps=20, warmup_steps=4, min_lr=1e-4),
    "one_cycle": lambda optimizer: OneCycleLR(optimizer, max_lr=0.5, total_steps=20),
}
METRICS = [1.0, 0.9, 0.9, 0.91, 0.95, 0.9, math.nan, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.49999, 0.49998, 0.3]


def adam(*rates):
    return Adam([{"params": np.zeros(2), "lr": lr} for lr in rates])


def rates(schedule, steps, optimize=lambda: None):
    """Learning rates of the first group, before each step and after the last. torch wants to optimize in between."""
    seen = []
    for _ in range(steps):
        seen.append(schedule.optimizer.param_groups[0]["lr"])
        optimize()
        schedule.step()
    return [*seen, schedule.optimizer.param_groups[0]["lr"]]


@pytest.fixture
def torch_optimizer():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return torch.optim.Adam([torch.zeros(2)], lr=0.1)


@pytest.mark.parametrize("step_size", [1, 3, 100])
def test_step_equals_torch(step_size, torch_optimizer):
    from torch.optim import lr_scheduler

    theirs = rates(lr_scheduler.StepLR(torch_optimizer, step_size, gamma=0.7), 20, torch_optimizer.step)
    np.testing.assert_allclose(rates(StepLR(adam(0.1), step_size, gamma=0.7), 20), theirs, rtol=1e-12)


@pytest.mark.parametrize("pct_start", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("total_steps", [20, 137])
def test_one_cycle_equals_torch(pct_start, total_steps, torch_optimizer):
    from torch.optim import lr_scheduler

    theirs = lr_scheduler.OneCycleLR(
        torch_optimizer, max_lr=0.5, total_steps=total_steps, pct_start=pct_start, cycle_momentum=False
    )
    ours = OneCycleLR(adam(0.1), max_lr=0.5, total_steps=total_steps, pct_start=pct_start)
    desired = rates(theirs, total_steps - 1, torch_optimizer.step)
    np.testing.assert_allclose(rates(ours, total_steps - 1), desired, rtol=1e-12)


def test_cosine_equals_torch_without_warm_up(torch_optimizer):
    from torch.optim import lr_scheduler

    theirs = rates(lr_scheduler.CosineAnnealingLR(torch_optimizer, T_max=20, eta_min=0.01), 20, torch_optimizer.step)
    np.testing.assert_allclose(rates(CosineWarmupLR(adam(0.1), 20, min_lr=0.01), 20), theirs, rtol=1e-9)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("options", [{"patience": 0}, {"patience": 2}, {"patience": 1, "cooldown": 2, "min_lr": 0.03}])
def test_plateau_equals_torch(mode, options, torch_optimizer):
    from torch.optim import lr_scheduler

    theirs = lr_scheduler.ReduceLROnPlateau(torch_optimizer, mode=mode, factor=0.5, **options)
    optimizer = adam(0.1)
    ours = ReduceLROnPlateau(optimizer, mode=mode, factor=0.5, **options)
    for metric in METRICS:
        theirs.step(metric)
        ours.step(metric)
        assert math.isclose(optimizer.lr, torch_optimizer.param_groups[0]["lr"], rel_tol=1e-12)


def test_cosine_rises_to_the_base_rate_and_falls_to_the_least():
    seen = rates(CosineWarmupLR(adam(1.0), total_steps=20, warmup_steps=4, min_lr=0.1), 30)
    assert seen[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(a >= b for a, b in itertools.pairwise(seen[4:]))
    assert math.isclose(seen[12], 0.55)
    assert all(math.isclose(lr, 0.1) for lr in seen[20:])


def test_one_cycle_keeps_its_last_rate():
    seen = rates(OneCycleLR(adam(0.1), max_lr=0.5, total_steps=10, div_factor=5, final_div_factor=100), 15)
    assert math.isclose(seen[0], 0.1)
    assert math.isclose(max(seen), 0.5)
    assert all(math.isclose(lr, 0.001) for lr in seen[9:])


@pytest.mark.parametrize("name", ["step", "cosine"])
def test_groups_keep_their_proportion(name):
    optimizer = adam(0.1, 0.4)
    schedule = SCHEDULERS[name](optimizer)
    schedule.step()
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert math.isclose(second, 4 * first, rel_tol=1e-3)


def test_plateau_multiplies_every_group_and_never_raises_a_rate():
    optimizer = adam(1.0, 0.01)
    schedule = ReduceLROnPlateau(optimizer, patience=0, min_lr=0.05)
    for _ in range(5):
        schedule.step(1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.01]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_resumed_equals_uninterrupted(name):
    desired = rates(SCHEDULERS[name](adam(0.1)), 19)
    first = SCHEDULERS[name](adam(0.1))
    seen = rates(first, 7)
    resumed = SCHEDULERS[name](adam(0.9))
    resumed.load_state_dict(first.state_dict())
    assert seen[:-1] + rates(resumed, 12) == desired


def test_resumed_plateau_equals_uninterrupted():
    def run(schedule, metrics):
        return [schedule.step(metric) or schedule.optimizer.lr for metric in metrics]

    def make(optimizer):
        return ReduceLROnPlateau(optimizer, patience=1, cooldown=1)

    desired = run(make(adam(0.1)), METRICS)
    first = make(adam(0.1))
    seen = run(first, METRICS[:9])
    resumed = make(adam(first.optimizer.lr))
    resumed.load_state_dict(first.state_dict())
    assert seen + run(resumed, METRICS[9:]) == desired


@pytest.mark.parametrize("name", SCHEDULERS)
def test_pickles_with_its_optimizer(name):
    schedule = SCHEDULERS[name](adam(0.1))
    copy = pickle.loads(pickle.dumps(schedule))
    assert rates(copy, 5) == rates(schedule, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: StepLR(o, 0), "step_size .* 0"),
        (lambda o: StepLR(o, 2.5), "step_size .* 2.5"),
        (lambda o: StepLR(o, 2, gamma=math.nan), "gamma .* nan"),
        (lambda o: CosineWarmupLR(o, 0), "total_steps .* 0"),
        (lambda o: CosineWarmupLR(o, 10, warmup_steps=10), "warmup_steps .* 10"),
        (lambda o: CosineWarmupLR(o, 10, min_lr=-1.0), "min_lr .* -1.0"),
        (lambda o: OneCycleLR(o, max_lr=0.0, total_steps=10), "max_lr .* 0.0"),
        (lambda o: OneCycleLR(o, max_lr=1.0, total_steps=1), "total_steps .* 1"),
        (lambda o: OneCycleLR(o, max_lr=1.0, total_steps=10, pct_start=1.5), "pct_start .* 1.5"),
        (lambda o: ReduceLROnPlateau(o, mode="least"), "mode .* 'least'"),
        (lambda o: ReduceLROnPlateau(o, factor=1.0), "factor .* 1.0"),
        (lambda o: ReduceLROnPlateau(o, patience=-1), "patience .* -1"),
        (lambda o: ReduceLROnPlateau(o, threshold=math.nan), "threshold .* nan"),
    ],
)
def test_wrong_argument_raises_and_sets_nothing(make, message):
    optimizer = adam(0.1)
    with pytest.raises(ValueError, match=message):
        make(optimizer)
    assert optimizer.lr == 0.1


@pytest.mark.parametrize("name", SCHEDULERS)
def test_wrong_state_raises_and_sets_nothing(name):
    schedule = SCHEDULERS[name](adam(0.1))
    before = schedule.state_dict(), schedule.optimizer.lr
    for wrong in ({"count": -1}, {"base_lrs": [0.1, 0.2]}, {"base_lrs": [math.nan]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            schedule.load_state_dict({**schedule.state_dict(), **wrong})
    assert (schedule.state_dict(), schedule.optimizer.lr) == before
