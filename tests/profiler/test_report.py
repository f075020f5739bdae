"""What a profile says: verdicts and advice on known work and ceilings, and what the table and the picture show."""

import json

import fusedstep
import numpy as np
import pytest
from fusedstep._cost import Cost
from fusedstep.profiler import advice
from fusedstep.profiler.bounds import BANDWIDTH, COMPUTE, OVERHEAD, bounds_of
from fusedstep.profiler.groups import Group
from fusedstep.profiler.report import Line
from fusedstep.profiler.work import Work

from tests.profiler.conftest import machine_of

pytest.importorskip("rich", reason="rich is not installed: the tables need it")


def work_of(**options):
    """A call of which everything that does not matter is left out."""
    given = {
        "kind": "optimizer",
        "method": "adam",
        "dtype": "float32",
        "title": "adam step",
        "shape": "",
        "sizes": {"tensors": 2, "elements": 1000},
        "cost": Cost(28_000, 15_000),
        "resident": 16_000,
        "weights": 0,
        "weights_moved": 0,
        "threads": 1,
        "options": (),
    }
    return Work(**given | options)


def line_of(machine, *, calls=100, mean=None, fastest=None, share=0.5, **options):
    work = work_of(**options)
    bounds = bounds_of(work, machine)
    mean = bounds.seconds if mean is None else mean
    return Line(Group(work, calls, calls * mean, mean if fastest is None else fastest), bounds, share)


def advised(*lines, machine, seconds=1.0, outside=0.0):
    return " ".join(advice.given(lines, seconds, outside, machine))


# Verdicts.


def test_bytes_come_from_the_level_that_holds_the_arrays(machine):
    """Seven eighths of a cache hold them."""
    for size, level, rate in ((15, "L1", 100), (20, "L2", 50), (24, "L3", 25), (25, "memory", 12.5)):
        bounds = bounds_of(work_of(cost=Cost(10**6, 1), resident=7 << size >> 3), machine)
        assert (bounds.level, bounds.verdict) == (level, BANDWIDTH)
        assert bounds.seconds == pytest.approx(1e6 / (rate * 1e9))


def test_threads_share_the_arrays_and_add_their_rates(machine):
    one = bounds_of(work_of(cost=Cost(10**6, 1), resident=7 << 18), machine)
    two = bounds_of(work_of(cost=Cost(10**6, 1), resident=7 << 18, threads=2), machine)
    assert (one.level, two.level) == ("L3", "L2")
    assert one.seconds == pytest.approx(4 * two.seconds)
    assert two.fixed == pytest.approx(one.fixed + machine.region)


def test_threads_between_one_and_all_lie_on_a_line():
    machine = machine_of(threads=4)
    times = [bounds_of(work_of(cost=Cost(1, 10**9), threads=n), machine).seconds for n in (1, 2, 3, 4)]
    assert times == pytest.approx([1e-2, 5e-3, 1e-2 / 3, 2.5e-3])


def test_flops_bind_where_they_take_longer(machine):
    assert bounds_of(work_of(cost=Cost(10**6, 10**9)), machine).verdict == COMPUTE
    double = bounds_of(work_of(cost=Cost(10**6, 10**9), dtype="float64"), machine)
    assert double.seconds == pytest.approx(2e-2)


def test_a_call_that_costs_more_than_its_work_is_overhead(machine):
    assert bounds_of(work_of(cost=Cost(1000, 500)), machine).verdict == OVERHEAD
    assert bounds_of(work_of(cost=Cost(21_000, 500)), machine).verdict == BANDWIDTH  # 210 ns against 200
    assert bounds_of(work_of(cost=Cost(50_000, 500), threads=2), machine).verdict == OVERHEAD  # a region: 1 µs


def test_weights_come_from_where_they_fit(machine):
    """Of 2 MB, 1 MB are weights that stay in L1; the rest is in L3."""
    work = work_of(cost=Cost(2 * 10**6, 1), resident=7 << 21, weights=7 << 12, weights_moved=10**6)
    assert bounds_of(work, machine).seconds == pytest.approx(1e6 / 100e9 + 1e6 / 25e9)


# Advice.


