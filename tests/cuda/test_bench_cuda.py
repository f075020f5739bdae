"""The benchmark on a GPU, as far as it goes without one: its cases, its clock, and each contender's statements."""

import importlib
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench import cases, inputs, machine, report, rows, short
from bench.contenders import CONTENDERS
from bench.contenders.cuda import Clock
from bench.timing import Sampler

ROOT = Path(__file__).parents[2]
ALL_CASES = rows.select(full=True, device="cuda")


# The command.


def test_run_without_a_gpu_says_what_is_missing(monkeypatch, capsys):
    from bench.__main__ import main

    monkeypatch.setattr(machine, "cuda_missing", lambda: "there is no GPU")
    with pytest.raises(SystemExit) as stopped:
        main(["--device", "cuda"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith("error: --device cuda: there is no GPU\n")


def test_growth_is_refused(capsys):
    from bench.__main__ import main

    with pytest.raises(SystemExit):
        main(["--device", "cuda", "--growth"])
    assert "--growth measures the host's memory" in capsys.readouterr().err


@pytest.mark.parametrize("driver", [None, "exit 9", "echo 'No devices were found'"])
def test_gpu_check_stops_where_there_is_no_gpu(tmp_path, driver):
    """Before it builds anything."""
    for tool in ("bash", "dirname", "python3"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    if driver:
        smi = tmp_path / "nvidia-smi"
        smi.write_text(f"#!{tmp_path}/bash\n{driver}\n")
        smi.chmod(0o755)
    command = [tmp_path / "bash", ROOT / "bench" / "gpu_check.sh"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("gpu_check: the NVIDIA driver finds no GPU" if driver else "gpu_check: there is no")
    assert "Build" not in done.stdout


# Cases.


def test_every_case_has_a_name_of_its_own():
    assert len({case.name for case in ALL_CASES}) == len(ALL_CASES)
    assert {case.table for case in ALL_CASES} == set(report.CAPTIONS["cuda"])


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_peers_run_on_a_gpu(case):
    for peer in ("fusedstep", *case.peers):
        assert "cuda" in CONTENDERS[peer].devices
        assert (ROOT / "bench" / "contenders" / "cuda" / f"{peer}.py").exists()
    assert not case.targets
    assert not getattr(case, "frozen", False)


# The clock.


class Device:
    """Work takes time on it, and what is asked of it takes its turn."""

    def __init__(self):
        self.now = 0.0

    def work(self, seconds):
        self.now += seconds

    def event(self):
        return Event(self)


class Event:
    def __init__(self, device):
        self.device = device

    def record(self):
        self.at = self.device.now

    def synchronize(self):
        assert self.at <= self.device.now


def milliseconds(a, b):
    return np.float32((b.at - a.at) * 1e3)  # as CUDA returns it


def test_clock_counts_the_devices_time_alone():
    device = Device()
    clock = Clock(device.event, milliseconds)
    device.work(1e5)  # a day later a float32 of all milliseconds would be 8 ms wide
    sampler = Sampler("device.work(3e-6)", {"device": device}, clock=clock)
    begin = time.perf_counter()
    assert math.isclose(sampler.sample(1e-3), 3e-6, rel_tol=1e-5)
    assert time.perf_counter() - begin < 1  # of the host


# Contenders.

SMALL = list({case.small().name: case.small() for case in ALL_CASES}.values())
OPTIM = [case for case in SMALL if isinstance(case, cases.OptimCase)]
RNN = [case for case in SMALL if not isinstance(case, cases.OptimCase)]


def checked(contender, case):
    """Run a contender's statement as a worker does, and return its step and the error of its result."""
    step = contender.prepare(case)
    for _ in range(inputs.STEPS):
        exec(step.statement, step.names)
    return step, inputs.error(case, step.result(), zeroes=step.zeroes)


class Kernel:
    """CuPy's ElementwiseKernel over NumPy: the operation is Python too."""

    def __init__(self, given, changed, operation, _):
        self.given, self.changed = ([each.split()[1] for each in text.split(", ")] for text in (given, changed))
        self.operation = operation.replace("f ", " ").replace("f)", ")")

    def __call__(self, *arguments):
        named = zip([*self.given, *self.changed], arguments, strict=True)
        names = {name: getattr(value, "_host", value) for name, value in named} | {"sqrt": np.sqrt}
        exec(self.operation, names)


class Graph:
    """A captured statement. The stand-in's streams run what they capture, so that the first replay is already done."""

    def __init__(self):
        self.statement, self.names, self.done = "", {}, False

    def launch(self):
        if self.done:
            exec(self.statement, self.names)
        self.done = True


@pytest.fixture
def gpu(cupy, monkeypatch):
    """The stand-in for CuPy with what the contenders take beside the library."""
    device = Device()
    cuda, runtime = cupy.cuda, cupy.cuda.runtime
    properties = {"name": b"stand-in", "major": 9, "minor": 0, "multiProcessorCount": 4}
    runtime.getDeviceProperties = lambda _: properties
    runtime.memGetInfo = lambda: (1 << 30, 1 << 31)
    runtime.driverGetVersion = lambda: 13000
    cuda.Event, cuda.get_elapsed_time = device.event, milliseconds
    plain = cuda.Stream
    cuda.Stream = lambda **_: plain()
    copied = []

    def copy(*arguments):
        *_, n, _ = arguments
        copied.append(n)
        device.work(n * 1e-9)

    monkeypatch.setattr(cuda.MemoryPointer, "copy_from_device_async", copy, raising=False)
    cupy.get_default_memory_pool = type("Pool", (), {"free_all_blocks": lambda _: None})
    cupy.__version__ = "stand-in"
    cupy.float32, cupy.uint8, cupy.sqrt = np.float32, np.uint8, lambda x: np.sqrt(getattr(x, "_host", x))
    cupy.zeros_like = lambda array: cupy.zeros(array.shape, array.dtype)
    cupy.ElementwiseKernel = Kernel
    cupy.fuse = lambda function: lambda *arguments: function(*(getattr(a, "_host", a) for a in arguments))
    cupy.copied = copied
    yield cupy
    for name in [name for name in sys.modules if name.startswith("bench.contenders.cuda.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("case", OPTIM, ids=lambda case: case.name)
def test_fusedstep_steps(gpu, case):
    from bench.contenders.cuda import fusedstep

    contender = fusedstep.Contender(1)
    step, error = checked(contender, case)
    assert error <= inputs.TOLERANCE
    assert contender.describe()["isa"] == "sm_90"
    if step.ceiling:
        assert math.isclose(step.ceiling(1e-4), case.work // 2 * 1e-9, rel_tol=1e-4)
        assert set(gpu.copied) == {case.work // 2}  # read, and written as many
    contender.release()


@pytest.mark.parametrize("case", RNN, ids=lambda case: case.name)
@pytest.mark.usefixtures("gpu")
def test_fusedstep_runs_cells_and_sequences(case):
    from bench.contenders.cuda import fusedstep

    step, error = checked(fusedstep.Contender(1), case)
    assert error <= inputs.TOLERANCE
    assert step.ceiling is None


@pytest.mark.parametrize("case", [case for case in RNN if "plain" in case.peers], ids=lambda case: case.name)
@pytest.mark.usefixtures("gpu")
def test_plain_fusedstep_runs_without_the_option(case):
    from bench.contenders.cuda import plain

    contender = plain.Contender(1)
    assert contender.fit(case).option == ""
    assert checked(contender, contender.fit(case))[1] <= inputs.TOLERANCE


@pytest.mark.parametrize("case", [OPTIM[0], OPTIM[-1], *RNN[:1], *RNN[-2:]], ids=lambda case: case.name)
@pytest.mark.usefixtures("gpu")
def test_graph_replays_what_it_captured(case):
    from bench.contenders.cuda import graph

    made = Graph()
    contender = graph.Contender(1)
    contender.queue.begin_capture = lambda: None
    contender.queue.end_capture = lambda: made
    step = contender.prepare(case)
    made.statement, made.names = step.variant, step.names
    assert step.statement == "graph.launch()"
    for _ in range(inputs.STEPS):
        exec(step.statement, step.names)
    assert inputs.error(case, step.result(), zeroes=step.zeroes) <= inputs.TOLERANCE


PLAIN = [case for case in OPTIM if not (case.max_norm or case.check_finite)]


@pytest.mark.parametrize("name", ["elementwise", "fuse"])
@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
@pytest.mark.usefixtures("gpu")
def test_cupys_kernels_step(name, case):
    contender = importlib.import_module(f"bench.contenders.cuda.{name}").Contender(1)
    assert checked(contender, case)[1] <= inputs.TOLERANCE


@pytest.mark.parametrize("name", ["torch", "torch_foreach"])
@pytest.mark.parametrize("case", [*OPTIM, *(case for case in RNN if "torch" in case.peers)], ids=lambda case: case.name)
def test_torch_steps(name, case):
    """With torch on the CPU."""
    pytest.importorskip("torch", reason="torch is not installed")
    from bench.contenders import torch as cpu

    class Contender(importlib.import_module(f"bench.contenders.cuda.{name}").Contender):
        device = "cpu"
        __init__ = cpu.Contender.__init__

        def clock(self):
            return time.perf_counter

    contender = Contender(1)
    try:
        step, error = checked(contender, case)
    finally:
        contender.release()
    assert error <= inputs.TOLERANCE
    if isinstance(case, cases.OptimCase):
        assert step.variant == ("foreach" if name == "torch_foreach" or case.method == "rmsprop" else "fused")


# The short table.


def record(**contenders):
    seconds = {name: {"correct": True, "seconds": {"median": s, "low": s, "high": s}} for name, s in contenders.items()}
    return {"name": "case", "skipped": "", "ceiling": {"fraction": {"median": 0.93}}, "contenders": seconds}


def test_short_table_has_ours_and_the_fastest_peer():
    case = record(fusedstep=2e-3, graph=1e-3, torch=3e-3, fuse=8e-3)
    assert short.row(case) == ["case", "2 ms ±0%", "93%", "1 ms ±0%", "torch 1.5×"]
    case["contenders"]["torch"]["correct"] = False
    assert short.row(case)[4:] == ["cupy.fuse 4×", "FAILED or wrong: torch"]
    assert short.row({**case, "skipped": "too large", "contenders": {}})[1] == "skipped: too large"
