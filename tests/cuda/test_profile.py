"""The profiler over a GPU's arrays: every fused call, the CPU's bytes and FLOPs, times that nothing waits for."""

import io
import json

import fusedstep
import numpy as np
import pytest
from fusedstep import _record
from fusedstep.loss import custom
from fusedstep.rnn import CELLS

from tests.cuda.rnn_cases import KINDS, module_on_gpu, to_gpu
from tests.loss.functions import SMOOTH
from tests.optim.methods import METHODS
from tests.profiler.conftest import machine_of
from tests.rnn.cells import draw as draw_step
from tests.rnn.sequences import draw

NORM_PASS = {"max_norm": 1.0, "zero_grads": True}


def works(prof, device):
    """What was called, how often, and what it costs; where it ran and on how many threads is looked at."""
    groups = prof.groups()
    assert {group.work.device for group in groups} == {device}
    kept = ("kind", "method", "dtype", "title", "shape", "sizes", "cost", "resident", "options")
    return sorted(([getattr(group.work, name) for name in kept], group.calls) for group in groups)


def same_as_on_the_cpu(run_on_gpu, run_on_cpu):
    with fusedstep.profile() as on_gpu:
        run_on_gpu()
    with fusedstep.profile() as on_cpu:
        run_on_cpu()
    actual = works(on_gpu, "cuda")
    assert actual == works(on_cpu, "cpu")
    assert all(0 < group.fastest <= group.seconds <= on_gpu.seconds for group in on_gpu.groups())
    return on_gpu


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("options", [{}, NORM_PASS], ids=["", "norm"])
def test_optimizer_steps(cupy, method, options):
    p = [np.ones(3, np.float32), np.ones((2, 4), np.float32)]
    on_gpu, on_cpu = method.optimizer(list(map(cupy.asarray, p))), method.optimizer([a.copy() for a in p])
    grads = [cupy.asarray(a) for a in p]
    same_as_on_the_cpu(
        lambda: [on_gpu.step(grads, **options) for _ in range(3)],
        lambda: [on_cpu.step([a.copy() for a in p], **options) for _ in range(3)],
    )


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_functional_steps(cupy, method):
    step = getattr(fusedstep.optim, f"{method.name}_step")
    options = {} if method.name == "rmsprop" else {"step": 1}
    p, g = np.ones(5), np.ones(5)
    states = method.states(p)
    placed = [cupy.asarray(a) for a in (p, g, *states)]
    same_as_on_the_cpu(lambda: step(*placed, **options), lambda: step(p, g, *states, **options))


def test_half_formats_count_their_bytes(cupy):
    """Adam on float16: p, g and float32 m, v; with a float32 copy, which is read and written, p is written alone."""
    p, g = cupy.asarray(np.ones(10, np.float16)), cupy.asarray(np.ones(10, np.float16))
    for master, moved, title in ((False, 22, "adam step"), (True, 28, "adam step, master")):
        optimizer = fusedstep.optim.Adam([cupy.asarray(np.ones(10, np.float16))], master=master)
        with fusedstep.profile() as prof:
            optimizer.step([g])
        (group,) = prof.groups()
        assert (group.work.title, group.work.dtype) == (title, "float16")
        assert group.work.cost.bytes == 10 * moved
        assert group.work.itemsize == 2
    assert p.dtype == np.float16


def test_rules_and_dtypes_of_one_step_are_one_call(cupy):
    p = [np.ones(3, np.float32), np.ones(4, np.float32), np.ones(5)]

    def groups(placed):
        decayed, plain, wide = ({"params": [placed(a)]} for a in p)
        return [{**decayed, "weight_decay": 0.1}, {**plain, "amsgrad": True}, wide]

    on_gpu, on_cpu = (fusedstep.optim.Adam(groups(placed)) for placed in (cupy.asarray, np.copy))
    prof = same_as_on_the_cpu(
        lambda: on_gpu.step([cupy.asarray(a) for a in p]), lambda: on_cpu.step([np.ones_like(a) for a in p])
    )
    assert prof.groups()[0].work.title == "adam step + amsgrad step"


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("B", [0, 3])
def test_cells(cupy, kind, B):
    step = draw_step(kind, B, 5, 4)
    gpu = to_gpu(cupy, step)
    frozen, on_cpu = step.cell().to("cuda").freeze(), step.cell().freeze()

    def run(step, cell):
        step.backward()
        cell(step.x, step.state)
        cell(step.x, step.state, tape=True)

    same_as_on_the_cpu(lambda: run(gpu, frozen), lambda: run(step, on_cpu))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tape", ["full", "lean"])