def test_small_tensors_are_to_be_one_list(machine):
    small = {"sizes": {"tensors": 1, "elements": 256}, "cost": Cost(7168, 3840)}
    assert "adam step: 1,000 calls of 256 elements: pass the parameters as one list" in advised(
        line_of(machine, calls=1000, **small), machine=machine, seconds=0.01
    )
    assert advised(line_of(machine, calls=9, **small), machine=machine) == ""
    large = {"sizes": {"tensors": 1, "elements": 10**6}, "cost": Cost(28 * 10**6, 1)}
    assert "one list" not in advised(line_of(machine, **large), machine=machine)
    listed = {"sizes": {"tensors": 9, "elements": 256}, "cost": Cost(7168, 3840)}
    assert "one list" not in advised(line_of(machine, **listed), machine=machine)


CELL = {
    "kind": "cell",
    "method": "lstm",
    "title": "lstm cell",
    "sizes": {"B": 1, "I": 8, "H": 64},
    "cost": Cost(100_000, 1000),
    "weights": 90_000,
    "weights_moved": 90_000,
}


def test_steps_are_to_be_sequences_and_frozen(machine):
    text = advised(line_of(machine, **CELL), machine=machine)
    assert "rnn.LSTM runs them in one call" in text
    assert "packed in each of 100 calls: freeze()" in text
    assert "which more rows at once would share" in text
    text = advised(line_of(machine, **CELL, options=("tape",)), machine=machine)
    assert "rnn.LSTM runs a sequence forward, and backward" in text
    assert "freeze" not in text
    gru = {**CELL, "method": "gru", "kind": "cell_backward"}
    assert "rnn.GRU" in advised(line_of(machine, **gru), machine=machine)


def test_frozen_steps_of_few_rows_are_to_have_lighter_weights(machine):
    stream = {**CELL, "kind": "stream", "options": ("frozen",)}
    assert "bfloat16 or int8" in advised(line_of(machine, **stream), machine=machine)
    assert advised(line_of(machine, **stream | {"options": ("frozen", "int8")}), machine=machine) == ""
    busy = {**stream, "cost": Cost(100_000, 10**9)}
    assert advised(line_of(machine, **busy), machine=machine) == ""


def test_a_rule_speaks_once_for_all_that_it_sees(machine):
    lines = [line_of(machine, **CELL | {"title": title}) for title in ("lstm cell", "lstm cell, other", "lstm cell")]
    text = advised(*lines, machine=machine)
    assert text.count("freeze() packs them once; likewise lstm cell, other") == 1
    small = [
        line_of(machine, share=0.006, sizes={"tensors": 1, "elements": n}, cost=Cost(28 * n, 15 * n)) for n in (10, 256)
    ]
    assert "200 calls of 10 to 256 elements" in advised(*small, machine=machine, seconds=0.001)


def test_double_precision_is_named(machine):
    large = {"cost": Cost(10**7, 1), "resident": 10**7}
    assert "float64 moves twice the bytes" in advised(
        line_of(machine, threads=2, dtype="float64", **large), machine=machine
    )
    assert advised(line_of(machine, threads=2, **large), machine=machine) == ""


def test_idle_threads_are_named(machine):
    large = {"cost": Cost(10**8, 1), "resident": 10**7}
    assert "ran on 1 of 2 threads" in advised(line_of(machine, **large), machine=machine)
    assert advised(line_of(machine_of(1), **large), machine=machine_of(1)) == ""


def test_calls_slower_than_the_fastest_are_named(machine):
    large = {"cost": Cost(10**7, 1), "resident": 10**7, "threads": 2}
    best = line_of(machine, **large).bounds.seconds
    text = advised(line_of(machine, mean=4 * best, fastest=1.25 * best, **large), machine=machine)
    assert "reached 80% of the ceiling for bytes, the mean 25%" in text


def test_what_takes_most_is_named_first_and_small_shares_not_at_all(machine):
    line = line_of(machine, share=0.3, **CELL)
    text = advised(line, machine=machine, outside=0.62)
    assert text.startswith("62% of the time is in no fused call")
    assert advised(line._replace(share=0.001), machine=machine) == ""
    assert "no fused call" not in advised(line, machine=machine, outside=0.2)


# What is shown.


