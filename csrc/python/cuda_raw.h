// Device arrays that the package's own Python has made, on their fields alone: what is checked here keeps a mistake
// there from becoming a wrong address.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/table.h"

namespace fusedstep::python {

namespace py = pybind11;

// A device array by its __cuda_array_interface__; strides in elements.
struct Raw {
  std::string name, type;
  void* data;
  std::vector<std::ptrdiff_t> shape, strides;

  Raw(const char* called, const py::handle& object) : name(called) {
    const auto fields = py::cast<py::dict>(object.attr("__cuda_array_interface__"));
    type = py::cast<std::string>(fields["typestr"]).substr(1);
    data = reinterpret_cast<void*>(py::cast<std::uintptr_t>(py::cast<py::tuple>(fields["data"])[0]));
    shape = py::cast<std::vector<std::ptrdiff_t>>(fields["shape"]);
    const py::object given = fields.attr("get")("strides", py::none());
    if (given.is_none()) {
      strides = of_contiguous();
    } else {
      strides = py::cast<std::vector<std::ptrdiff_t>>(given);
      for (std::ptrdiff_t& stride : strides) stride /= std::stoi(type.substr(1));
    }
  }

  const Raw& typed(const char* expected) const {
    if (type != expected) throw py::type_error(name + ": got dtype " + type);
    return *this;
  }
  const Raw& shaped(const std::vector<std::size_t>& expected) const {
    if (!std::equal(shape.begin(), shape.end(), expected.begin(), expected.end(),
                    [](std::ptrdiff_t a, std::size_t b) { return a == std::ptrdiff_t(b); }))
      throw py::value_error(name + ": got shape " + py::str(py::cast(shape)).cast<std::string>());
    return *this;
  }
  void* contiguous() const {
    const auto whole = of_contiguous();
    for (std::size_t i = 0; i < shape.size() && !empty(); ++i)
      if (shape[i] > 1 && strides[i] != whole[i]) throw py::value_error(name + ": expected a contiguous array");
    return data;
  }
  // Steps and rows may lie apart.
  Strided strided() const {
    if (shape.size() > 2 && shape[2] > 1 && strides[2] != 1 && !empty())
      throw py::value_error(name + ": rows in pieces");
    return {data, strides[0], strides[1]};
  }

 private:
  bool empty() const { return std::count(shape.begin(), shape.end(), 0) > 0; }
  std::vector<std::ptrdiff_t> of_contiguous() const {
    std::vector<std::ptrdiff_t> all(shape.size());
    std::ptrdiff_t stride = 1;
    for (std::size_t i = shape.size(); i-- > 0; stride *= std::max<std::ptrdiff_t>(shape[i], 1)) all[i] = stride;
    return all;
  }
};

inline const char* type_name(Dtype dtype) { return dtype == Dtype::f32 ? "f4" : "f8"; }
inline Dtype dtype_of(const Raw& array) {
  if (array.type != "f4") array.typed("f8");
  return array.type == "f4" ? Dtype::f32 : Dtype::f64;
}

using Extents = std::initializer_list<std::size_t>;

// Where the arrays of a sweep are, by the names of Recurrence's fields: checked; or, of a cell's step, addresses of
// contiguous arrays whose shapes the caller has checked.
struct CheckedArrays {
  const py::dict& arrays;
  Dtype dtype;

  void* whole(const char* name, Extents shape) const {
    PyObject* const array = given(name);
    return array ? Raw(name, array).typed(type_name(dtype)).shaped(shape).contiguous() : nullptr;
  }
  Strided strided(const char* name, Extents shape) const {
    PyObject* const array = given(name);
    return array ? Raw(name, array).typed(type_name(dtype)).shaped(shape).strided() : Strided{};
  }
  // Rows of the second dimension may lie apart: the distance between them.
  std::pair<void*, std::size_t> rows(const char* name, Extents shape) const {
    PyObject* const array = given(name);
    if (!array) return {};
    const Raw at = Raw(name, array).typed(type_name(dtype)).shaped(shape);
    if (at.shape[1] > 1 && at.strides[1] != 1) throw py::value_error(at.name + ": rows in pieces");
    return {at.data, std::size_t(at.strides[0])};
  }
  PyObject* given(const char* name) const {
    PyObject* const array = PyDict_GetItemString(arrays.ptr(), name);
    return array == Py_None ? nullptr : array;
  }
};

struct Addresses {
  const py::dict& addresses;

  void* whole(const char* name, Extents) const {
    PyObject* const address = PyDict_GetItemString(addresses.ptr(), name);
    return address ? PyLong_AsVoidPtr(address) : nullptr;
  }
  Strided strided(const char* name, Extents shape) const {
    return {whole(name, shape), 0, std::ptrdiff_t(shape.begin()[2])};
  }
  std::pair<void*, std::size_t> rows(const char* name, Extents shape) const {
    return {whole(name, shape), shape.begin()[1]};
  }
};

}  // namespace fusedstep::python
