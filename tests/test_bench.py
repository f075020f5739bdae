"""The benchmark: its statistics, its checks, its workers, and a run on the smallest sizes."""

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fusedstep
import numpy as np
import pytest
from fusedstep.optim import OPTIMIZERS
from fusedstep.profiler import kernels

from bench import cases, growth, inputs, losses, memory, prediction, roofline, rows
from bench.contenders import CONTENDERS
from bench.runner import OURS, Outcome, Runner, Settings, Timing, Worker, WorkerError
from bench.timing import Sampler, Spread, ratio
from tests.profiler.conftest import machine_of

ROOT = Path(__file__).parent.parent
QUICK = Settings(threads=1, sample=0.001, rounds=3, budget=0.01)
ALL_CASES = rows.select(full=True)


# Statistics.


def test_spread_is_median_and_quartiles():
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)


def test_ratio_is_taken_round_by_round():
    # The machine slows down tenfold in the last round, and the ratio does not change.
    assert ratio([1.0, 1.0, 10.0], [2.0, 2.0, 20.0]) == Spread(0.5, 0.5, 0.5)
    assert ratio([1.0, 2.0, 9.0], [1.0, 4.0]) == Spread.of([1.0, 0.5])


def test_inverse_swaps_the_quartiles():
    assert Spread(2.0, 1.0, 4.0).inverse() == Spread(0.5, 0.25, 1.0)


def test_sampler_repeats_short_statements_and_runs_its_setup_once_a_sample():
    seen = {"steps": 0, "setups": 0}
    names = {"seen": seen}
    sampler = Sampler("seen['steps'] += 1", names, "seen['setups'] += 1")
    seconds = sampler.sample(0.002)
    assert 0 < seconds < 0.002
    before = dict(seen)
    sampler.sample(0.002)
    assert seen["steps"] - before["steps"] > 10
    assert seen["setups"] - before["setups"] == 2  # warming up, and the sample


def test_sampler_runs_a_long_statement_once():
    runs = []
    sampler = Sampler("runs.append(sum(range(200_000)))", {"runs": runs})
    sampler.sample(1e-4)
    before = len(runs)
    sampler.sample(1e-4)
    assert len(runs) == before + 1


def test_paced_runs_start_that_far_apart_and_count_alone():
    starts = []
    names = {"starts": starts, "now": time.perf_counter}
    begin = time.perf_counter()
    seconds = Sampler("starts.append(now())", names, pace=2e-3).sample(0.02)
    assert len(starts) == 10
    assert all(start - begin >= i * 2e-3 for i, start in enumerate(starts))
    assert 0 < seconds < 1e-3


# Cases.


def test_gpt2_has_its_parameters():
    assert len(rows.gpt2()) == 148
    assert sum(math.prod(shape) for shape in rows.gpt2()) == 124_439_808


@pytest.mark.parametrize("level", ["default", "full", "smoke"])
def test_every_case_has_a_name_of_its_own(level):
    chosen = rows.select(full=level == "full", smoke=level == "smoke")
    assert len({case.name for case in chosen}) == len(chosen)
    assert {case.group for case in chosen} == {"optim", "rnn", "loss"}
    assert {case.table for case in chosen} == {"optim", "cells", "sequences", "streams", "losses"}
    assert {case.method for case in chosen} == {*OPTIMIZERS, "lstm", "gru", *losses.NUMPY}


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_peers_and_targets_name_contenders(case):
    assert set(case.peers) <= set(CONTENDERS) - {OURS}
    assert set(case.targets) <= {*case.peers, "ceiling", "roofline", "seconds"}


def test_step_bytes_count_every_pass():
    case = cases.OptimCase("adam", (), shapes=((10,),))
    assert case.work == 10 * 4 * 7  # reads p g m v, writes p m v
    assert replace(case, max_norm=1.0).work == 10 * 4 * 8
    assert replace(case, check_finite=True, zero_grads=True).work == 10 * 4 * 9


