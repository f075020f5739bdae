"""`python -m fusedstep profile`: a script runs as it would by itself, and its profile follows."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("rich", reason="rich is not installed: the tables need it")

SCRIPT = """
import sys
import numpy as np
import fusedstep
import beside
opt = fusedstep.optim.Adam(np.ones(4))
for _ in range(3):
    opt.step(np.ones(4))
print("arguments:", sys.argv[1:], __name__, beside.VALUE)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "beside.py").write_text("VALUE = 7\n", encoding="utf-8")

    def write(end=""):
        path = tmp_path / "script.py"
        path.write_text(SCRIPT + end, encoding="utf-8")
        return str(path)

    return write


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "fusedstep", "profile", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=cwd)


def test_script_runs_with_its_arguments_and_the_table_follows(script, tmp_path):
    result = run("--trace", str(tmp_path / "t.json"), script(), "one", "--two")
    assert result.returncode == 0, result.stderr
    first, rest = result.stdout.split("\n", 1)
    assert first == "arguments: ['one', '--two'] __main__ 7"
    assert "adam step" in rest
    assert json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["traceEvents"]


def test_module_runs_from_the_folder_it_is_in(script, tmp_path):
    script()
    result = run("-m", "script", "one", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("arguments: ['one'] __main__ 7")
    assert "adam step" in result.stdout


def test_exit_status_and_exceptions_are_the_scripts_own(script):
    result = run(script("sys.exit(3)"))
    assert result.returncode == 3
    assert "adam step" in result.stdout
    result = run(script("raise KeyError('lost')"))
    assert result.returncode == 1
    assert "KeyError: 'lost'" in result.stderr
    assert "adam step" in result.stdout


def test_a_script_that_is_not_there_is_named():
    result = run("nowhere.py")
    assert result.returncode == 2
    assert "SCRIPT: expected a file, got nowhere.py" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["other"], ["info", "more"], ["machine", "more"]])
def test_commands_are_told(arguments):
    command = [sys.executable, "-m", "fusedstep", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "usage: python -m fusedstep info | machine | profile SCRIPT" in result.stderr
