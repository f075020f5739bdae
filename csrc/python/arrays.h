// NumPy arrays on their raw C fields, and the checks that every argument passes before anything is written.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <vector>

#include "core/dtype.h"
#include "python/arguments.h"

namespace fusedstep::python {

// An array of float32 or float64 in native byte order, aligned.
struct Array {
  PyObject* object;
  char* data;
  Dtype dtype;
  int nd;
  const Py_ssize_t* shape;
  const Py_ssize_t* strides;
  int flags;

  std::size_t size() const { return elements(nd, shape); }
  std::size_t bytes() const { return size() * size_of(dtype); }
  bool contiguous() const { return flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_; }
  bool writeable() const { return flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_; }
};

bool is_ndarray(PyObject* object);

// The fields of `object`; a tensor of another library is viewed by fusedstep._array.view. TypeError where it is
// neither.
Array array(PyObject* object, const Name& name, Keep& keep);
void initialize();

py::dtype numpy_dtype(Dtype dtype);
Dtype dtype_of(const py::object& dtype);
// Zeros, aligned to 64 bytes and from 2 MiB up on huge pages.
py::array zeros(const std::vector<Py_ssize_t>& shape, Dtype dtype);
// A result that is yet to be written, in a Room.
py::array empty(const std::vector<Py_ssize_t>& shape, Dtype dtype);

// Releases the GIL for work longer than a few microseconds.
class MaybeReleaseGil {
 public:
  explicit MaybeReleaseGil(bool release) : state_(release ? PyEval_SaveThread() : nullptr) {}
  ~MaybeReleaseGil() {
    if (state_) PyEval_RestoreThread(state_);
  }
  MaybeReleaseGil(const MaybeReleaseGil&) = delete;

 private:
  PyThreadState* const state_;
};

}  // namespace fusedstep::python
