"""`cost`: sizes against the arrays that are there, costs against recorded calls, and the model's properties."""

import dataclasses

import fusedstep
import numpy as np
import pytest
from fusedstep import optim, rnn
from fusedstep.profiler import Estimates, model
from fusedstep.profiler.figures import Rate
from fusedstep.rnn._cost import Sizes

from bench import rows
from bench.cases import SequenceCase
from bench.prediction import predicted
from tests.optim.methods import METHODS
from tests.profiler.conftest import machine_of

MODULES = [
    rnn.LSTM(5, 6, rng=0),
    rnn.LSTM(5, 6, peephole=True, rng=0),
    rnn.LSTM(5, 6, coupled=True, num_layers=2, rng=0),
    rnn.LSTM(5, 6, layer_norm=True, rng=0),
    rnn.LSTM(5, 6, proj_size=3, num_layers=2, bidirectional=True, rng=0),
    rnn.GRU(5, 6, rng=0, dtype=np.float64),
    rnn.GRU(5, 6, reset_after=False, bias=False, rng=0),
    rnn.GRU(5, 6, layer_norm=True, rng=0),
]


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_module_has_its_arrays_and_calls(module, machine):
    T, B = 4, 3
    e = fusedstep.cost(module, T=T, B=B, machine=machine)
    x = np.ones((T, B, 5), module.dtype)
    with fusedstep.profile() as inference:
        _, state = module(x)
    with fusedstep.profile() as training:
        y, _, tape = module.forward(x)
        nbytes = tape.nbytes
        module.backward(tape, y)
    *_, lean = module.forward(x, tape="lean")
    states = state if isinstance(state, tuple) else (state,)
    assert e.parameters == sum(w.size for w in module.weights.values())
    assert e.weight_bytes == sum(w.nbytes for w in module.weights.values())
    assert e.state_bytes == sum(s.nbytes for s in states)
    assert (e.tape_bytes, e.lean_tape_bytes) == (nbytes, lean.nbytes)
    for cost, prof in ((e.inference, inference), (e.training, training)):
        calls = [(group.calls, group.work.cost) for group in prof.groups()]
        assert cost.bytes == sum(n * c.bytes for n, c in calls)
        assert cost.flops == sum(n * c.flops for n, c in calls)
    assert 0 < e.inference_seconds < e.training_seconds


@pytest.mark.parametrize("kind", rnn.CELLS)
def test_cell_has_its_arrays_and_calls(kind, machine):
    cell = rnn.CELLS[kind].cell(5, 6, rng=0)
    e = fusedstep.cost(cell, B=3, machine=machine)
    x = np.ones((3, 5), np.float32)
    with fusedstep.profile() as training:
        state, tape = cell(x, tape=True)
        arrays = state if isinstance(state, tuple) else (state,)
        cell.backward(tape, *arrays)
    assert e.parameters == sum(w.size for w in cell.weights.values())
    assert e.state_bytes == sum(s.nbytes for s in arrays)
    assert e.tape_bytes == tape.saved.nbytes
    assert e.training.flops == sum(group.work.cost.flops for group in training.groups())
    assert e.training.bytes == sum(group.work.cost.bytes for group in training.groups())


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_optimizer_has_its_arrays_and_steps(method, machine):
    params = [np.ones(7, np.float32), np.ones((2, 3), np.float32)]
    opt = method.optimizer(params)
    e = fusedstep.cost(opt, machine=machine)
    with fusedstep.profile() as prof:
        opt.step([np.ones_like(p) for p in params])
    assert (e.parameters, e.weight_bytes) == (13, 52)
    assert e.state_bytes == sum(a.nbytes for own in opt.state for name, a in own.items() if name != "step")
    assert e.training == prof.groups()[0].work.cost
    assert (e.inference, e.inference_seconds, e.tape_bytes) == (None, None, 0)
    assert method.cls.__name__ in e.name