@pytest.fixture(scope="module")
def prof():
    small = [fusedstep.optim.Adam(np.ones(256, np.float32)) for _ in range(20)]
    g = np.ones(256, np.float32)
    module = fusedstep.rnn.LSTM(8, 16, rng=0)
    x = np.ones((10, 4, 8), np.float32)
    with fusedstep.profile() as found:
        for _ in range(50):
            with found.range("steps"):
                for opt in small:
                    opt.step(g)
            y, _, tape = module.forward(x)
            module.backward(tape, y)
            fusedstep.loss.mse(y, 0.0)
            found.matmul(y[0], np.ones((16, 3), np.float32))
    return found


def test_table_tells_calls_rates_verdicts_and_advice(prof, machine, tmp_path):
    machine = machine._replace(
        calls=machine.calls | {"optimizer": 1e-4}
    )  # so that small steps count, however busy it is
    with (tmp_path / "table").open("w+", encoding="utf-8") as file:
        prof.table(file=file, width=170, machine=machine)
        file.seek(0)
        text = file.read()
    for title in ("calls", "time", "share", "GB/s", "GFLOP/s", "of ceiling", "verdict", "in fused calls"):
        assert title in text
    row = next(line for line in text.splitlines() if line.lstrip().startswith("adam step"))
    assert " 256 " in row
    assert "1,000" in row
    assert "overhead-bound" in row
    for name in ("lstm sequence, tape", "lstm sequence backward", "mse", "numpy.matmul", "4×16 @ 16×3", "steps"):
        assert name in text
    assert "1,000 calls of 256 elements: pass the parameters as one list" in text


def test_an_empty_profile_has_a_table(machine, capsys):
    with fusedstep.profile() as prof:
        pass
    prof.table(machine=machine)
    assert "0 calls" in capsys.readouterr().out
    assert prof.to_dict(machine=machine)["calls"] == []


def test_the_rest_of_many_groups_is_one_row(machine, tmp_path):
    with fusedstep.profile() as prof:
        for n in range(1, 31):
            fusedstep.optim.Adam(np.ones(n)).step(np.ones(n))
    with (tmp_path / "table").open("w+", encoding="utf-8") as file:
        prof.table(file=file, width=170, machine=machine)
        file.seek(0)
        assert "5 more" in file.read()


def test_dropped_calls_are_told(machine, capsys, monkeypatch):
    with fusedstep.profile() as prof:
        pass
    monkeypatch.setattr(prof, "_kept", prof.calls._replace(dropped=7))
    prof.table(machine=machine, width=150)
    assert "7 further calls were not kept" in capsys.readouterr().out


def test_dict_holds_plain_numbers(prof, machine):
    record = json.loads(json.dumps(prof.to_dict(machine=machine)))
    assert {"seconds", "outside", "dropped", "isa", "machine", "calls", "ranges", "advice"} == record.keys()
    by_name = {call["name"]: call for call in record["calls"]}
    adam = by_name["adam step"]
    assert (adam["calls"], adam["bytes"], adam["flops"], adam["verdict"]) == (1000, 256 * 28, 256 * 15, OVERHEAD)
    assert adam["GB/s"] == pytest.approx(adam["bytes"] * 1000 / adam["seconds"] / 1e9)
    assert sum(call["seconds"] for call in record["calls"]) + record["outside"] == pytest.approx(record["seconds"])
    assert record["ranges"][0]["calls"] == 50


def test_report_takes_this_machines_ceilings(prof, monkeypatch, machine):
    from fusedstep.profiler import report

    monkeypatch.setattr(report, "machine", lambda: machine)
    assert prof.to_dict()["machine"]["cpu"] == machine.cpu
    assert "adam step" in str(prof)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_roofline_is_drawn(prof, machine, tmp_path, ending):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: nothing draws")
    path = tmp_path / f"roofline.{ending}"
    prof.roofline(path, machine=machine)
    start = path.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") or b"<svg" in start or b"<?xml" in start


def test_roofline_of_nothing_shows_the_roofs(machine, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: nothing draws")
    with fusedstep.profile() as prof:
        pass
    prof.roofline(tmp_path / "empty.png", machine=machine)
    assert (tmp_path / "empty.png").read_bytes().startswith(b"\x89PNG")