def test_sequences_and_streams(cupy, kind, tape):
    case = draw(kind, 5, 3, 4, 6, num_layers=2, bidirectional=True, shortest=0)
    one_way = draw(kind, 2, 3, 4, 6, num_layers=2, bias=False)
    gpu = to_gpu(cupy, case)

    def run(module, case, placed, stream):
        out = {name: placed(np.ones(w.shape, w.dtype)) for name, w in case.weights.items()}
        case.run(module, tape=tape, seed=1)
        case.run(module, tape=tape, seed=1, out=out, accumulate=True)
        module.freeze()
        module(case.x)
        stream.step(placed(one_way.x[0]))

    on_gpu, on_cpu = module_on_gpu(case, dropout=0.25), case.module(dropout=0.25)
    streams = [module.stream(3) for module in (module_on_gpu(one_way), one_way.module())]
    same_as_on_the_cpu(
        lambda: run(on_gpu, gpu, cupy.asarray, streams[0]), lambda: run(on_cpu, case, np.asarray, streams[1])
    )


@pytest.mark.parametrize("name", ["huber", "dice", "softmax"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_custom_losses(cupy, name, reduction):
    f = custom(SMOOTH[name])
    p, t = (np.random.default_rng(i).normal(0, 1, (3, 40)) for i in range(2))
    same_as_on_the_cpu(
        lambda: f(cupy.asarray(p), cupy.asarray(t), reduction=reduction), lambda: f(p, t, reduction=reduction)
    )


def test_gradients_of_broadcast_parameters(cupy):
    f = custom(lambda p, t, w: (p - t) ** 2 * w)
    p, t, w = (np.ones(shape, np.float32) for shape in ((6, 5), (6, 5), (6, 1)))
    q, u, v = map(cupy.asarray, (p, t, w))
    same_as_on_the_cpu(lambda: f(q, u, w=v, wrt="w"), lambda: f(p, t, w=w, wrt="w"))


def test_products(cupy):
    a, b = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
    with fusedstep.profile() as prof:
        result = prof.matmul(cupy.asarray(a), cupy.asarray(b))
    assert np.array_equal(result.get(), a @ b)
    (group,) = prof.groups()
    assert (group.work.title, group.work.shape, group.work.device) == ("cupy.matmul", "3×4 @ 4×5", "cuda")
    assert group.work.cost == (4 * (12 + 20 + 15), 2 * 60)


# When.


def adam(cupy, n=4):
    return fusedstep.optim.Adam([cupy.zeros((n,), np.float32)]), [cupy.asarray(np.ones(n, np.float32))]


def test_nothing_waits_before_the_profile_is_read(cupy):
    cupy.state.late = True
    optimizer, grads = adam(cupy)
    module, x = (
        fusedstep.rnn.LSTM(3, 4, num_layers=2, dropout=0.5).to("cuda"),
        cupy.asarray(np.ones((5, 2, 3), np.float32)),
    )
    with fusedstep.profile() as prof:
        optimizer.step(grads, max_norm=1.0)
        *_, tape = module.forward(x)
        module.backward(tape, None)
        assert cupy.state.event_waits == cupy.state.copies == 0
        assert len(prof.groups()) == 6  # read in the block, it waits
        assert cupy.state.event_waits > 0
        waits = cupy.state.event_waits
        optimizer.step(grads)
        assert cupy.state.event_waits == waits
    assert cupy.state.event_waits > waits
    starts, ends = prof.calls.rows["start"], prof.calls.rows["end"]
    assert np.all(starts < ends)
    assert np.all(ends[:-1] <= starts[1:])  # one after the other on the stream
    assert starts[0] >= prof.start - 1e6
    assert ends[-1] <= prof.start + 1e9 * prof.seconds


def test_events_of_calls_that_are_done_are_used_again(cupy, monkeypatch):
    made = []
    event = cupy.cuda.Event
    monkeypatch.setattr(cupy.cuda, "Event", lambda: made.append(event()) or made[-1])
    optimizer, grads = adam(cupy)
    with fusedstep.profile() as prof:
        for _ in range(100):
            optimizer.step(grads)
    assert prof.groups()[0].calls == 100
    assert len(made) < 6


def test_without_a_profile_there_are_no_events(cupy, monkeypatch):
    monkeypatch.setattr(cupy.cuda, "Event", None)
    optimizer, grads = adam(cupy)
    optimizer.step(grads)
    case = draw("gru", 2, 3, 4, 5)
    to_gpu(cupy, case).run(module_on_gpu(case))
    custom(SMOOTH["huber"])(cupy.zeros((3,), np.float32), cupy.zeros((3,), np.float32))
    assert not _record._clocks


def test_a_captured_step_is_not_recorded(cupy, device):
    """It runs when the graph does."""
    optimizer, grads = adam(cupy)
    with fusedstep.profile() as prof:
        device.capturing(True)
        optimizer.step(grads)
        device.capturing(False)
        optimizer.step(grads)
    assert prof.groups()[0].calls == 1


def test_calls_that_fail_are_not_recorded(cupy):
    optimizer, grads = adam(cupy)
    cell = fusedstep.rnn.GRUCell(3, 4).to("cuda")
    with fusedstep.profile() as prof:
        with pytest.raises(ValueError, match="shape"):
            optimizer.step([cupy.zeros((3,), np.float32)])
        with pytest.raises(ValueError, match="shape"):
            cell(cupy.zeros((2, 9), np.float32))
        optimizer.step(grads)
    assert [group.work.title for group in prof.groups()] == ["adam step"]


def test_profiles_may_be_nested(cupy):
    optimizer, grads = adam(cupy)
    with fusedstep.profile() as outer:
        optimizer.step(grads)
        with fusedstep.profile() as inner:
            optimizer.step(grads)
        optimizer.step(grads)
    assert [prof.groups()[0].calls for prof in (outer, inner)] == [3, 1]
    assert not _record._clocks
    with fusedstep.profile() as later:
        optimizer.step(grads)
    assert later.groups()[0].calls == 1
    assert outer.groups()[0].calls == 3


# What it says.


def test_tracks_are_streams_of_gpus(cupy, tmp_path):
    optimizer, grads = adam(cupy)
    with cupy.cuda.Device(1):
        other, others = adam(cupy)
    on_cpu = fusedstep.optim.Adam([np.zeros(3, np.float32)])
    with fusedstep.profile() as prof:
        optimizer.step(grads)
        with cupy.cuda.Stream(0x77):
            optimizer.step(grads)
        with cupy.cuda.Device(1):
            other.step(others)
        on_cpu.step([np.ones(3, np.float32)])
    prof.trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    calls = [event for event in events if event["ph"] == "X"]
    assert sorted(names[event["tid"]] for event in calls) == [
        "GPU 0, stream 0", "GPU 0, stream 1", "GPU 1, stream 0", "MainThread"
    ]  # fmt: skip
    assert [event["args"]["device"] for event in calls].count("cuda") == 3
    assert all(event["dur"] > 0 for event in calls)


def test_a_report_has_rates_and_no_ceiling(cupy):
    pytest.importorskip("rich", reason="rich is not installed: the table needs it")
    optimizer, grads = adam(cupy, 1000)
    on_cpu = fusedstep.optim.Adam([np.zeros(1000, np.float32)])
    with fusedstep.profile() as prof:
        for _ in range(20):
            optimizer.step(grads)
            on_cpu.step([np.ones(1000, np.float32)])
    found = prof.to_dict(machine=machine_of())
    json.dumps(found)
    lines = {line["device"]: line for line in found["calls"]}
    assert lines["cuda"]["calls"] == lines["cpu"]["calls"] == 20
    for name in ("ceiling", "level", "verdict"):
        assert lines["cuda"][name] is None
        assert lines["cpu"][name] is not None
    assert lines["cuda"]["GB/s"] == pytest.approx(28_000 / (lines["cuda"]["seconds"] / 20) / 1e9)
    text = io.StringIO()
    prof.table(file=text, width=150, machine=machine_of())
    (row,) = [line for line in text.getvalue().splitlines() if "on CUDA" in line]
    assert "adam step, 1,000" in row
    assert "%" in row  # the share of the time
    assert row.count("%") == 1


def test_advice_is_of_what_is_known(cupy):
    """Neither packing, threads nor ceilings of a GPU's calls; but a call a step is one there too."""
    cell = fusedstep.rnn.LSTMCell(3, 4, dtype=np.float64).to("cuda")
    x = cupy.asarray(np.ones((2, 3)))
    with fusedstep.profile() as prof:
        for _ in range(20):
            cell(x)
    advice = " ".join(prof.to_dict(machine=machine_of())["advice"])
    assert "20 steps, a call each" in advice
    for word in ("packed", "threads", "float64", "ceiling"):
        assert word not in advice


def test_the_picture_has_the_cpus_calls(cupy, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the picture needs it")
    optimizer, grads = adam(cupy)
    with fusedstep.profile() as prof:
        optimizer.step(grads)
    prof.roofline(tmp_path / "roofline.png", machine=machine_of())
    assert (tmp_path / "roofline.png").stat().st_size > 1000