def test_groups_of_an_optimizer_are_one_call(machine):
    groups = [{"params": [np.ones(5)]}, {"params": [np.ones(5, np.float32)], "amsgrad": True}]
    opt = optim.Adam(groups)
    e = fusedstep.cost(opt, machine=machine)
    with fusedstep.profile() as prof:
        opt.step([np.ones(5), np.ones(5, np.float32)])
    assert e.training == prof.groups()[0].work.cost
    assert e.training_seconds < 2 * machine.calls["optimizer"]


def test_several_are_side_by_side(machine):
    modules = rnn.LSTM(8, 16, rng=0), rnn.GRU(8, 16, rng=0), rnn.LSTM(8, 16, peephole=True, rng=0)
    p = np.ones(1000, np.float32)
    found = fusedstep.cost(*modules, T=5, B=2, machine=machine)
    assert isinstance(found, Estimates)
    lines = str(found).splitlines()
    for name in ("lstm, I=8 H=16, T=5 B=2", "gru, I=8 H=16, T=5 B=2", "peephole_lstm, I=8 H=16, T=5 B=2"):
        assert name in lines[0]
    assert lines[1].split() == ["parameters", *(f"{e.parameters:,}" for e in found)]
    assert len({len(line) for line in lines}) == 1
    assert "tape, lean" in str(found)
    steps = fusedstep.cost(optim.Adam(p), optim.RMSprop(p), optim.Adagrad(p), machine=machine)
    text = str(steps)
    assert text.splitlines()[0].split() == ["Adam", "RMSprop", "Adagrad"]
    assert "tape" not in text
    assert "inference" not in text
    assert str(steps[0]).splitlines()[1].split() == ["parameters", "1,000"]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "objects: expected a module, a cell or an optimizer, got none"),
        ((3,), {}, r"objects\[0\]: expected a module, a cell or an optimizer, got int"),
        ((MODULES[0],), {"T": 0}, "T must be an integer from 1 on, got 0"),
        ((MODULES[0],), {"B": 1.5}, "B must be an integer from 1 on, got 1.5"),
        ((MODULES[0],), {"T": True}, "T must be an integer from 1 on, got True"),
    ],
)
def test_bad_arguments_are_named(arguments, options, message, machine):
    with pytest.raises((ValueError, TypeError), match=message):
        fusedstep.cost(*arguments, machine=machine, **options)


def test_this_machine_is_the_default(monkeypatch, machine):
    from fusedstep.profiler import ceilings

    monkeypatch.setattr(ceilings, "machine", lambda: machine)
    assert fusedstep.cost(MODULES[0]) == fusedstep.cost(MODULES[0], machine=machine)


# The model.


def test_large_steps_take_their_bytes_and_small_ones_the_call(machine):
    n = 10**8
    large = model.step(machine, "adam", 1, n, 4).seconds
    assert large == pytest.approx(28 * n / 25e9, rel=1e-3)  # two threads from memory
    assert model.step(machine, "adam", 1, 1, 4).seconds == pytest.approx(machine.calls["optimizer"], rel=0.1)
    more = model.step(machine, "adam", 1001, 1001, 4).seconds - model.step(machine, "adam", 1, 1001, 4).seconds
    assert more == pytest.approx(1000 * machine.calls["tensor"])
    checked = model.step(machine, "adam", 1, n, 4, norm=True).seconds
    assert checked == pytest.approx(large + 4 * n / 25e9, rel=1e-3)


def test_steps_in_a_cache_take_their_roots(machine):
    assert model.step(machine, "adam", 1, 1000, 4).seconds - machine.calls["optimizer"] == pytest.approx(1000 / 2e9)


