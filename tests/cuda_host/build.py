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
BINDINGS = BUILD / "bindings.cpp"

Sources = Mapping[str, Sequence[str]]

COMMON = ["-std=c++20", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
# As the device: no contraction.
KERNELS = ["-DISA=cuda", "-ffp-contract=off"]
INCLUDE = [f"-I{HERE / 'include'}", f"-I{HERE}"]
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


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the compiler, without the sanitizer that the tests may have loaded: under it, it takes twice as long."""
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


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
    done = _run(command)
    if done.returncode:
        raise RuntimeError(f"{source.name} does not compile\n{done.stderr}")
    names = re.split(r"(?<!\\)\s+", obj.with_suffix(".d").read_text().replace("\\\n", " ").split(":", 1)[1].strip())
    files = {name.replace("\\ ", " "): "" for name in names}
    record.write_text(
        json.dumps({"command": command, "compiler": _compiler(), "files": {f: _hash(Path(f)) for f in files}})
    )


def _compile_all(jobs: Sequence[tuple[Path, Path, Sequence[str]]]) -> None:
    for _, obj, _ in jobs:
        obj.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: _compile(*job), jobs))


def _objects(variant: str, sources: Sources, root: Path, before: Mapping[str, Path]) -> dict[str, Path]:
    """Compile the sources below `root`, but for those that an object of `before` is made of the same as."""
    folder = BUILD / variant / ("." if root == ROOT else root.name)
    flags = [*COMMON, *VARIANTS[variant], *INCLUDE, f"-I{root / 'csrc'}"]
    kept = {path: obj for path, obj in before.items() if not _differs(obj, root)}
    made = {path: folder / (path.replace("/", "-") + ".o") for path in sources if path not in kept}
    files = {path: root / path if (root / path).exists() else ROOT / path for path in made}
    _compile_all([(files[path], obj, [*flags, *sources[path]]) for path, obj in made.items()])
    return kept | made


def _runtime(variant: str) -> list[Path]:
    """Compile the stand-in."""
    objects = [BUILD / variant / (source + ".o") for source in RUNTIME_SOURCES]
    sources = [HERE / source for source in RUNTIME_SOURCES]
    flags = [*COMMON, *RUNTIME[variant], *INCLUDE]
    _compile_all([(source, obj, flags) for source, obj in zip(sources, objects, strict=True)])
    return objects


def _differs(obj: Path, root: Path) -> bool:
    """Whether a file that an object was made of is another one below `root`."""
    for name, digest in json.loads(obj.with_suffix(".json").read_text())["files"].items():
        here, _, below = name.rpartition("/csrc/")
        if here and (root / "csrc" / below).exists() and _hash(root / "csrc" / below) != digest:
            return True
    return False


def library(name: str, variant: str, sources: Sources, *roots: Path) -> Path:
    """Build a shared library of these sources and the runtime.

    Parameters
    ----------
    name : str
        Its file's name, without the suffix.
    variant : str
        One of `VARIANTS`.
    sources : mapping
        Paths, each with the flags that it needs beside the variant's.
    *roots : Path
        What `changed` returned: the sources are those of the last, the objects of the others are used where they are
        the same. By default, the repository's.
    """
    with Lock():
        runtime = _runtime(variant)
        objects: dict[str, Path] = {}
        for root in roots or (ROOT,):
            objects = _objects(variant, sources, root, objects)
        linked = [*runtime, *(objects[path] for path in sources)]
        target = BUILD / variant / (roots[-1].name if roots else ".") / f"{name}.so"
        if not target.exists() or target.stat().st_mtime_ns < max(obj.stat().st_mtime_ns for obj in linked):
            flags = [flag for flag in VARIANTS[variant] if flag.startswith(("-fsanitize", "--coverage"))]
            done = _run(["g++", "-shared", *flags, *map(str, linked), "-o", str(target), "-pthread"])
            if done.returncode:
                raise RuntimeError(f"{target.name} is not linked\n{done.stderr}")
        return target


def changed(name: str, edits: Sequence[tuple[str, str, str]], root: Path = ROOT) -> Path:
    """Copy csrc/ and change it: a root for `library`.

    Parameters
    ----------
    name : str
        Of the copy.
    edits : sequence of (path, pattern, replacement)
        The path is below csrc/; the pattern, a regular expression, is found there once.
    root : Path, optional
        Where to copy from: the repository, or another copy.
    """
    target = BUILD / "changed" / name
    with Lock():
        for folder in ("core", "cuda", "optim", "rnn"):
            shutil.copytree(root / "csrc" / folder, target / "csrc" / folder, dirs_exist_ok=True)
        for path, pattern, replacement in edits:
            file = target / "csrc" / path
            text, count = re.subn(pattern, replacement, file.read_text(), flags=re.DOTALL)
            if count != 1:
                raise ValueError(f"{path}: expected {pattern!r} once, found it {count} times")
            file.write_text(text)
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
        # Mismatch: the extensions share pybind11's tables, and `_core` has an operator new of its own.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:alloc_dealloc_mismatch=0",
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
    # In one piece: what they share, pybind11's headers, takes most of the time. First, as it takes longest.
    text = "".join(f'#include "python/{path.name}"\n' for path in sorted(bindings))
    with Lock():
        if not BINDINGS.exists() or BINDINGS.read_text() != text:
            BINDINGS.write_text(text)
    sources = {str(BINDINGS.relative_to(ROOT)): [*KERNELS, *flags]}
    sources |= {str(path.relative_to(ROOT)): KERNELS for path in sorted(ROOT.glob("csrc/cuda/*.cu"))}
    return library("_cuda", variant, sources)