def test_sequence_operations_count_every_step_of_a_row():
    case = cases.SequenceCase("gru", (), steps=5, batch=3, size=7)
    assert case.work == 2 * 5 * 3 * (3 * 7) * (7 + 7)
    assert replace(case, backward=True).work == 3 * case.work
    varied = replace(case, varied=True)
    assert varied.lengths == [5, 2, 5]
    assert varied.work * 15 == case.work * 12


def test_predictions_that_are_far_off_are_named():
    pytest.importorskip("rich", reason="the tables need rich")
    from bench import report

    def outcome(case, *predicted, at_first=1.0):
        timing = Timing(samples=[1.0, 2.0, 1.0], facts={"predicted_at_first": at_first})
        return Outcome(case, {OURS: timing}, predicted=list(predicted))

    first, second = ALL_CASES[:2]
    assert report.predictions([outcome(first)]) == ""
    good = outcome(first, 1.25, 2.5, 1.25)  # the second round was slow, and its prediction said so
    assert good.told == Spread(1.25, 1.25, 1.25)
    assert good.record()["predicted"]["over_ours"]["median"] == 1.25
    text = report.predictions([good, outcome(second, 0.8, 1.6, 0.8, at_first=2.0)])
    assert "Within 30 %: 2 of 2. " in text
    assert "before the first case: 1 of 2." in text
    text = report.predictions([good, outcome(second, 0.5, 1.0, 0.5)])
    assert f"Within 30 %: 1 of 2; further off: {second.name}: 0.50." in text
    assert [text.plain for text in report.own(good)][-1] == "predicted × 1.25"


def test_predictions_take_the_figures_that_they_depend_on_and_no_others(monkeypatch):
    machine = machine_of()
    monkeypatch.setattr(fusedstep, "machine", lambda: machine, raising=False)
    prediction.meter_of.cache_clear()
    case = cases.OptimCase("adam", (), shapes=((25_000_000,),))
    told = prediction.Prediction(case)
    assert told.figures == [("bandwidth", "memory", "update", "all")]
    assert told.at_first == prediction.predicted(case, machine)
    asked = []

    def measure(_, figure, seconds, timer):
        assert timer is kernels.mean
        asked.append((figure, seconds))
        return 2 * machine.bandwidth["memory"]["update"].all

    monkeypatch.setattr(prediction.Meter, "measure", measure)
    assert told.sample(0.5) == pytest.approx(told.at_first / 2, rel=0.01)  # twice as fast now
    assert asked == [(told.figures[0], 0.5)]
    prediction.meter_of.cache_clear()


@pytest.mark.parametrize(("samples", "rounds"), [([1.0], 3), ([1.0, 1.05], 3), ([1.0, 2.0], 6)])
def test_noisy_cases_take_up_to_twice_as_many_rounds(samples, rounds, monkeypatch):
    taken = []

    def round_of(_, i, outcome):
        outcome.timings[OURS].samples.append(samples[i % len(samples)])
        taken.append(i)

    monkeypatch.setattr(Runner, "_round", round_of)
    with Runner(QUICK) as runner:
        runner.measure(cases.CellCase("gru", (), size=4), lambda _: None)
    assert taken == list(range(rounds))


# Checks.

CHECKED = [
    *(cases.OptimCase(method, (), shapes=((3, 5), (70_001,))) for method in OPTIMIZERS),
    cases.OptimCase("adamw", (), shapes=((3, 5), (70_001,)), max_norm=1.0, zero_grads=True),
]


def updated(case):
    """Run the reference over whole tensors, in float64."""
    params, grads = ([a.astype(np.float64) for a in arrays] for arrays in zip(*inputs.tensors(case), strict=True))
    states = [tuple(np.zeros_like(p) for _ in range(case.states)) for p in params]
    for step in range(1, inputs.STEPS + 1):
        norm = math.sqrt(sum(np.sum(g * g) for g in grads))
        clip = 1.0 if case.max_norm is None else min(1.0, case.max_norm / (norm + 1e-6))
        for p, g, own in zip(params, grads, states, strict=True):
            OPTIMIZERS[case.method].reference(p, g, own, step=step, lr=inputs.LEARNING_RATE, multiplier=clip)
            g[...] = 0 if case.zero_grads else g
    return params


