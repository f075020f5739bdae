#include "python/arrays.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cpu/memory.h"
#include "python/room.h"

namespace fusedstep::python {
namespace {

PyTypeObject* ndarray_type = nullptr;  // numpy.ndarray, which pybind11 looks up in a dict each time

constexpr int kFloat = 11, kDouble = 12;  // NPY_FLOAT, NPY_DOUBLE

}  // namespace

void initialize() { ndarray_type = py::detail::npy_api::get().PyArray_Type_; }

bool is_ndarray(PyObject* object) { return PyObject_TypeCheck(object, ndarray_type); }

Array array(PyObject* object, const Name& name, Keep& keep) {
  if (!is_ndarray(object)) {
    keep.push_back(py::module_::import("fusedstep._array").attr("view")(py::handle(object), name.text()));
    object = keep.back().ptr();
  }
  const auto* fields = py::detail::array_proxy(object);
  const auto* descr = py::detail::array_descriptor_proxy(fields->descr);
  const bool native = descr->byteorder == '=' || descr->byteorder == '|';
  if ((descr->type_num != kFloat && descr->type_num != kDouble) || !native)
    type_error(name, "expected a float32 or float64 array, got dtype " +
                         py::str(py::handle(fields->descr)).cast<std::string>());
  if (!(fields->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
    value_error(name, "expected elements aligned to their size, got a misaligned array");
  return {object,       fields->data,       descr->type_num == kFloat ? Dtype::f32 : Dtype::f64,
          fields->nd,   fields->dimensions, fields->strides,
          fields->flags};
}

py::dtype numpy_dtype(Dtype dtype) { return py::dtype(dtype == Dtype::f32 ? kFloat : kDouble); }

Dtype dtype_of(const py::object& dtype) {
  const int number = py::dtype::from_args(dtype).num();
  if (number != kFloat && number != kDouble)
    type_error({"dtype"}, "expected float32 or float64, got " + repr(dtype.ptr()));
  return number == kFloat ? Dtype::f32 : Dtype::f64;
}

namespace {

std::size_t bytes_of(const std::vector<Py_ssize_t>& shape, Dtype dtype) {
  std::size_t bytes = size_of(dtype);
  for (const Py_ssize_t n : shape) bytes *= std::size_t(n);
  return bytes;
}

}  // namespace

py::array empty(const std::vector<Py_ssize_t>& shape, Dtype dtype) {
  auto room = std::make_unique<Room>(std::max<std::size_t>(bytes_of(shape, dtype), 1));
  const char* const data = room->data();
  const py::capsule owner(room.get(), [](void* p) { delete static_cast<Room*>(p); });
  room.release();
  return py::array(numpy_dtype(dtype), shape, data, owner);
}

py::array zeros(const std::vector<Py_ssize_t>& shape, Dtype dtype) {
  const std::size_t bytes = bytes_of(shape, dtype);
#if defined(__linux__)
  if (bytes >= kHugePage) {
    // Mapped one page too long, so that a whole number of huge pages fits from the first aligned address on.
    const std::size_t mapped = (bytes + 2 * kHugePage - 1) / kHugePage * kHugePage;
    void* const base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    void* const data =
        reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(base) + kHugePage - 1) / kHugePage * kHugePage);
    advise_huge_pages(data, bytes);
    struct Mapping {
      void* base;
      std::size_t size;
    };
    py::capsule owner(new Mapping{base, mapped}, [](void* p) {
      auto* mapping = static_cast<Mapping*>(p);
      munmap(mapping->base, mapping->size);
      delete mapping;
    });
    return py::array(numpy_dtype(dtype), shape, data, owner);
  }
#endif
  void* const data = std::aligned_alloc(64, (bytes + 127) / 64 * 64);
  if (!data) throw std::bad_alloc();
  std::memset(data, 0, bytes);
  return py::array(numpy_dtype(dtype), shape, data, py::capsule(data, [](void* p) { std::free(p); }));
}

}  // namespace fusedstep::python
