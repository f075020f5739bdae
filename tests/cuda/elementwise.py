"""As much of CuPy's kernels of a user's code as fusedstep uses: compiled for the host, a fiber for each thread."""

import ctypes
import functools
import hashlib

import numpy as np

from tests.cuda_host import build

TYPES = {"float32": "float", "float64": "double", "int32": "int", "int64": "long long", "uint8": "unsigned char"}
TYPES |= {"bool": "bool"}
THREADS = 128  # of a block, as CuPy has it
MAX_DIMS = 8

# CuPy's CArray, as far as `raw` arrays are concerned: elements are numbered in C order, whatever the strides are.
PRELUDE = """
#include <cuda_runtime.h>
#include <math.h>

#include <cstddef>
#include <exception>

template <class T>
struct Raw {
  char* data;
  std::ptrdiff_t nd, shape[8], strides[8];
  T& operator[](std::ptrdiff_t i) const {
    std::ptrdiff_t at = 0;
    for (std::ptrdiff_t d = nd - 1; d >= 0; --d) at += i % shape[d] * strides[d], i /= shape[d];
    return *reinterpret_cast<T*>(data + at);
  }
};
"""

SOURCE = """{prelude}
namespace {{
{preamble}
{types}
__global__ void {name}({parameters}, std::ptrdiff_t count) {{
  for (std::ptrdiff_t i = std::ptrdiff_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += std::ptrdiff_t(blockDim.x) * gridDim.x) {{
{operation}
  }}
}}
}}  // namespace

extern "C" const char* run([[maybe_unused]] void* const* arguments, std::ptrdiff_t count, unsigned blocks) {{
  cudaLaunchConfig_t config{{}};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3({threads});
  static thread_local char message[256];
  try {{
    cudaLaunchKernelEx(&config, {name}, {arguments}, count);
    return nullptr;
  }} catch (const std::exception& error) {{
    strncpy(message, error.what(), sizeof message - 1);
    return message;
  }}
}}
"""


class Raw(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("nd", ctypes.c_ssize_t),
        ("shape", ctypes.c_ssize_t * MAX_DIMS),
        ("strides", ctypes.c_ssize_t * MAX_DIMS),
    )

    @classmethod
    def of(cls, array):
        return cls(
            array.data.ptr,
            array.ndim,
            (ctypes.c_ssize_t * MAX_DIMS)(*array.shape),
            (ctypes.c_ssize_t * MAX_DIMS)(*array.strides),
        )


class ElementwiseKernel:
    """Of `raw` arrays and scalars alone."""

    def __init__(self, in_params, out_params, operation, name, preamble, options, no_return):
        assert options == ("--fmad=false",)
        assert no_return
        self.inputs, self.outputs = in_params.split(", "), out_params.split(", ")
        self.operation, self.name, self.preamble = operation, name, preamble

    def __call__(self, *arguments, size):
        declared = [*self.inputs, *self.outputs]
        assert len(arguments) == len(declared)
        types, parameters, values, casts = {}, [], [], []
        for i, (parameter, value) in enumerate(zip(declared, arguments, strict=True)):
            *raw, kind, name = parameter.split()
            if not raw:
                assert isinstance(value, float if kind == "float64" else int), parameter
                own = TYPES[kind]
                parameters.append(f"[[maybe_unused]] const {own} {name}")
                values.append((ctypes.c_double if kind == "float64" else ctypes.c_longlong)(value))
            else:
                actual = TYPES[str(value.dtype)]
                if kind in TYPES:
                    assert TYPES[kind] == actual, parameter
                else:
                    assert types.setdefault(kind, actual) == actual, parameter
                const = "const " if i < len(self.inputs) else ""
                own = f"Raw<{const}{actual}>"
                parameters.append(f"[[maybe_unused]] const {own} {name}")
                values.append(Raw.of(value))
            casts.append(f"*static_cast<const {own}*>(arguments[{i}])")
        source = SOURCE.format(
            prelude=PRELUDE,
            preamble=self.preamble,
            types="\n".join(f"[[maybe_unused]] typedef {own} {name};" for name, own in types.items()),
            name=self.name,
            parameters=", ".join(parameters),
            operation=self.operation,
            threads=THREADS,
            arguments=", ".join(casts),
        )
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        if error := _compiled(source)(pointers, size, -(-size // THREADS)):
            raise RuntimeError(error.decode())


@functools.cache
def _compiled(source):
    name = f"kernel_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    path = build.BUILD / "kernels" / f"{name}.cu"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(source)
    sources = {str(path.relative_to(build.ROOT)): [*build.KERNELS, "-include", "cstring"]}
    run = ctypes.CDLL(str(build.library(name, "plain", sources))).run
    run.restype, run.argtypes = ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_uint]
    return run


class ReductionKernel:
    """Sums of doubles alone."""

    def __init__(self, *code, name):
        self.name = name
        assert code == ("float64 x", "float64 y", "x", "a + b", "y = a", "0")

    def __call__(self, array):
        return array.sum(None, np.float64)
