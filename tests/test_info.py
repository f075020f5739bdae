"""What the package says of itself, how it starts, and what it refuses to start with."""

import os
import subprocess
import sys

import fusedstep
import numpy as np
import pytest

KEYS = ["version", "compiler", "isas", "isa", "threads", "cuda"]


def python(*arguments, **environment):
    """Run Python with the package, and settings of ours as environment variables or (None) without them."""
    env = {key: value for key, value in {**os.environ, **environment}.items() if value is not None}
    return subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_build_info():
    info = fusedstep.build_info()
    assert list(info) == KEYS
    assert info["version"] == fusedstep.__version__
    assert isinstance(info["isas"], tuple)
    assert info["isa"] in info["isas"]
    assert info["threads"] == fusedstep.num_threads() >= 1
    assert isinstance(info["cuda"], bool)


def test_info_command_prints_build_info():
    result = python("-m", "fusedstep", "info")
    assert result.returncode == 0, result.stderr
    printed = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert list(printed) == KEYS
    assert printed["version"] == fusedstep.__version__
    assert printed["isas"] == ", ".join(fusedstep.build_info()["isas"])


@pytest.mark.parametrize("arguments", [[], ["inform"], ["info", "more"], ["machine", "more"]])
def test_other_commands_print_the_usage(arguments):
    result = python("-m", "fusedstep", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: ")
    assert result.stdout == ""


def test_import_needs_numpy_alone():
    """And no heavy part of the standard library that NumPy does not load itself."""
    code = "import numpy, sys; before = set(sys.modules); import fusedstep; print(*set(sys.modules) - before)"
    result = python("-c", code)
    assert result.returncode == 0, result.stderr
    added = {name.split(".")[0] for name in result.stdout.split()}
    assert "fusedstep" in added
    assert added <= {"fusedstep", "numpy"} | sys.stdlib_module_names
    assert not added & {"asyncio", "dataclasses", "inspect", "multiprocessing", "unittest"}


def test_isa_may_be_forced():
    base = fusedstep.build_info()["isas"][0]  # runs wherever the build does
    chosen = python("-c", "import fusedstep; print(fusedstep.build_info()['isa'])", FUSEDSTEP_ISA=base)
    assert chosen.stdout.strip() == base, chosen.stderr


@pytest.mark.parametrize("isa", ["sse9", "AVX2 "])
def test_unknown_isa_is_an_import_error(isa):
    result = python("-c", "import fusedstep", FUSEDSTEP_ISA=isa)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert f"FUSEDSTEP_ISA={isa}" in last


def test_threads_from_the_environment():
    code = "import fusedstep; print(fusedstep.num_threads())"
    assert python("-c", code, FUSEDSTEP_NUM_THREADS="3").stdout.strip() == "3"


def test_default_threads_respect_affinity():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no CPU affinity")
    pin = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code = f"{pin}; import fusedstep; print(fusedstep.num_threads())"
    assert python("-c", code, FUSEDSTEP_NUM_THREADS=None).stdout.strip() == "1"


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5"])
def test_wrong_threads_in_the_environment_are_an_import_error(threads):
    result = python("-c", "import fusedstep", FUSEDSTEP_NUM_THREADS=threads)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert threads in last


def test_set_num_threads(threads):
    threads(3)
    assert fusedstep.num_threads() == fusedstep.build_info()["threads"] == 3
    threads(np.int64(2))
    assert fusedstep.num_threads() == 2
    for wrong in (0, -1, 2.5, "2", None):
        with pytest.raises(ValueError, match="threads must be an integer from 1"):
            threads(wrong)
    assert fusedstep.num_threads() == 2