@pytest.mark.parametrize("case", CHECKED, ids=lambda case: case.name)
def test_check_accepts_the_reference_and_sees_one_wrong_element(case):
    params = updated(case)
    assert inputs.optim_error(case, params, zeroes=case.zero_grads) < 1e-12
    params[1][69_999] += 0.01
    assert inputs.optim_error(case, params, zeroes=case.zero_grads) > inputs.TOLERANCE
    params[1][69_999] = np.nan
    assert not Timing(error=inputs.optim_error(case, params, zeroes=case.zero_grads)).correct


RNN_CHECKED = [
    case
    for method in ("lstm", "gru")
    for case in (
        cases.CellCase(method, (), batch=2, size=3),
        cases.StreamCase(method, (), batch=2, size=3),
        cases.SequenceCase(method, (), steps=4, batch=3, size=2, varied=True),
        cases.SequenceCase(method, (), steps=4, batch=3, size=2, backward=True),
    )
]


@pytest.mark.parametrize("case", RNN_CHECKED, ids=lambda case: f"{case.table}-{case.name}")
def test_check_of_a_cell_or_sequence_sees_one_wrong_element(case):
    sequence = isinstance(case, cases.SequenceCase)
    result = inputs.sequence_reference(case) if sequence else inputs.cell_reference(case)
    assert inputs.error(case, result) == 0
    for array in result:
        array[(-1,) * array.ndim] += 0.01
        assert inputs.error(case, result) > inputs.TOLERANCE
        array[(-1,) * array.ndim] -= 0.01
    with pytest.raises(AssertionError):  # nothing is broadcast
        inputs.error(case, [result[0][None], *result[1:]])


@pytest.mark.parametrize("method", ["lstm", "gru"])
def test_reference_stops_at_a_rows_length(method):
    case = cases.SequenceCase(method, (), steps=6, batch=2, size=3)
    y, *_ = inputs.sequence_reference(case)
    shorter, h, *_ = inputs.sequence_reference(replace(case, varied=True))
    assert np.array_equal(shorter[:, 0], y[:, 0])
    assert np.array_equal(shorter[:3, 1], y[:3, 1])
    assert not np.any(shorter[3:, 1])
    assert np.array_equal(h, [y[5, 0], y[2, 1]])


