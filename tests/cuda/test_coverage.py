"""A few of the tests beside this one execute csrc/cuda, 95 of 100 lines at least: gcov counts, in runs of their own."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.cuda_host import build

# The launches that sanitizers run, and some tests of what these leave out. The others execute nothing else.
LAUNCHES = (
    ("tests.cuda.optim_launches", "plain", "updates"),
    ("tests.cuda.optim_launches", "plain", "norms"),
    ("tests.cuda.rnn_launches", "plain"),
    ("tests.cuda.norm_launches", "plain"),
)
FILES = ("optimizers", "rnn_sequences", "rnn_kernels", "rnn_noise", "rnn_lean", "rnn_norm")
CHOSEN = "one_pass or master or which_way or row or copied or dropout or masks or lean"


def executed_lines(counts):
    """For each file of csrc/cuda, its lines with code, and whether one was executed; `counts` is a folder of .gcda."""
    lines = defaultdict(dict)
    for data in counts.rglob("*.gcda"):
        shutil.copy(Path("/") / data.relative_to(counts).with_suffix(".gcno"), data.parent)
        subprocess.run(["gcov", "--json-format", data.name], cwd=data.parent, check=True, capture_output=True)
        with gzip.open(data.parent / f"{data.stem}.gcov.json.gz") as file:
            for source in json.load(file)["files"]:
                name = os.path.relpath(source["file"], build.ROOT)
                if name.startswith("csrc/cuda/"):
                    for line in source["lines"]:
                        own = lines[name]
                        own[line["line_number"]] = own.get(line["line_number"], False) or line["count"] > 0
    return lines


def test_lines_of_the_kernels_are_executed(tmp_path):
    if not shutil.which("gcov"):
        pytest.skip("gcov is not installed")
    tests = [f"tests/cuda/test_{name}.py" for name in FILES]
    env = {**os.environ, "GCOV_PREFIX": str(tmp_path)}
    for module in (*LAUNCHES, ("pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", CHOSEN, *tests)):
        command = [sys.executable, "-m", *module]
        done = subprocess.run(command, env=env, cwd=build.ROOT, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stdout + done.stderr
    lines = executed_lines(tmp_path)
    assert set(lines) >= {"csrc/cuda/multi_tensor.cuh", "csrc/cuda/reduce.cuh", "csrc/cuda/optim.cu"}
    missed = [f"{name}:{line}" for name, own in sorted(lines.items()) for line, ran in sorted(own.items()) if not ran]
    total = sum(map(len, lines.values()))
    print(len(missed), total, missed)
    assert len(missed) <= 0.05 * total, f"{len(missed)} of {total} lines are not executed: {missed}"
