// NumPy arrays on their raw C fields, and the checks that every argument passes before anything is written.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace fusedstep::python {

namespace py = pybind11;

// How errors call an argument: `grads`, `grads[3]` or `grads['w']`. Built only when an error is.
struct Name {
  const char* base;
  Py_ssize_t index = -1;
  PyObject* key = nullptr;

  std::string text() const;
};

// An array of float32 or float64 in native byte order, aligned.
struct Array {
  PyObject* object;
  char* data;
  Dtype dtype;
  int nd;
  const Py_ssize_t* shape;
  const Py_ssize_t* strides;
  int flags;

  std::size_t size() const {
    std::size_t n = 1;
    for (int i = 0; i < nd; ++i) n *= std::size_t(shape[i]);
    return n;
  }
  std::size_t bytes() const { return size() * size_of(dtype); }
  bool same_shape(const Array& other) const;
  bool contiguous() const { return flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_; }
  bool writeable() const { return flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_; }
};

bool is_ndarray(PyObject* object);

// What must outlive a call: arrays made from other libraries' tensors.
using Keep = std::vector<py::object>;

// The fields of `object`; a tensor of another library is viewed by fusedstep._array.view. TypeError where it is
// neither.
Array array(PyObject* object, const Name& name, Keep& keep);
void initialize();

void check_dtype(const Array& array, const Name& name, Dtype dtype);
void check_shape(const Array& array, const Name& name, std::initializer_list<Py_ssize_t> shape);
void check_same_shape(const Array& array, const Name& name, const Array& like);
void check_contiguous(const Array& array, const Name& name);
void check_writeable(const Array& array, const Name& name);

// Memory [begin, end) that an argument occupies.
struct Extent {
  const char* begin;
  const char* end;
  bool overlaps(const Extent& other) const { return begin < other.end && other.begin < end; }
};
Extent extent(const Array& array);
void check_no_overlap(const Array& a, const Name& name, const Array& b, const Name& other);

std::string shape_text(int nd, const Py_ssize_t* shape);
[[noreturn]] void value_error(const Name& name, const std::string& rule);
[[noreturn]] void type_error(const Name& name, const std::string& rule);

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