@pytest.mark.parametrize("method", ["lstm", "gru"])
def test_reference_gradients_match_finite_differences(method, monkeypatch):
    case = cases.SequenceCase(method, (), steps=3, batch=2, size=2, backward=True)
    given = inputs.sequence(case)
    given.x, given.dy = given.x.astype(np.float64), given.dy.astype(np.float64)
    given.state = tuple(a.astype(np.float64) for a in given.state)
    given.weights = {name: weight.astype(np.float64) for name, weight in given.weights.items()}
    monkeypatch.setattr(inputs, "sequence", lambda _: given)
    variables = [given.x, *given.state, *given.weights.values()]
    gradients = inputs.sequence_reference(case)[1 + len(given.state) :]
    for variable, gradient in zip(variables, gradients, strict=True):
        at = (0,) * variable.ndim
        losses = []
        for step in (1e-6, -2e-6):
            variable[at] += step
            losses.append(np.sum(inputs.sequence_reference(case)[0] * given.dy))
        variable[at] += 1e-6
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(gradient[at], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("method", losses.NUMPY)
def test_check_of_a_loss_sees_one_wrong_element(method):
    case = cases.LossCase(method, (), shape=(70, 40))
    given = inputs.loss(case)
    value, grad = losses.NUMPY[method](*(a if a.dtype.kind == "i" else a.astype(np.float64) for a in given))
    assert inputs.error(case, [value, grad]) < 1e-12
    assert inputs.error(case, [value * 1.01, grad]) > inputs.TOLERANCE
    grad[-1, -1] *= 1.01
    grad[-1, -1] += 1e-5
    assert inputs.error(case, [value, grad]) > inputs.TOLERANCE


# Workers.


def test_every_contender_has_a_colour():
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    from bench import plot

    assert set(plot.COLORS) == set(CONTENDERS)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_worker_sleeps_between_requests():
    worker = Worker("pure", threads=1)
    try:
        worker.finish()
        state = Path(f"/proc/{worker.pid}/stat")
        for _ in range(1000):
            if stopped := state.read_text().rpartition(")")[2].split()[0] == "T":
                break
        assert stopped
        worker.start("prepare", (cases.CellCase("lstm", (), size=2), None))
        assert worker.finish()["error"] < 1e-12
    finally:
        worker.close()


def test_worker_that_ends_says_why():
    worker = Worker("pure", threads=1)
    try:
        worker.finish()
        worker.start("prepare", (None, None))
        with pytest.raises(WorkerError, match="AttributeError"):
            worker.finish()
    finally:
        worker.close()


def test_failure_is_one_cases_alone():
    broken = cases.CellCase("gru", (), size=-1)
    with Runner(QUICK) as runner:
        failed = runner.measure(broken, lambda _: None)
        assert "TypeError" in failed.timings[OURS].failure
        assert not failed.correct
        assert failed.ours is None
        assert failed.record()["ceiling"] is None
        assert failed.record()["roofline"] is None
        after = runner.measure(cases.CellCase("gru", ("numpy",), size=4), lambda _: None)
        assert after.correct
        assert QUICK.rounds <= len(after.ours.samples) <= 2 * QUICK.rounds
        assert after.ratio("numpy").median > 0


def test_case_that_needs_too_much_memory_is_skipped(monkeypatch):
    monkeypatch.setattr("bench.runner.available_memory", lambda: 1e6)
    with Runner(QUICK) as runner:
        outcome = runner.measure(cases.OptimCase("adam", (), shapes=((1_000_000,),)), lambda _: None)
    assert "memory" in outcome.skipped
    assert not outcome.timings


def test_case_that_takes_more_threads_than_the_run_is_skipped():
    with Runner(QUICK) as runner:
        outcome = runner.measure(cases.StreamCase("lstm", (), size=4, threads=2), lambda _: None)
    assert outcome.skipped == "takes 2 threads"
    assert not outcome.timings


@pytest.mark.skipif(not memory.RESET.exists(), reason="resets the high-water mark in /proc")
def test_memory_of_a_step_is_what_it_allocates():
    case = cases.SequenceCase("gru", (), steps=64, batch=256, size=128)
    output = 64 * 256 * 128 * 4
    with Runner(QUICK) as runner:
        assert output <= runner.memory("numpy", case) < 2 * output  # the temporaries of a step are small


def test_growth_measures_every_point_once(monkeypatch, tmp_path):
    pytest.importorskip("rich", reason="the tables need rich")
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    from bench import plot, report

    monkeypatch.setattr(growth, "BASE", replace(growth.BASE, peers=(), steps=2, batch=2, size=64))
    heard = []
    with Runner(QUICK) as runner:
        points = growth.measure(runner, {"steps": (2,), "size": (64, 128)}, heard.append)
    assert heard == ["growth, T=2", "growth, I=H=128"]  # the base is on both axes
    assert [(point.axis, point.value) for point in points] == [("steps", 2), ("size", 64), ("size", 128)]
    for point in points:
        record = json.loads(json.dumps(point.record()))
        assert record["inference"]["contenders"][OURS]["correct"]
        assert record["training"]["contenders"][OURS]["correct"]
        assert set(record["memory"]) == {OURS}
        assert record["memory"][OURS] > 0
    assert report.growth(points).row_count == 3
    picture = tmp_path / "growth.png"
    plot.draw_growth(points, "", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


# The whole.


def test_wrong_result_is_shown_and_fails(monkeypatch, capsys):
    pytest.importorskip("rich", reason="the tables need rich")
    from bench.__main__ import main

    monkeypatch.setattr("bench.__main__.select", lambda *_, **__: [cases.CellCase("gru", ("numpy",), size=4)])
    monkeypatch.setattr(inputs, "TOLERANCE", -1.0)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert main(["--smoke"]) == 1
    shown = capsys.readouterr().out
    assert "WRONG" in shown
    assert "OPENBLAS_CORETYPE=Haswell is set here" in shown


@pytest.mark.parametrize("every", [False, True])
def test_targets_are_all_needed_or_one(every):
    pytest.importorskip("rich", reason="the tables need rich")
    from bench.report import target

    limits = {"numpy": 0.5, "torch": 0.5, "onnxruntime": 0.5}
    case = cases.CellCase("gru", tuple(limits), targets=limits, every=every)
    timings = {OURS: Timing(samples=[1.0]), "numpy": Timing(samples=[1.0]), "torch": Timing(samples=[4.0])}
    shown = target(Outcome(case, timings))
    assert shown.plain.splitlines() == ["1.000 ≤ 0.500 × numpy", f"{'' if every else 'or '}0.250 ≤ 0.500 × torch"]
    assert [span.style for span in shown.spans] == ["yellow" if every else "green", "green"]


def test_further_tensor_is_the_slope():
    pytest.importorskip("rich", reason="the tables need rich")
    from bench.report import further_tensor

    outcomes = [
        Outcome(cases.OptimCase("adam", (), shapes=((1,),) * count), {OURS: Timing(samples=[seconds])})
        for count, seconds in ((1, 1.0), (101, 3.0))
    ]
    assert further_tensor(outcomes) == {OURS: pytest.approx(0.02)}


def test_smoke(tmp_path):
    """A run as a user starts it: everything is checked, timed, saved and drawn."""
    pytest.importorskip("rich", reason="the tables need rich")
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    figures, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    command = [sys.executable, "-m", "bench", "--smoke", "--json", str(figures), "--plot", str(picture)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Optimizers" in done.stdout
    for title in ("Cells", "Sequences", "Streams"):
        assert title in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")

    record = json.loads(figures.read_text(encoding="utf-8"))
    assert {"cpu", "processors", "python", "commit"} <= set(record["machine"])
    assert record["settings"]["threads"] >= 1
    installed = {name for name, entry in CONTENDERS.items() if entry.installed and "cpu" in entry.devices}
    expected = {case.name: case for case in rows.select(smoke=True)}
    assert set(record["contenders"]) == installed & {OURS, *(peer for case in expected.values() for peer in case.peers)}
    assert {"version", "isa", "threads"} <= set(record["contenders"][OURS])
    assert {case["name"] for case in record["cases"]} == set(expected)
    for case in record["cases"]:
        if expected[case["name"]].threads > record["settings"]["threads"]:
            assert case["skipped"]
            continue
        contenders = case["contenders"]
        assert set(contenders) == {OURS, *expected[case["name"]].peers} & installed, case["name"]
        for name, row in contenders.items():
            where = f"{case['name']}: {name}"
            assert row["correct"], where
            assert 0 <= row["error"] <= inputs.TOLERANCE + row["rounding"], where
            spread, seconds = row["ours_over_this"], row["seconds"]
            assert 0 < spread["low"] <= spread["median"] <= spread["high"], where
            assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"], where
            assert len(row["samples"]) >= 3, where
        assert contenders[OURS]["ours_over_this"]["median"] == 1
        if case["ceiling"]:
            assert case["ceiling"]["fraction"]["median"] > 0
            assert case["ceiling"]["rate"] > 0
        assert bool(case["roofline"]) == (case["group"] == "loss")
        if case["roofline"]:
            assert case["roofline"]["fraction"]["median"] >= case["ceiling"]["fraction"]["median"]


@pytest.mark.parametrize(("name", "divide", "sqrt"), [("cauchy", 1, 0), ("expectile", 1, 1), ("log_cosh", 1, 0)])
def test_roofline_counts_divisions_and_roots(name, divide, sqrt):
    f = fusedstep.loss.custom(lambda p, t: losses.CUSTOM[name](fusedstep.loss.math, p, t))
    f(np.ones(3, np.float32), 0.5)
    found = roofline.divisions(f)
    assert (found["divide"], found["sqrt"]) == (divide, sqrt)
    alone = roofline.computing(0, 1 << 20, {"divide": 1})(0.001)
    assert 0 < alone < roofline.computing(0, 1 << 20, {"divide": 20})(0.001)
    assert roofline.computing(1 << 40, 1, found)(0.001) > alone
