"""Digests of what a module of these tests computes: in this process, and in one under another instruction set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fusedstep
import pytest

# The instruction sets that this process did not choose; None in their place where there are none.
OTHERS = [isa for isa in fusedstep.build_info()["isas"] if isa != fusedstep.build_info()["isa"]] or [None]


def digest_under(module, isa):
    """What `python -m <module>` prints under an instruction set; skips where the machine, or the build, lacks it."""
    if isa is None:
        pytest.skip("one instruction set alone was built")
    process = subprocess.run(
        [sys.executable, "-m", module],
        cwd=Path(__file__).parent,
        env={**os.environ, "FUSEDSTEP_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0 and "this machine lacks" in process.stderr:
        pytest.skip(process.stderr.splitlines()[-1])
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def assert_same_under(module, isa, own):
    desired = dict(own)
    if "portable" in (isa, fusedstep.build_info()["isa"]):  # float64 there rests on the C library's fma
        desired = {key: value for key, value in desired.items() if "float64" not in key}
    theirs = digest_under(module, isa)
    assert {key: theirs[key] for key in desired} == desired
