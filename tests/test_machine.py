"""The machine's ceilings: what is measured, what is kept, and what is measured anew."""

import json
import os
import subprocess
import sys

import fusedstep
import pytest
from fusedstep import _core
from fusedstep.profiler import ceilings as module
from fusedstep.profiler import kernels

LEVELS = ["L1", "L2", "L3", "memory"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache folder of its own, and nothing known yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_known", {})
    monkeypatch.setattr(module, "_SECONDS", 0.001)
    return tmp_path / "fusedstep"


@pytest.fixture
def unmeasurable(monkeypatch):
    def fail(*_):
        raise AssertionError("measured again")

    return lambda: monkeypatch.setattr(_core, "bandwidth", fail)


@pytest.mark.usefixtures("folder")
def test_every_level_stream_and_dtype_has_a_rate():
    m = fusedstep.machine()
    assert (m.isa, m.threads) == (fusedstep.build_info()["isa"], fusedstep.num_threads())
    assert list(m.bandwidth) == LEVELS
    assert list(m.peak) == ["float32", "float64"]
    rates = [rate for streams in m.bandwidth.values() for rate in streams.values()] + list(m.peak.values())
    assert len(rates) == 18
    rates += m.rates.values()
    assert all(rate.one > 0 and rate.all > 0 for rate in rates)
    assert set(m.caches) == {"L1", "L2", "L3"}
    assert list(m.calls) == list(kernels.CALLS)
    assert list(m.rates) == list(kernels.RATES)
    assert all(seconds > 0 for seconds in m.calls.values())
    assert (m.region > 0) == (m.barrier > 0) == (m.threads > 1)
    assert m.caches["L1"] < m.caches["L2"] < m.caches["L3"]


def test_unknown_streams_are_refused():
    with pytest.raises(KeyError, match="no stream is called scale"):
        _core.bandwidth("scale", 1024, 0.001, 1)


def test_it_is_kept_in_the_cache_folder(folder, unmeasurable):
    first = fusedstep.machine()
    (file,) = folder.iterdir()
    assert fusedstep.build_info()["isa"] in file.name
    unmeasurable()
    assert fusedstep.machine() is first
    module._known.clear()
    assert fusedstep.machine() == first  # of the file


def test_refresh_measures_again(folder):
    first = fusedstep.machine()
    (file,) = folder.iterdir()
    second = fusedstep.machine(refresh=True)
    assert second is not first
    assert json.loads(file.read_text())["peak"]["float32"] == list(second.peak["float32"])
    assert fusedstep.machine() is second


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"bandwidth": 3}', '{"peak": {}, "bandwidth": {"L1": {}}}'])
def test_a_broken_file_is_replaced(folder, text):
    first = fusedstep.machine()
    (file,) = folder.iterdir()
    file.write_text(text)
    module._known.clear()
    assert fusedstep.machine().threads == first.threads
    assert json.loads(file.read_text())["isa"] == first.isa


def test_other_numbers_of_threads_are_kept_apart(folder, threads):
    one = 1 if fusedstep.num_threads() > 1 else 2
    before = fusedstep.machine()
    threads(one)
    after = fusedstep.machine()
    assert (before.threads, after.threads) != (after.threads, before.threads)
    assert len(list(folder.iterdir())) == 2


def test_a_folder_that_cannot_be_made_is_done_without(folder):
    folder.write_text("a file in its place")
    assert fusedstep.machine() is fusedstep.machine()
    assert folder.read_text() == "a file in its place"


def test_caches_without_a_system_that_tells(monkeypatch):
    monkeypatch.setattr(module, "_system_caches", lambda: iter(()))
    assert module._caches() == {"L1": 32 << 10, "L2": 512 << 10, "L3": 8 << 20}


def test_refresh_must_be_a_bool():
    with pytest.raises(TypeError, match="refresh must be True or False, got 1"):
        fusedstep.machine(refresh=1)


def test_command_prints_the_table(tmp_path):
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "fusedstep", "machine"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[3:7]] == LEVELS
    assert lines[9].startswith("fused multiply-adds")
    assert all(len(line.split(" / ")) == 5 for line in lines[3:7])
    assert all(any(line.startswith(f"smallest {name}") for line in lines) for name in kernels.CALLS)
    assert all(any(line.startswith(f"{name}, one thread / all") for line in lines) for name in kernels.RATES)
