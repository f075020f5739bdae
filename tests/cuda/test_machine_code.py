"""The machine code of the CUDA kernels: what is promised of arithmetic, registers and memory accesses, for each target.

It is read out of the module that is installed. Where a compiler is at hand, kernels with a fault of each kind show that
the fault would be seen.

Why this is enough for "no contraction": PTX's mul.rn, add.rn and sub.rn are rounded on their own and never fused (PTX
ISA, "Floating Point Instructions": only those without a rounding modifier may be), and the PTX of the update and norm
kernels has no other ones and no fma. That is the last target's PTX; for every target, each FFMA and DFMA in the machine
code is counted as one of those that a division and a root expand to, and ptxas was told not to fuse.
"""

import functools
import hashlib
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from fusedstep import _core

from bench import machine_code
from bench.occupancy import LIMITS, REGISTERS, resident_blocks

TARGETS = (80, 90, 100, 120)
FORMATS = {"0": (4, 4), "1": (8, 8), "2": (2, 4), "3": (2, 4)}  # bytes of parameters and gradients, and of states
UPDATE = re.compile(r"update_kernel<(\w+), (\d), (true|false)>")
NAMES = {name: states for name, (_, states) in _core.rules().items()}


@functools.cache
def lacking():
    return machine_code.missing()


needs_module = pytest.mark.skipif(bool(lacking()), reason=lacking() or "")


@functools.cache
def every_kernel():
    path = machine_code.library()
    built = machine_code.targets(path)
    found = machine_code.kernels(path, [target for target in TARGETS if target in built])
    return {target: [kernel for kernel in found if kernel.target == target] for target in TARGETS}


@functools.cache
def every_ptx():
    found = machine_code.ptx(machine_code.library())
    if not found:
        pytest.skip("this build has no PTX")
    return {ptx.name: ptx for ptx in found}


@pytest.fixture(params=TARGETS, ids=lambda target: f"sm_{target}")
def kernels(request):
    """The kernels of a target."""
    found = every_kernel()[request.param]
    if not found:
        pytest.skip(f"this build has no machine code for sm_{request.param}")
    return found


def exact(name):
    """Whether a kernel is an optimizer's or a norm's. Cells, products and `prepare` have multiply-adds of their own."""
    return name.startswith(("update_kernel", "square_sums_kernel", "finish_kernel", "column_sums", "finish_sums"))


# What a compiler makes of one operation, and of faults.
PROBES = """
extern "C" __global__ void divide_float(float* x) { x[0] = x[1] / x[2]; }
extern "C" __global__ void divide_double(double* x) { x[0] = x[1] / x[2]; }
extern "C" __global__ void root_float(float* x) { x[0] = sqrtf(x[1]); }
extern "C" __global__ void root_double(double* x) { x[0] = sqrt(x[1]); }
extern "C" __global__ void multiply_add(float* x) { x[0] = x[1] * x[2] + x[3] / x[4]; }
extern "C" __global__ void indexed(float* x, int n) {
  float kept[32];
  for (int i = 0; i < 32; ++i) kept[i] = x[i];
  for (int i = 0; i < n; ++i) kept[i % 32] += kept[(i + 5) % 32];
  for (int i = 0; i < 32; ++i) x[i] = kept[i];
}
extern "C" __global__ void by_element(float* x, const float* g, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = sqrtf(x[i]) / g[i];
}
extern "C" __global__ void by_vector(float4* x, const float4* g, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    float4 a = x[i], b = g[i];
    a.x = sqrtf(a.x) / b.x; a.y = sqrtf(a.y) / b.y; a.z = sqrtf(a.z) / b.z; a.w = sqrtf(a.w) / b.w;
    x[i] = a;
  }
}
"""


@functools.cache
def nvcc():
    named = os.environ.get("CUDACXX", "nvcc")
    beside = Path("/usr/local/cuda/bin/nvcc")
    return shutil.which(named) or (str(beside) if beside.exists() else None)


