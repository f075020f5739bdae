"""What a result depends on: machine, versions and commit."""

import ctypes
import datetime as dt
import os
import platform
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def _first(path: str, key: str) -> str | None:
    """Return what follows `key` and a colon in a file of /proc."""
    file = Path(path)
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit() -> str | None:
    """Return the commit, with "+" where files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git
        return None
    return done.stdout.strip() or None


def cuda_missing() -> str | None:
    """Return what a run on a GPU lacks here, in words; None where it can start."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver on this machine (libcuda.so.1)"
    if error := driver.cuInit(0):
        return f"the NVIDIA driver finds no GPU (cuInit returns {error})"
    if not find_spec("fusedstep._cuda"):
        return "this build of fusedstep has no CUDA kernels (FUSEDSTEP_CUDA)"
    if not find_spec("cupy"):
        return "CuPy is not installed; pip install 'fusedstep[cuda13]' brings it"
    return None


def describe() -> dict[str, Any]:
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cpu": _first("/proc/cpuinfo", "model name") or platform.processor(),
        "architecture": platform.machine(),
        "processors": processors(),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "huge_pages": huge.read_text().strip() if huge.exists() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": commit(),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0],
    }
