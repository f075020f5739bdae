"""Optimizers over CUDA arrays through the public interface: the bits of the same optimizer over NumPy's arrays."""

import copy
import inspect
import pickle

import numpy as np
import pytest
from fusedstep.optim import OPTIMIZERS, Adam, AdamW, CosineWarmupLR, StepInfo

from tests.cuda.foreign import bfloat16, from_bfloat16, to_bfloat16
from tests.optim.methods import METHODS, VARIANTS, Method, assert_same_bits, draw

SHAPES = [(3, 4), (4097,), (1,), (0,)]
STATEFUL = Method("adam", {"amsgrad": True})


def ids(method):
    return str(method)


class Pair:
    """The same optimizer over arrays of the CPU and of the device."""

    def __init__(self, cupy, make, arrays):
        self.cupy = cupy
        self.cpu = {name: a.copy() for name, a in arrays.items()}
        self.gpu = {name: cupy.array(a) for name, a in arrays.items()}
        self.on_cpu, self.on_gpu = make(self.cpu), make(self.gpu)

    def step(self, grads, **options):
        """A step of both; the CPU's StepInfo and the device's."""
        there = {name: None if g is None else self.cupy.array(g) for name, g in grads.items()}
        return self.on_cpu.step(grads, **options), self.on_gpu.step(there, **options)

    def assert_same(self):
        for name, p in self.cpu.items():
            assert_same_bits(self.gpu[name].get(), p, name)
        for a, b in zip(self.on_cpu.state, self.on_gpu.state, strict=True):
            assert a["step"] == b["step"]
            assert a.keys() == b.keys()
            for key in a.keys() - {"step"}:
                assert_same_bits(b[key].get(), a[key], key)


def named(arrays):
    return {f"p{i}": a for i, a in enumerate(arrays)}


def random(seed=0, dtype=np.float32, shapes=SHAPES):
    return named(draw(dtype, shapes, seed))


@pytest.fixture
def pair(cupy):
    """Adam over some arrays."""
    return Pair(cupy, lambda params: Adam(params, lr=0.1), random())


@pytest.mark.parametrize("method", VARIANTS, ids=ids)
def test_steps_equal_the_cpus(cupy, method):
    both = Pair(cupy, method.optimizer, random(shapes=[(5,), (3, 2)]))
    for i in range(3):
        both.step(random(i + 1, shapes=[(5,), (3, 2)]))
    both.assert_same()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_clipped_scaled_steps_equal_the_cpus(cupy, method, dtype):
    both = Pair(cupy, method.optimizer, random(dtype=dtype))
    for i in range(2):
        cpu, gpu = both.step(random(i + 1, dtype), max_norm=0.5, grad_scale=1024.0)
        assert float(gpu.norm) == cpu.norm
        assert bool(gpu.applied)
        assert int(gpu.first_nonfinite) == -1
    both.assert_same()


def test_a_step_without_a_norm_tells_nothing(pair):
    cpu, gpu = pair.step(random(1))
    assert gpu == cpu == (None, True, None)


def test_a_norm_stays_on_the_device(cupy, pair):
    _, info = pair.step(random(1), check_finite=True)
    assert isinstance(info, StepInfo)
    for field, dtype in zip(info, (np.float64, np.bool_, np.int64), strict=True):
        assert isinstance(field, cupy.ndarray)
        assert field.shape == ()
        assert field.dtype == dtype


def test_a_later_step_leaves_an_earlier_report(pair):
    first, second = (pair.step(random(i), max_norm=1.0) for i in (1, 2))
    assert float(first[1].norm) == first[0].norm != second[0].norm == float(second[1].norm)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [{"max_norm": 1.0}, {"check_finite": True}])
def test_a_gradient_that_is_not_finite_changes_nothing(pair, wrong, options):
    pair.step(random(1))
    grads = random(2)
    grads["p1"][4096] = wrong
    cpu, gpu = pair.step(grads, **options)
    assert not gpu.applied
    assert int(gpu.first_nonfinite) == 1
    assert cpu.first_nonfinite == "p1"
    pair.assert_same()
    assert [own["step"] for own in pair.on_gpu.state] == [1] * 4
    pair.step(random(3), **options)
    pair.assert_same()


def test_a_norm_of_squares_out_of_range(cupy):
    both = Pair(cupy, Adam, random(dtype=np.float64))
    for scale in (1e200, 1e-200):
        grads = {name: g * scale for name, g in random(1, np.float64).items()}
        cpu, gpu = both.step(grads, max_norm=1.0)
        assert np.isfinite(cpu.norm)
        assert float(gpu.norm) == cpu.norm
    both.assert_same()


