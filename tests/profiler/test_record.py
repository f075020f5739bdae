"""What is recorded: every fused call, of every thread, and nothing where no profile is open."""

import subprocess
import sys
import threading
import time

import fusedstep
import numpy as np
import pytest
from fusedstep import _core, loss
from fusedstep._record import MORE
from fusedstep.profiler.work import KINDS
from fusedstep.rnn import CELLS

from tests.optim.methods import METHODS
from tests.rnn.cells import draw


def titles(prof):
    return sorted(group.work.title for group in prof.groups())


def only(prof):
    (group,) = prof.groups()
    return group


# Every registered method.


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_optimizer_steps_are_recorded(method):
    opt = method.optimizer([np.ones(3, np.float32), np.ones((2, 4), np.float32)])
    grads = [np.ones(3, np.float32), np.ones((2, 4), np.float32)]
    with fusedstep.profile() as prof:
        for _ in range(3):
            opt.step(grads)
    group = only(prof)
    assert group.work.title == f"{method.name} step"
    assert group.calls == 3
    assert group.work.sizes == {"tensors": 2, "elements": 11}
    assert group.work.dtype == "float32"
    assert 0 < group.fastest <= group.seconds / 3 <= prof.seconds


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_functional_steps_are_recorded(method):
    step = getattr(fusedstep.optim, f"{method.name}_step")
    p = np.ones(5)
    with fusedstep.profile() as prof:
        step(p, np.ones(5), *method.states(p), **({} if method.name == "rmsprop" else {"step": 1}))
    assert only(prof).work.sizes == {"tensors": 1, "elements": 5}
    assert only(prof).work.dtype == "float64"


def test_groups_of_one_step_are_one_call():
    """Two rules, two sets of hyperparameters and two dtypes: one call with the bytes of all."""
    p = [np.ones(3, np.float32), np.ones(4, np.float32), np.ones(5)]
    decayed, plain, wide = ({"params": [a]} for a in p)
    opt = fusedstep.optim.Adam([{**decayed, "weight_decay": 0.1}, {**plain, "amsgrad": True}, wide])
    with fusedstep.profile() as prof:
        for _ in range(2):
            opt.step([np.ones_like(a) for a in p])
    group = only(prof)
    assert group.calls == 2
    assert group.work.title == "adam step + amsgrad step"
    assert group.work.cost == (3 * 28 + 4 * 36 + 5 * 56, 3 * 17 + 4 * 16 + 5 * 15)
    assert group.work.sizes == {"tensors": 3, "elements": 12}
    assert prof.to_dict()["outside"] >= 0


@pytest.mark.parametrize("kind", CELLS)
def test_cells_are_recorded(kind):
    step = draw(kind, 3, 5, 4)
    cell = step.cell().freeze()
    with fusedstep.profile() as prof:
        step.backward()
        cell(step.x, step.state)
    assert titles(prof) == [f"{kind} cell backward", f"{kind} cell, frozen", f"{kind} cell, tape"]
    assert {group.work.shape for group in prof.groups()} == {"B=3 I=5 H=4"}


@pytest.mark.parametrize("cls", [fusedstep.rnn.LSTM, fusedstep.rnn.GRU])
def test_sequences_and_streams_are_recorded(cls):
    module = cls(3, 4, num_layers=2, dropout=0.5, rng=0)
    x = np.ones((5, 2, 3), np.float32)
    kind = cls.__name__.lower()
    with fusedstep.profile() as prof:
        y, *_, tape = module.forward(x, tape="lean")
        module.backward(tape, y)
        module(x, lengths=[5, 3])
        module.stream(2).step(x[0])
    assert titles(prof) == sorted(
        2 * [f"{kind} sequence", f"{kind} sequence backward, lean", f"{kind} sequence, tape, lean"]
        + ["dropout", f"{kind} stream"]
    )
    shapes = {group.work.shape for group in prof.groups()}
    assert {"T=5 B=2 I=3 H=4", "T=5 B=2 I=4 H=4", "T=5 B=2 I=3 H=4, 8 pairs", "B=2 I=3 H=4 layers=2"} <= shapes


@pytest.mark.parametrize("name", [*_core.losses(), "cross_entropy", "nll"])
def test_losses_are_recorded(name):
    x = np.full((2, 3), -0.5)
    target = np.zeros(2, int) if name in ("cross_entropy", "nll") else np.full((2, 3), 0.5)
    with fusedstep.profile() as prof:
        getattr(loss, name)(x, target)
    assert titles(prof) == [name]