no_probes = machine_code.missing_tools() if nvcc() else "nvcc is not here"
needs_nvcc = pytest.mark.skipif(bool(no_probes), reason=no_probes or "")


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    """The kernels of PROBES by target and name, with and without contraction."""
    source = tmp_path_factory.mktemp("probes") / "probes.cu"
    source.write_text(PROBES)
    code = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in TARGETS]
    version = subprocess.run([nvcc(), "--version"], check=True, capture_output=True).stdout
    digest = hashlib.sha256(PROBES.encode() + version).hexdigest()[:16]

    def compiled(fuse):
        def make(to):
            subprocess.run([nvcc(), "-fatbin", f"-fmad={fuse}", *code, "-o", to, source], check=True)

        binary = machine_code.kept(machine_code.KEPT / f"probes-{fuse}-{digest}.fatbin", make)
        return {(kernel.target, kernel.name): kernel for kernel in machine_code.kernels(binary, TARGETS)}

    return {fuse: compiled(fuse) for fuse in ("false", "true")}


# No contraction.

FUSED = ("FFMA", "FFMA2", "DFMA")
APPROXIMATE = ("MUFU.RCP", "MUFU.RSQ", "MUFU.RCP64H", "MUFU.RSQ64H")  # each begins one division or root


def operations(kernel):
    """How many divisions and roots a kernel has, by the approximation that they begin with."""
    return Counter({opcode: kernel.opcodes[opcode] for opcode in APPROXIMATE if opcode in kernel.opcodes})


def fused(kernel):
    return +Counter({kind: kernel.count(kind) for kind in FUSED})


def expanded(kernel, probes):
    """The fused multiply-adds that the divisions and roots of a kernel expand to."""
    total = Counter()
    for name in ("divide_float", "divide_double", "root_float", "root_double"):
        one = probes[kernel.target, name]
        ((begins, once),) = operations(one).items()
        assert once == 1
        for kind, count in fused(one).items():
            total[kind] += count * operations(kernel)[begins]
    return total


@needs_module
@needs_nvcc
def test_what_is_fused_is_divisions_and_roots(kernels, probes):
    checked = [kernel for kernel in kernels if exact(kernel.name)]
    assert checked
    for kernel in checked:
        assert fused(kernel) == expanded(kernel, probes["false"]), kernel.name
    assert any(fused(kernel)["FFMA"] for kernel in checked)


@needs_module
def test_ptxas_was_told_not_to_fuse(kernels):
    assert {bool(re.search(r"-fmad false", kernel.options)) for kernel in kernels} == {True}


@needs_module
def test_ptx_rounds_every_operation_on_its_own():
    arithmetic = re.compile(r"(mul|add|sub|div|sqrt|rcp|fma|mad)\b.*\bf(16|32|64)(x2)?$")
    seen = Counter()
    for name, ptx in every_ptx().items():
        for opcode in filter(arithmetic.match, ptx.opcodes):
            assert ".rn" in opcode, (name, opcode)
            assert ".ftz" not in opcode, (name, opcode)
            seen[opcode] += 1
            if exact(name):
                assert not opcode.startswith(("fma", "mad")), (name, opcode)
        assert not [opcode for opcode in ptx.opcodes if ".approx" in opcode or ".full" in opcode], name
    assert {"mul.rn.f32", "add.rn.f32", "sqrt.rn.f32", "div.rn.f32", "fma.rn.f32", "mul.rn.f64"} <= set(seen)


@needs_nvcc
@pytest.mark.parametrize("target", TARGETS)
def test_a_contraction_would_be_seen(probes, target):
    for fuse, extra in (("false", 0), ("true", 1)):
        kernel = probes[fuse][target, "multiply_add"]
        difference = fused(kernel) - expanded(kernel, probes["false"])
        assert difference.total() == extra
        assert ("-fmad false" in kernel.options) == (fuse == "false")


# No local memory, and the budget of registers.


def in_local_memory(kernel):
    return kernel.stack + kernel.local > 0 or kernel.count("LDL", "STL") > 0


@needs_module
def test_nothing_lies_in_local_memory(kernels):
    assert [kernel.name for kernel in kernels if in_local_memory(kernel)] == []


@needs_nvcc
@pytest.mark.parametrize("target", TARGETS)
def test_local_memory_would_be_seen(probes, target):
    assert in_local_memory(probes["false"][target, "indexed"])
    assert not in_local_memory(probes["false"][target, "by_vector"])


@needs_module
def test_registers_keep_to_the_launch_bounds(kernels):
    for kernel in kernels:
        bounds = every_ptx()[kernel.name].bounds
        assert bounds.threads > 0, f"{kernel.name} states no launch bounds"
        blocks = max(1, bounds.blocks)
        assert kernel.registers * bounds.threads * blocks <= REGISTERS, kernel.name
        assert resident_blocks(kernel.target, bounds.threads, kernel.registers, kernel.shared) >= blocks, kernel.name