def test_none_skips_a_parameter(pair):
    for missing in (["p0"], ["p1", "p2"], [], list(pair.cpu)):
        grads = random(1)
        pair.step({**grads, **dict.fromkeys(missing)}, max_norm=1.0)
    pair.assert_same()
    assert [own["step"] for own in pair.on_gpu.state] == [2, 2, 2, 3]


def test_gradients_are_zeroed(cupy, pair):
    grads = {name: cupy.array(g) for name, g in random(1).items()}
    pair.on_cpu.step(random(1))
    pair.on_gpu.step(grads, zero_grads=True)
    pair.assert_same()
    assert not any(g.get().any() for g in grads.values())


def test_groups_have_hyperparameters_of_their_own(cupy):
    def make(params):
        a, b, c, d = params.values()
        return AdamW(
            [{"params": [a], "lr": 0.1}, {"params": [b, c], "weight_decay": 0.0}, {"params": d, "maximize": True}]
        )

    arrays = random()
    arrays["p2"] = arrays["p2"].astype(np.float64)
    both = Pair(cupy, make, arrays)
    for i in range(2):
        grads = random(i + 1)
        grads["p2"] = grads["p2"].astype(np.float64)
        both.on_cpu.step(list(grads.values()), max_norm=1.0)
        both.on_gpu.step([cupy.array(g) for g in grads.values()], max_norm=1.0)
        both.on_cpu.param_groups[1]["lr"] = both.on_gpu.param_groups[1]["lr"] = 0.02
    both.assert_same()


def test_hyperparameters_and_schedules_take_effect_at_the_next_step(pair):
    schedules = [CosineWarmupLR(opt, total_steps=4, warmup_steps=2) for opt in (pair.on_cpu, pair.on_gpu)]
    for i in range(3):
        pair.step(random(i + 1))
        for schedule in schedules:
            schedule.step()
    for opt in (pair.on_cpu, pair.on_gpu):
        opt.betas, opt.maximize = (0.5, 0.9), True
    pair.step(random(7))
    pair.assert_same()


def test_a_single_array(cupy):
    cpu, gpu = np.ones(3, np.float32), cupy.array(np.ones(3, np.float32))
    a, b = Adam(cpu), Adam(gpu)
    a.step(cpu + 1)
    b.step(gpu + 1)
    assert_same_bits(gpu.get(), cpu)
    assert b.param_groups[0]["params"][0] is gpu