def test_many_rows_take_their_products_and_few_their_weights(machine):
    s = Sizes("lstm", 512, 512, 512)
    many = model.cell(machine, s, 512)
    assert many.seconds == pytest.approx(many.cost.flops / 160e9, rel=0.1)
    few = model.cell(machine, s, 1).seconds
    near = 2 * 7 / 8 * (1 << 20)  # of 8 MiB, what two threads' L2 hold; the rest comes from L3
    assert few == pytest.approx(near / 100e9 + (4 * 4 * 512 * 1024 - near) / 50e9, rel=0.1)
    packed = model.cell(machine, s, 1, frozen=False).seconds - few
    assert packed == pytest.approx(4 * 512 * 1024 / 16e9)
    narrow = model.cell(machine, s._replace(storage="bfloat16"), 1).seconds
    assert narrow == pytest.approx(near / 100e9 + (2 * 4 * 512 * 1024 - near) / 50e9, rel=0.1)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_weights_passed_to_and_fro_come_from_the_caches_in_turn(threads):
    machine = machine_of(threads)
    rates = model._Rates(machine, threads, 4)
    sizes = [threads * (1 << n) for n in range(10, 30)]
    seconds = [rates.to_and_fro(size) for size in sizes]
    assert seconds == sorted(seconds)
    for size, taken in zip(sizes, seconds, strict=True):
        assert taken <= size / rates.bytes("read", size)  # as if none of it were left from before
    held = model.HELD * threads * np.array([1 << 20, 1 << 24])
    expected = held[0] / 50e9 + (held[1] - held[0]) / 25e9 + (sizes[-1] - held[1]) / 12.5e9
    assert seconds[-1] == pytest.approx(expected / threads)
    small = threads << 13
    assert rates.to_and_fro(small) == pytest.approx(small / (100e9 * threads))  # L1


def test_int8_codes_of_x_and_h_are_made_by_every_thread(machine):
    s = Sizes("lstm", 512, 512, 512, storage="int8")
    slower = machine._replace(rates=machine.rates | {"roots": Rate(1.0, 2.0)})
    for B in (1, 4):
        more = model.cell(slower, s, B).seconds - model.cell(machine, s, B).seconds
        assert more == pytest.approx(B * 2 * 512 / 2e9)
    assert model.cell(slower, s._replace(storage="same"), 1) == model.cell(machine, s._replace(storage="same"), 1)


def test_a_thread_waits_for_what_the_others_wrote(machine):
    # Two threads: of 128 values of h, 64 come from the other, in 4 lines; a line takes half a barrier.
    s, far = Sizes("lstm", 128, 128, 128), machine._replace(barrier=3 * machine.barrier)
    for T in (10, 20):
        more = model.sequence(far, s, T, T, 1).seconds - model.sequence(machine, s, T, T, 1).seconds
        assert more == pytest.approx(T * 2 * machine.barrier * (1 + 4 / 2))
    one = machine_of(1)
    assert model.sequence(one._replace(barrier=1.0), s, 10, 10, 1) == model.sequence(one, s, 10, 10, 1)
    large = Sizes("lstm", 512, 512, 512)
    assert model.cell(far, large, 1).seconds == model.cell(machine, large, 1).seconds  # its caller has h
    more = model.cell(far, large, 1, kind="stream").seconds - model.cell(machine, large, 1, kind="stream").seconds
    assert more == pytest.approx(2 * machine.barrier * 16 / 2)


def test_sequences_grow_by_their_steps(machine):
    s = Sizes("gru", 64, 128, 128)
    seconds = [model.sequence(machine, s, T * 8, T, 8).seconds for T in (100, 200, 300)]
    assert seconds[2] - seconds[1] == pytest.approx(seconds[1] - seconds[0], rel=0.2)
    lean = model.sequence_backward(machine, s, 800, 100, 8, tape="lean").seconds
    full = model.sequence_backward(machine, s, 800, 100, 8).seconds
    assert seconds[0] < full < lean
    assert model.sequence_backward(machine, s, 800, 100, 8, dx=False).seconds < full


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("case", [c for c in rows.select(full=True) if c.group != "loss"], ids=lambda case: case.name)
def test_every_case_of_the_benchmark_is_predicted(case, threads):
    machine = machine_of(threads)
    if getattr(case, "pace", 0):
        assert predicted(case, machine) is None
        return
    seconds = predicted(case, machine)
    peak, fastest = machine.peak["float32"].all * 1e9, machine.bandwidth["L1"]["copy"].all * 1e9
    assert seconds >= case.work / (fastest if case.group == "optim" else 4 * peak)
    if isinstance(case, SequenceCase) and not case.backward:
        assert seconds < predicted(dataclasses.replace(case, steps=2 * case.steps, batch=2 * case.batch), machine)
