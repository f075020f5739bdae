// Arrays in CUDA memory, of CuPy or any library that speaks __cuda_array_interface__ (version 2 or 3) or DLPack. They
// pass the checks of arguments.h.
#pragma once

#include <pybind11/pybind11.h>

#include "cuda/device.h"
#include "python/arguments.h"

namespace fusedstep::python {

inline constexpr int kMaxDims = 64;  // as NumPy

// An array with elements aligned to their size.
struct DeviceArray {
  char* data;
  cuda::Format dtype;
  int nd;
  Py_ssize_t shape[kMaxDims], strides[kMaxDims];
  bool read_only;

  std::size_t size() const { return elements(nd, shape); }
  std::size_t bytes() const { return size() * size_of(dtype); }
  bool contiguous() const;
  bool writeable() const { return !read_only; }
};

// The fields of `object`, once `stream` waits for what its producer says is still being written. TypeError where it is
// no array in CUDA memory.
DeviceArray device_array(PyObject* object, const Name& name, cuda::Stream stream, Keep& keep);

}  // namespace fusedstep::python
