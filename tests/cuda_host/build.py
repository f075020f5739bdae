"""Builds csrc/cuda with g++ against the stand-in for CUDA's runtime: what tests run in the place of the device.

A variant is a way to compile. Objects are kept under build/cuda_host with the hashes of all that they were made from,
and compiled again, two at a time, where one of these differs.
"""

import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BUILD = ROOT / "build" / "cuda_host"

COMMON = ["-std=c++20", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
# As the device: no contraction.
KERNELS = ["-DISA=cuda", "-ffp-contract=off"]
VARIANTS = {
    "plain": ["-O1", "--coverage", "-fprofile-update=prefer-atomic"],
    "address": ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all"],
    "thread": ["-O1", "-g1", "-fsanitize=thread"],
}
# The runtime switches stacks under the sanitizers' feet: it is not instrumented, but tells them.
RUNTIME = {
    "plain": ["-O2"],
    "address": ["-O2", "-g1", "-DCUDA_HOST_ADDRESS_SANITIZER"],
    "thread": ["-O2", "-g1", "-DCUDA_HOST_THREAD_SANITIZER"],
}
RUNTIME_SOURCES = ["fiber.cpp", "block.cpp", "scheduler.cpp", "runtime.cpp"]
SANITIZERS = {"plain": [], "address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}


@functools.cache
def missing() -> str | None:
    """Why nothing can be built here, or None."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"needs Linux on x86-64, not {platform.system()} on {platform.machine()}"
    if not shutil.which("g++"):
        return "needs g++, which is not installed"
    version = subprocess.check_output(["g++", "-dumpversion"], text=True).strip()
    return None if int(version.split(".")[0]) >= 12 else f"needs g++ 12 or newer, not {version}"


@functools.cache
def _compiler() -> str:
    return subprocess.check_output(["g++", "--version"], text=True).splitlines()[0]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_current(record: Path, command: Sequence[str]) -> bool:
    """Whether an object was made by this command and compiler from files that have not changed."""
    if not record.exists():
        return False
    made = json.loads(record.read_text())
    return (
        made["command"] == list(command)
        and made["compiler"] == _compiler()
        and all(Path(path).exists() and _hash(Path(path)) == digest for path, digest in made["files"].items())
    )


def _compile(source: Path, obj: Path, flags: Sequence[str]) -> None:
    """Compile a source unless its object is current."""
    record = obj.with_suffix(".json")
    command = ["g++", *flags, "-x", "c++", "-c", str(source), "-o", str(obj), "-MMD", "-MF", str(obj.with_suffix(".d"))]
    if _is_current(record, command):
        return
    record.unlink(missing_ok=True)
    obj.with_suffix(".gcda").unlink(missing_ok=True)  # counts of another program
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{source.name} does not compile\n{done.stderr}")
    names = re.split(r"(?<!\\)\s+", obj.with_suffix(".d").read_text().replace("\\\n", " ").split(":", 1)[1].strip())
    files = {name.replace("\\ ", " "): "" for name in names}
    record.write_text(
        json.dumps({"command": command, "compiler": _compiler(), "files": {f: _hash(Path(f)) for f in files}})
    )


def library(name: str, variant: str, sources: Mapping[str, Sequence[str]], root: Path = ROOT) -> Path:
    """Build a shared library of these sources and the runtime.

    Parameters
    ----------
    name : str
        Its file's name, without the suffix.
    variant : str
        One of `VARIANTS`.
    sources : mapping
        Paths below `root`, each with the flags that it needs beside the variant's.
    root : Path, optional
        Where csrc/ is: the repository, or a copy with a bug in it.
    """
    with Lock():
        folder = BUILD / variant
        if root != ROOT:
            folder /= root.name
        folder.mkdir(parents=True, exist_ok=True)
        include = [f"-I{HERE / 'include'}", f"-I{HERE}", f"-I{root / 'csrc'}"]
        jobs = [
            (HERE / source, BUILD / variant / source.replace(".cpp", ".o"), [*COMMON, *include[:2], *RUNTIME[variant]])
            for source in RUNTIME_SOURCES
        ]
        jobs += [
            (root / path, folder / (path.replace("/", "-") + ".o"), [*COMMON, *VARIANTS[variant], *include, *flags])
            for path, flags in sources.items()
        ]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda job: _compile(*job), jobs))
        target = folder / f"{name}.so"
        if not target.exists() or target.stat().st_mtime_ns < max(obj.stat().st_mtime_ns for _, obj, _ in jobs):
            flags = [flag for flag in VARIANTS[variant] if flag.startswith(("-fsanitize", "--coverage"))]
            objects = [str(obj) for _, obj, _ in jobs]
            subprocess.run(["g++", "-shared", *flags, *objects, "-o", str(target), "-pthread"], check=True)
        return target


class Lock:
    """One builder at a time, over processes."""

    def __enter__(self) -> None:
        BUILD.mkdir(parents=True, exist_ok=True)
        self.file = (BUILD / "lock").open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        self.file.close()


def environment(variant: str) -> dict[str, str]:
    """What a Python process needs that loads a library of this variant: the sanitizer comes first."""
    where = [
        subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in SANITIZERS[variant]
    ]
    if not where:
        return dict(os.environ)
    return {
        **os.environ,
        "LD_PRELOAD": ":".join([*where, "libstdc++.so.6"]),  # AddressSanitizer looks for its throw when it starts
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:exitcode=66:report_signal_unsafe=0",
    }


def module(variant: str) -> Path:
    """Build the extension module `_cuda`: the sources of cmake/cuda.cmake's, for the host."""
    import pybind11

    # Bindings compile for long, and run for short.
    flags = [
        "-O0",
        "-fno-profile-arcs",
        "-fno-test-coverage",
        f"-isystem{sysconfig.get_path('include')}",
        f"-isystem{pybind11.get_include()}",
        "-fvisibility=hidden",
    ]
    bindings = [*ROOT.glob("csrc/python/cuda_*.cpp")]
    bindings += [ROOT / "csrc/python" / f"{name}.cpp" for name in ("arguments", "plan", "device_array")]
    sources = {str(path.relative_to(ROOT)): KERNELS for path in sorted(ROOT.glob("csrc/cuda/*.cu"))}
    sources |= {str(path.relative_to(ROOT)): [*KERNELS, *flags] for path in sorted(bindings)}
    return library("_cuda", variant, sources)
