"""When cmake/cuda.cmake builds the module for CUDA, and what it says where it does not."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The tools of Python's environment come first, whether it is activated or not.
TOOLS = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))

PROJECT = f"""
cmake_minimum_required(VERSION 3.26)
project(probe LANGUAGES CXX)
include({(ROOT / "cmake" / "cuda.cmake").as_posix()})
message(STATUS "have: ${{FUSEDSTEP_HAVE_CUDA}}")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not shutil.which("cmake", path=TOOLS) or not shutil.which("ninja", path=TOOLS):
        pytest.skip("CMake and Ninja are not installed")
    folder = tmp_path_factory.mktemp("probe")
    (folder / "CMakeLists.txt").write_text(PROJECT)
    return folder


def nvcc(folder, version):
    """A program that tells this version of nvcc, and compiles nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nvcc"
    path.write_text(f'#!/bin/sh\necho "Cuda compilation tools, {version}"\n[ "$1" = --version ]\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def configure(folder):
    """Run CMake where there is no nvcc but those that the test made."""
    search = [Path(path) for path in (*os.environ["PATH"].split(":"), "/usr/local/cuda/bin", "/usr/local/bin")]
    search += [nvcc.parent for path in sys.path for nvcc in Path(path).glob("nvidia/cu*/bin/nvcc")]
    ignored = ";".join({str(path) for path in search if (path / "nvcc").exists()})

    def run(option, **environment):
        env = {key: value for key, value in os.environ.items() if key not in ("CUDACXX", "CUDA_PATH", "CUDAHOSTCXX")}
        env["PATH"] = TOOLS
        command = [
            str(shutil.which("cmake", path=TOOLS)),
            "-S",
            str(folder),
            "-B",
            str(folder / "build"),
            "-G",
            "Ninja",
            f"-DFUSEDSTEP_CUDA={option}",
        ]
        command += ["-UFUSEDSTEP_NVCC", "-UCMAKE_CUDA_COMPILER", f"-DPython_EXECUTABLE={sys.executable}"]
        command += [f"-DCMAKE_IGNORE_PATH={ignored}"]
        return subprocess.run(command, env={**env, **environment}, capture_output=True, text=True, check=False)

    return run


def assert_without(result, why):
    """Configuring went on, without CUDA, and told why."""
    assert result.returncode == 0, result.stderr
    assert f"-- Without CUDA: {why}" in result.stdout
    assert "-- have: OFF" in result.stdout


def assert_refused(result, why):
    """Configuring ended with that reason, and says what to install."""
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert f"FUSEDSTEP_CUDA=ON: {why}." in message
    assert "nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-cccl nvidia-cuda-runtime" in message


def test_without_nvcc(configure):
    assert_without(configure("AUTO"), "no nvcc was found")
    assert_refused(configure("ON"), "no nvcc was found")


def test_an_old_nvcc(configure, tmp_path):
    old = nvcc(tmp_path, "release 12.6, V12.6.20")
    why = f"{old} is of version 12.6, older than 12.8"
    assert_without(configure("AUTO", CUDACXX=str(old)), why)
    assert_refused(configure("ON", CUDACXX=str(old)), why)


def test_what_is_no_nvcc(configure, tmp_path):
    path = f"{nvcc(tmp_path, 'of no version')}"
    assert_without(configure("AUTO", CUDACXX=path), f"{path} does not tell its version")


def test_an_nvcc_that_compiles_nothing(configure, tmp_path):
    path = nvcc(tmp_path, "release 13.0, V13.0.88")
    assert_without(configure("AUTO", CUDACXX=str(path)), f"{path} fails with ")


def test_the_toolkit_in_the_environment_that_builds(configure, tmp_path):
    path = nvcc(tmp_path / "nvidia" / "cu12" / "bin", "release 12.0, V12.0.1")
    result = configure("AUTO", PYTHONPATH=str(tmp_path))
    assert_without(result, f"{path} is of version 12.0, older than 12.8")


def test_libraries_beside_a_packaged_nvcc_are_found(configure, tmp_path):
    path = nvcc(tmp_path / "cu13" / "bin", "release 13.0, V13.0.88")
    path.write_text(path.read_text().replace("[ ", f'echo "$@" >> "{tmp_path}/asked"\n[ '))
    library = tmp_path / "cu13" / "lib" / "libcudart_static.a"
    library.parent.mkdir()
    library.touch()
    configure("AUTO", CUDACXX=str(path))
    assert f"-L{library.parent}" in (tmp_path / "asked").read_text()


def test_off_looks_for_nothing(configure):
    result = configure("OFF")
    assert result.returncode == 0, result.stderr
    assert "CUDA:" not in result.stdout
    assert "-- have: OFF" in result.stdout