HALVES = {
    "float16": (lambda x: x.astype(np.float16), lambda x: x.astype(np.float32), lambda cupy, x: cupy.array(x)),
    "bfloat16": (to_bfloat16, from_bfloat16, lambda cupy, x: bfloat16(x)),  # noqa: ARG005
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("master", [False, True])
@pytest.mark.parametrize("method", [*METHODS, STATEFUL], ids=ids)
def test_halves_are_computed_in_float32(cupy, method, dtype, master):
    """The parameter is what a float32 optimizer makes of it, rounded; at every step, or from the master copy."""
    narrow, wide, put = HALVES[dtype]
    rng = np.random.default_rng(0)
    p = narrow(rng.standard_normal(300, np.float32))
    mirror = wide(p)
    reference = method.optimizer(mirror)
    opt = method.cls(put(cupy, p), **method.options, master=master)
    stored = opt.param_groups[0]["params"][0]
    for _ in range(3):
        g = narrow(rng.standard_normal(300, np.float32))
        cpu = reference.step(wide(g), max_norm=5.0)
        gpu = opt.step(put(cupy, g), max_norm=5.0)
        assert float(gpu.norm) == cpu.norm
        if not master:
            mirror[...] = wide(narrow(mirror))
    bits = stored.get() if dtype == "float16" else stored.host
    assert_same_bits(bits, narrow(mirror))
    (own,) = opt.state
    assert all(own[name].dtype == np.float32 for name in method.state_names)
    if master:
        assert_same_bits(own["master"].get(), mirror)
    else:
        assert "master" not in own


def test_float32_is_its_own_master(cupy):
    half, full = cupy.array(np.ones(3, np.float16)), cupy.array(np.ones(3, np.float32))
    opt = Adam([half, full], master=True)
    assert [("master" in own) for own in opt.state] == [True, False]
    opt.step([half.copy(), full.copy()])
    assert_same_bits(half.get(), full.get().astype(np.float16))


@pytest.mark.parametrize("method", METHODS, ids=ids)
def test_functional_steps_equal_the_cpus(cupy, method):
    from fusedstep import optim

    step = getattr(optim, f"{method.name}_step")
    counts = "step" in inspect.signature(step).parameters
    p, g = draw(np.float32, [(100,), (100,)])
    states = method.states(p)
    there = [cupy.array(a) for a in (p, g, *states)]
    for t in (1, 2):
        options = {"grad_scale": 2.0, "maximize": True, **({"step": t} if counts else {})}
        step(p, g, *states, **options)
        step(*there, **options)
    for a, b in zip((p, g, *states), there, strict=True):
        assert_same_bits(b.get(), a)


def test_functional_step_of_a_half(cupy):
    from fusedstep.optim import adam_step

    p, g = (a.astype(np.float16) for a in draw(np.float32, [(10,), (10,)], 3))
    wide, m, v = p.astype(np.float32), np.zeros(10, np.float32), np.zeros(10, np.float32)
    there = [cupy.array(a) for a in (p, g, m, v)]
    adam_step(wide, g.astype(np.float32), m, v, step=1)
    adam_step(*there, step=1)
    assert_same_bits(there[0].get(), wide.astype(np.float16))


def test_state_dicts_go_both_ways(cupy):
    """From the CPU to the device and back, with the same bits in the steps that follow."""
    both = Pair(cupy, STATEFUL.optimizer, random())
    both.step(random(1))
    saved_cpu, saved_gpu = both.on_cpu.state_dict(), both.on_gpu.state_dict()
    assert saved_cpu["param_groups"] == saved_gpu["param_groups"]
    for own in saved_gpu["state"].values():
        assert all(isinstance(own[name], np.ndarray) for name in STATEFUL.state_names)
    swapped = Pair(cupy, STATEFUL.optimizer, both.cpu)
    swapped.on_cpu.load_state_dict(saved_gpu)
    swapped.on_gpu.load_state_dict(saved_cpu)
    for i in (2, 3):
        both.step(random(i))
        swapped.step(random(i))
    both.assert_same()
    swapped.assert_same()
    for name, p in both.cpu.items():
        assert_same_bits(swapped.cpu[name], p)


def test_a_state_dict_may_hold_cuda_arrays(cupy, pair):
    pair.step(random(1))
    saved = pair.on_cpu.state_dict()
    for own in saved["state"].values():
        own.update({name: cupy.array(own[name]) for name in ("exp_avg", "exp_avg_sq")})
    pair.step(random(2))
    pair.on_cpu.load_state_dict(saved)
    pair.on_gpu.load_state_dict(saved)
    pair.step(random(3))
    for a, b in zip(pair.on_cpu.state, pair.on_gpu.state, strict=True):
        assert a["step"] == b["step"] == 2
        assert_same_bits(b["exp_avg"].get(), a["exp_avg"])


def test_a_refused_state_dict_changes_nothing(pair):
    pair.step(random(1))
    saved = pair.on_gpu.state_dict()
    saved["state"][1]["exp_avg"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"^state\[1\]\['exp_avg'\]: expected shape \(4097,\), got \(3,\)$"):
        pair.on_gpu.load_state_dict(saved)
    pair.assert_same()


def test_master_copies_are_saved_and_loaded(cupy):
    values, grads = draw(np.float32, [(20,)]), draw(np.float32, [(20,)], 1)
    make = [cupy.array(a.astype(np.float16)) for a in values * 3]
    first, second, third = (Adam(p, master=True, lr=0.01) for p in make)
    first.step(cupy.array(grads[0].astype(np.float16)))
    saved = first.state_dict()
    assert saved["state"][0]["master"].dtype == np.float32
    second.load_state_dict(saved)
    assert_same_bits(second.state[0]["master"].get(), first.state[0]["master"].get())
    # One that was saved without copies begins with those of the parameters.
    make[2].fill(0.25)
    del saved["state"][0]["master"]
    third.load_state_dict(saved)
    assert (third.state[0]["master"].get() == 0.25).all()
    # And for one that needs none they are left aside.
    Adam(np.zeros(20, np.float32)).load_state_dict(first.state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_copies_go_on_as_the_original(cupy, copied):
    both = Pair(cupy, STATEFUL.optimizer, random())
    both.step(random(1))
    other = copied(both.on_gpu)
    both.step(random(2))
    other.step({name: cupy.array(g) for name, g in random(2).items()})
    for mine, theirs in zip(other.state, both.on_gpu.state, strict=True):
        for name in STATEFUL.state_names:
            assert_same_bits(mine[name].get(), theirs[name].get())
    assert other.state[0]["step"] == 2


def test_repr_tells_the_groups(pair):
    assert repr(pair.on_gpu) == repr(pair.on_cpu)


def test_registry_is_covered():
    assert {method.name for method in METHODS} == set(OPTIMIZERS)
