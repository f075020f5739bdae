// How errors name arguments, and the checks that arrays pass before anything is written, wherever their memory is.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <vector>

namespace fusedstep::python {

namespace py = pybind11;

// How errors call an argument: `grads`, `grads[3]` or `grads['w']`. Built only when an error is.
struct Name {
  const char* base;
  Py_ssize_t index = -1;
  PyObject* key = nullptr;

  std::string text() const;
};

[[noreturn]] void value_error(const Name& name, const std::string& rule);
[[noreturn]] void type_error(const Name& name, const std::string& rule);
std::string repr(PyObject* object);
std::string shape_text(int nd, const Py_ssize_t* shape);

// What must outlive a call: arrays made from other libraries' tensors.
using Keep = std::vector<py::object>;

// Memory [begin, end) that an argument occupies.
struct Extent {
  const char* begin;
  const char* end;
  bool overlaps(const Extent& other) const { return begin < other.end && other.begin < end; }
};

inline std::size_t elements(int nd, const Py_ssize_t* shape) {
  std::size_t n = 1;
  for (int i = 0; i < nd; ++i) n *= std::size_t(shape[i]);
  return n;
}

// An array type A has nd, shape, strides (in bytes), data, dtype, size(), contiguous() and writeable().

template <class A>
bool same_shape(const A& array, const A& other) {
  return array.nd == other.nd && std::equal(array.shape, array.shape + array.nd, other.shape);
}

template <class A>
Extent extent(const A& array) {
  const char* begin = array.data;
  const char* last = array.data;
  if (array.size() == 0) return {begin, begin};
  for (int i = 0; i < array.nd; ++i) (array.strides[i] < 0 ? begin : last) += array.strides[i] * (array.shape[i] - 1);
  return {begin, last + size_of(array.dtype)};
}

template <class A, class D>
void check_dtype(const A& array, const Name& name, D dtype) {
  if (array.dtype != dtype)
    type_error(name, std::string("expected dtype ") + name_of(dtype) + ", got " + name_of(array.dtype));
}

template <class A>
void check_shape(const A& array, const Name& name, std::initializer_list<Py_ssize_t> shape) {
  if (array.nd != int(shape.size()) || !std::equal(shape.begin(), shape.end(), array.shape))
    value_error(name, "expected shape " + shape_text(int(shape.size()), shape.begin()) + ", got " +
                          shape_text(array.nd, array.shape));
}

template <class A>
void check_same_shape(const A& array, const Name& name, const A& like) {
  if (!same_shape(array, like))
    value_error(name,
                "expected shape " + shape_text(like.nd, like.shape) + ", got " + shape_text(array.nd, array.shape));
}

template <class A>
void check_contiguous(const A& array, const Name& name) {
  if (!array.contiguous())
    value_error(name, "expected a C-contiguous array, got shape " + shape_text(array.nd, array.shape) +
                          " with strides " + shape_text(array.nd, array.strides));
}

template <class A>
void check_writeable(const A& array, const Name& name) {
  if (!array.writeable()) value_error(name, "expected a writeable array, got a read-only one");
}

// What is asked of a gradient, and of a state, which is written.
template <class A, class D>
void check_alike(const A& array, const Name& name, const A& like, D dtype, bool written) {
  check_dtype(array, name, dtype);
  check_same_shape(array, name, like);
  check_contiguous(array, name);
  if (written) check_writeable(array, name);
}

template <class A>
void check_no_overlap(const A& a, const Name& name, const A& b, const Name& other) {
  if (extent(a).overlaps(extent(b)))
    value_error(name, "expected memory of its own, got an overlap with " + other.text());
}

}  // namespace fusedstep::python
