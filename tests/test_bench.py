"""The benchmark: its statistics, its checks, its workers, and a run on the smallest sizes."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fusedstep.optim import OPTIMIZERS

from bench import cases, inputs
from bench.contenders import CONTENDERS
from bench.runner import OURS, Outcome, Runner, Settings, Timing, Worker, WorkerError
from bench.timing import Sampler, Spread, ratio

ROOT = Path(__file__).parent.parent
QUICK = Settings(threads=1, sample=0.001, rounds=3, budget=0.01)
ALL_CASES = cases.select(full=True)


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


# Cases.


def test_gpt2_has_its_parameters():
    assert len(cases.gpt2()) == 148
    assert sum(math.prod(shape) for shape in cases.gpt2()) == 124_439_808


@pytest.mark.parametrize("level", ["default", "full", "smoke"])
def test_every_case_has_a_name_of_its_own(level):
    chosen = cases.select(full=level == "full", smoke=level == "smoke")
    assert len({case.name for case in chosen}) == len(chosen)
    assert {case.group for case in chosen} == {"optim", "rnn"}
    assert {case.method for case in chosen} == {*OPTIMIZERS, "lstm", "gru"}


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_peers_and_targets_name_contenders(case):
    assert set(case.peers) <= set(CONTENDERS) - {OURS}
    assert set(case.targets) <= {*case.peers, "ceiling", "seconds"}


def test_step_bytes_count_every_pass():
    case = cases.OptimCase("adam", (), shapes=((10,),))
    assert case.work == 10 * 4 * 7  # reads p g m v, writes p m v
    assert replace(case, max_norm=1.0).work == 10 * 4 * 8
    assert replace(case, check_finite=True, zero_grads=True).work == 10 * 4 * 9


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


@pytest.mark.parametrize("method", ["lstm", "gru"])
def test_check_of_a_cell_sees_one_wrong_element(method):
    case = cases.CellCase(method, (), batch=2, size=3)
    _, state, _ = inputs.cell(case)
    assert inputs.cell_error(case, state) > inputs.TOLERANCE  # the old state is not the new one


# Workers.


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
        worker.start("prepare", cases.CellCase("lstm", (), size=2))
        assert worker.finish()["error"] < 1e-12
    finally:
        worker.close()


def test_worker_that_ends_says_why():
    worker = Worker("pure", threads=1)
    try:
        worker.finish()
        worker.start("prepare", None)
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
        after = runner.measure(cases.CellCase("gru", ("numpy",), size=4), lambda _: None)
        assert after.correct
        assert len(after.ours.samples) == QUICK.rounds
        assert after.ratio("numpy").median > 0


def test_case_that_needs_too_much_memory_is_skipped(monkeypatch):
    monkeypatch.setattr("bench.runner.available_memory", lambda: 1e6)
    with Runner(QUICK) as runner:
        outcome = runner.measure(cases.OptimCase("adam", (), shapes=((1_000_000,),)), lambda _: None)
    assert "memory" in outcome.skipped
    assert not outcome.timings


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
    assert "Cells" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")

    record = json.loads(figures.read_text(encoding="utf-8"))
    assert {"cpu", "processors", "python", "commit"} <= set(record["machine"])
    assert record["settings"]["threads"] >= 1
    installed = {name for name, entry in CONTENDERS.items() if entry.installed}
    assert set(record["contenders"]) == installed
    assert {"version", "isa", "threads"} <= set(record["contenders"][OURS])
    expected = {case.name: case for case in cases.select(smoke=True)}
    assert {case["name"] for case in record["cases"]} == set(expected)
    for case in record["cases"]:
        contenders = case["contenders"]
        assert set(contenders) == {OURS, *expected[case["name"]].peers} & installed, case["name"]
        for name, row in contenders.items():
            where = f"{case['name']}: {name}"
            assert row["correct"], where
            assert 0 <= row["error"] <= inputs.TOLERANCE, where
            spread, seconds = row["ours_over_this"], row["seconds"]
            assert 0 < spread["low"] <= spread["median"] <= spread["high"], where
            assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"], where
            assert len(row["samples"]) >= 3, where
        assert contenders[OURS]["ours_over_this"]["median"] == 1
        if case["ceiling"]:
            assert case["ceiling"]["fraction"]["median"] > 0
            assert case["ceiling"]["rate"] > 0