def test_custom_losses_are_recorded_by_their_names():
    @loss.custom
    def ours(pred, target):
        return abs(pred - target)

    with fusedstep.profile() as prof:
        ours(np.ones(3), np.zeros(3))
    assert titles(prof) == ["ours (custom)"]


def test_every_kind_is_recorded_somewhere():
    assert set(KINDS) == {
        *("optimizer", "cell", "cell_backward", "sequence", "sequence_backward", "stream", "loss", "loss_rows"),
        *("custom_loss", "dropout", "matmul", "range"),
    }


def test_calls_that_fail_are_not_recorded():
    opt = fusedstep.optim.Adam(np.ones(3))
    cell = fusedstep.rnn.GRUCell(2, 3)
    with fusedstep.profile() as prof:
        for call in (lambda: opt.step(np.ones(4)), lambda: cell(np.ones((1, 5), np.float32))):
            with pytest.raises(ValueError, match="expected shape"):
                call()
    assert prof.groups() == []


def test_threads_of_a_call_are_recorded(threads):
    threads(2)
    opt = fusedstep.optim.Adam([np.ones(1 << 18, np.float32)])
    grads = [np.ones(1 << 18, np.float32)]
    with fusedstep.profile() as prof:
        opt.step(grads)
    assert only(prof).work.threads == 2
    threads(1)
    with fusedstep.profile() as prof:
        opt.step(grads)
    assert only(prof).work.threads == 1


# When.


def test_nothing_is_recorded_outside_the_block():
    opt = fusedstep.optim.Adam(np.ones(3))
    opt.step(np.ones(3))
    with fusedstep.profile() as prof:
        pass
    opt.step(np.ones(3))
    assert prof.groups() == []
    assert _core.open_record() == (0, 0)  # what others left is gone
    _core.close_record()


def test_a_profile_is_read_while_it_is_open():
    opt = fusedstep.optim.Adam(np.ones(3))
    with fusedstep.profile() as prof:
        opt.step(np.ones(3))
        first, before = only(prof).calls, prof.seconds
        opt.step(np.ones(3))
        assert (first, only(prof).calls) == (1, 2)
        assert 0 < before < prof.seconds
    after = prof.seconds
    assert after == prof.seconds


def test_nested_profiles_have_the_calls_of_their_own_blocks():
    opt = fusedstep.optim.Adam(np.ones(3))
    with fusedstep.profile() as outer:
        opt.step(np.ones(3))
        with fusedstep.profile() as inner:
            opt.step(np.ones(3))
        opt.step(np.ones(3))
    assert (only(outer).calls, only(inner).calls) == (3, 1)
    assert inner.seconds < outer.seconds


def test_profiles_may_overlap():
    opt = fusedstep.optim.Adam(np.ones(3))
    first, second = fusedstep.profile(), fusedstep.profile()
    first.__enter__()
    opt.step(np.ones(3))
    second.__enter__()
    opt.step(np.ones(3))
    first.__exit__(None, None, None)
    opt.step(np.ones(3))
    second.__exit__(None, None, None)
    assert (only(first).calls, only(second).calls) == (2, 2)


def test_an_exception_passes_and_leaves_what_was_recorded():
    opt = fusedstep.optim.Adam(np.ones(3))
    prof = fusedstep.profile()

    def broken():
        with prof:
            opt.step(np.ones(3))
            with prof.range("broken"):
                raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert only(prof).calls == 1
    assert prof.to_dict()["ranges"][0]["calls"] == 1
    opt.step(np.ones(3))
    assert only(prof).calls == 1


def test_a_profile_is_used_once():
    prof = fusedstep.profile()
    with prof:
        pass
    with pytest.raises(RuntimeError, match="expected a new one"), prof:
        pass


def test_an_unused_profile_is_empty():
    prof = fusedstep.profile()
    assert (prof.groups(), prof.seconds, prof.dropped) == ([], 0.0, 0)


