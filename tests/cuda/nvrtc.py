"""NVRTC, which compiles CUDA C++ without a GPU, and a kernel's whole source as CuPy hands it over."""

import ctypes
import ctypes.util
import functools
import importlib.util
from pathlib import Path

TYPES = {"float32": "float", "float64": "double", "int32": "int", "int64": "long long", "uint8": "unsigned char"}
TYPES |= {"bool": "bool"}

OWN = """
template <class T, int nd>
struct CArray {
  T* data;
  ptrdiff_t shape[nd], strides[nd];
  __device__ T& operator[](ptrdiff_t i) const {
    ptrdiff_t at = 0;
    for (int d = nd - 1; d >= 0; --d) at += i % shape[d] * strides[d], i /= shape[d];
    return *(T*)((char*)data + at);
  }
};
#define CUPY_FOR(i, n) for (ptrdiff_t i = ptrdiff_t(blockIdx.x) * blockDim.x + threadIdx.x; i < (n); \\
                            i += ptrdiff_t(blockDim.x) * gridDim.x)
"""
CUPYS = "#include <cupy/carray.cuh>\n"


def cupys_headers():
    """The folder of CuPy's headers, or None. CuPy is not imported: that looks for a driver."""
    spec = importlib.util.find_spec("cupy")
    return None if spec is None else Path(spec.submodule_search_locations[0]) / "_core" / "include"


def whole(source, preamble, dtypes, *, headers=False):
    """The source of a kernel whose arrays have these dtypes and two dimensions, inputs first."""
    kinds = iter(dtypes)
    parameters, types = [], {}
    for i, parameter in enumerate([*source.in_params.split(", "), *source.out_params.split(", ")]):
        *raw, kind, name = parameter.split()
        const = "const " if i < len(source.in_params.split(", ")) else ""
        if not raw:
            parameters.append(f"const {TYPES[kind]} {name}")
            continue
        if kind not in TYPES and kind not in types:
            types[kind] = TYPES[next(kinds)]
        own = TYPES.get(kind) or types[kind]
        # CuPy has elements const through the array, whose own type is not.
        parameters.append(f"{const}CArray<{own}, 2> {name}" if headers else f"CArray<{const}{own}, 2> {name}")
    lines = [CUPYS if headers else OWN, *(f"typedef {own} {name};" for name, own in types.items()), preamble]
    lines += [f'extern "C" __global__ void kernel({", ".join(parameters)}, const ptrdiff_t count) {{']
    return "\n".join([*lines, "CUPY_FOR(i, count) {", source.operation, "}", "}", ""])


@functools.cache
def library():
    """NVRTC as a package or the system has it, or None."""
    spec = importlib.util.find_spec("nvidia")
    folders = map(Path, spec.submodule_search_locations) if spec else ()
    found = [str(path) for folder in folders for path in sorted(folder.glob("*/lib*/libnvrtc.so.*"))]
    found += filter(None, [ctypes.util.find_library("nvrtc")])
    return ctypes.CDLL(found[0]) if found else None


def compiled(source, options=(), architecture="sm_90"):
    """Machine code; RuntimeError with NVRTC's words where it does not compile."""
    nvrtc, program = library(), ctypes.c_void_p()
    flags = [f"-arch={architecture}", "-std=c++17", *options]
    if headers := cupys_headers():
        flags += [f"-I{headers}"]
    encoded = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
    assert not nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    try:
        failed = nvrtc.nvrtcCompileProgram(program, len(flags), encoded)
        log, code = _text(nvrtc, "ProgramLog", program), b""
        if failed:
            raise RuntimeError(log.decode())
        return _text(nvrtc, "CUBIN", program) or code
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(nvrtc, name, program):
    size = ctypes.c_size_t()
    assert not getattr(nvrtc, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    assert not getattr(nvrtc, f"nvrtcGet{name}")(program, buffer)
    return buffer.raw