# Bytes.


def test_model_of_bytes_counts_reads_and_writes():
    assert model("Adam", "0", False) == 28  # float32 Adam reads p g m v and writes p m v


def model(rule, number, master):
    """Bytes that an update moves an element: g and p, or p's master copy and p rounded from it, and the states."""
    own, state = FORMATS[number]
    states = {re.sub(r"[_ ]", "", name): count for name, count in NAMES.items()}[rule.lower()]
    return own + (2 * state + own if master else 2 * own) + 2 * state * states


@needs_module
def test_bytes_an_element_are_those_of_the_model(kernels):
    rules = set()
    for kernel in kernels:
        if not (match := UPDATE.fullmatch(kernel.name)) or not operations(kernel):
            continue
        rule, number, master = match.groups()
        own, _ = FORMATS[number]
        bytes_an_element = model(rule, number, master == "true")
        # By 128-bit accesses, and by single elements; each with and without writing zeros to the gradient.
        moved = kernel.traffic()
        assert set(moved) == {frozenset({16}), frozenset(FORMATS[number])}, kernel.name
        for counts in moved.values():
            assert counts == {bytes_an_element, bytes_an_element + own}, kernel.name
        rules.add(rule.lower())
    assert rules == {name.replace("_", "") for name in NAMES if not name.startswith("touch")}


@needs_nvcc
@pytest.mark.parametrize("target", TARGETS)
def test_narrow_accesses_would_be_seen(probes, target):
    for name, width in (("by_element", 4), ("by_vector", 16)):
        assert probes["false"][target, name].traffic() == {frozenset({width}): {12}}


# Occupancy.

OCCUPANCY = """
#include <cstdio>
#include <cuda_occupancy.h>
int main() {
  int target, warps, threads, registers;
  long shared, all, reserved;
  while (std::scanf("%d %d %d %d %ld %ld %ld", &target, &warps, &threads, &registers, &shared, &all, &reserved) == 7) {
    cudaOccDeviceProp device;
    device.computeMajor = target / 10, device.computeMinor = target % 10, device.numSms = 1, device.warpSize = 32;
    device.maxThreadsPerBlock = 1024, device.maxThreadsPerMultiprocessor = warps * 32;
    device.regsPerBlock = device.regsPerMultiprocessor = 65536;
    device.sharedMemPerBlock = 48 << 10, device.sharedMemPerMultiprocessor = all;
    device.sharedMemPerBlockOptin = all - reserved, device.reservedSharedMemPerBlock = reserved;
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers, kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN, kernel.maxDynamicSharedSizeBytes = shared;
    cudaOccDeviceState state;
    state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult result;
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, shared)) return 1;
    std::printf("%d\\n", result.activeBlocksPerMultiprocessor);
  }
}
"""


def test_occupancy_is_that_of_the_toolkit(tmp_path):
    places = [Path(nvcc() or "/").resolve().parent.parent / "include", Path("/usr/local/cuda/include")]
    headers = next((place for place in places if (place / "cuda_occupancy.h").exists()), None)
    if not headers:
        pytest.skip("the toolkit's cuda_occupancy.h is not here")
    program = tmp_path / "occupancy"
    (tmp_path / "occupancy.cpp").write_text(OCCUPANCY)
    subprocess.run(["g++", f"-I{headers}", "-o", program, tmp_path / "occupancy.cpp"], check=True)
    cases = [
        (target, threads, registers, shared)
        for target, limits in LIMITS.items()
        for threads in (32, 100, 128, 256, 512, 1024)
        for registers in (1, 24, 33, 56, 64, 80, 128, 168, 255)
        for shared in (0, 1000, 33_920, limits.shared // 2 - limits.reserved, limits.shared - limits.reserved)
    ]
    lines = [
        f"{target} {limits.warps} {threads} {registers} {shared} {limits.shared} {limits.reserved}"
        for target, threads, registers, shared in cases
        for limits in [LIMITS[target]]
    ]
    done = subprocess.run([program], input="\n".join(lines), check=True, capture_output=True, text=True)
    assert [resident_blocks(*case) for case in cases] == [int(line) for line in done.stdout.split()]