def test_calls_of_several_python_threads_are_recorded():
    n, workers = 200, 4
    started = threading.Barrier(workers)

    def work():
        opt = fusedstep.optim.Adam(np.ones(3))
        started.wait()
        for _ in range(n):
            opt.step(np.ones(3))

    with fusedstep.profile() as prof:
        pool = [threading.Thread(target=work) for _ in range(workers)]
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join()
    assert only(prof).calls == n * workers
    rows = prof.calls.rows
    assert len(np.unique(rows["thread"])) == workers
    assert (rows["end"] >= rows["start"]).all()


def test_profiles_open_and_close_while_others_step():
    """Records of a profile's last moments neither get lost nor stay."""
    done = threading.Event()

    def work():
        opt = fusedstep.optim.Adam(np.ones(3))
        while not done.is_set():
            opt.step(np.ones(3))

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(200):
        with fusedstep.profile() as prof:
            time.sleep(1e-4)
        prof.groups()
    done.set()
    thread.join()
    assert _core.open_record() == (0, 0)
    _core.close_record()


def test_a_forked_child_records_its_own_calls():
    code = """if True:
        import os
        import numpy as np
        import fusedstep
        opt = fusedstep.optim.Adam(np.ones(3))
        with fusedstep.profile() as prof:
            opt.step(np.ones(3))
            pid = os.fork()
            if pid == 0:
                opt.step(np.ones(3))
                (group,) = prof.groups()
                os._exit(group.calls - 1)
            assert os.waitpid(pid, 0)[1] == 0
        (group,) = prof.groups()
        assert group.calls == 1
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Ranges and products.


def test_ranges_nest_and_tell_what_of_them_is_in_calls():
    opt = fusedstep.optim.Adam(np.ones(1 << 16))
    g = np.ones(1 << 16)
    with fusedstep.profile() as prof:
        for _ in range(2):
            with prof.range("epoch"):
                with prof.range("idle"):
                    time.sleep(2e-3)
                opt.step(g)
        opt.step(g)
    epoch, idle = prof.to_dict()["ranges"]
    assert (epoch["name"], epoch["calls"], idle["name"], idle["calls"]) == ("epoch", 2, "idle", 2)
    assert idle["inside"] == 0.0
    assert idle["seconds"] >= 4e-3
    steps = prof.calls.rows[prof.calls.rows["kind"] == 0]
    inside = (steps["end"] - steps["start"])[:2].sum() * 1e-9
    assert epoch["inside"] == pytest.approx(inside)
    assert epoch["seconds"] >= idle["seconds"] + epoch["inside"]


def test_a_range_has_a_name():
    prof = fusedstep.profile()
    with pytest.raises(TypeError, match="name: expected a string, got int"), prof.range(3):
        pass


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul_is_numpys_and_is_recorded(dtype):
    a, b = np.arange(24, dtype=dtype).reshape(2, 3, 4), np.arange(20, dtype=dtype).reshape(4, 5)
    with fusedstep.profile() as prof:
        y = prof.matmul(a, b)
        out = np.empty_like(y)
        assert prof.matmul(a, b, out=out) is out
        prof.matmul(a[0, 0], b[:, 0])
    np.testing.assert_array_equal(y, a @ b)
    np.testing.assert_array_equal(out, y)
    found = {group.work.shape: group for group in prof.groups()}
    group = found["2×3×4 @ 4×5"]
    assert group.calls == 2
    assert group.work.cost == (a.nbytes + b.nbytes + y.nbytes, 2 * 6 * 4 * 5)
    assert group.work.dtype == np.dtype(dtype).name
    assert found["4 @ 4"].work.cost.flops == 2 * 4


def test_matmul_outside_a_block_multiplies():
    prof = fusedstep.profile()
    assert prof.matmul([[2.0]], [[3.0]]) == 6.0
    assert prof.groups() == []


# Import and memory.


def test_import_of_the_package_does_not_import_the_profiler():
    code = "import sys, fusedstep; assert not [m for m in sys.modules if m.startswith('fusedstep.profiler')]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_record_takes_96_bytes():
    with fusedstep.profile() as prof:
        pass
    assert prof.calls.rows.dtype.itemsize == 96


def test_parts_of_a_step_are_marked():
    opt = fusedstep.optim.Adam([np.ones(3), np.ones(3, np.float32)])
    with fusedstep.profile() as prof:
        opt.step([np.ones(3), np.ones(3, np.float32)])
    assert [bool(options & MORE) for options in prof.calls.rows["options"]] == [False, True]
