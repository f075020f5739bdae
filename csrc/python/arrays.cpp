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

std::string repr(PyObject* object) { return py::repr(object).cast<std::string>(); }

}  // namespace

std::string Name::text() const {
  if (key) return std::string(base) + "[" + repr(key) + "]";
  return index < 0 ? base : std::string(base) + "[" + std::to_string(index) + "]";
}

std::string shape_text(int nd, const Py_ssize_t* shape) {
  std::string text = "(";
  for (int i = 0; i < nd; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (nd == 1 ? ",)" : ")");
}

void value_error(const Name& name, const std::string& rule) { throw py::value_error(name.text() + ": " + rule); }
void type_error(const Name& name, const std::string& rule) { throw py::type_error(name.text() + ": " + rule); }

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

bool Array::same_shape(const Array& other) const {
  return nd == other.nd && std::equal(shape, shape + nd, other.shape);
}

void check_dtype(const Array& array, const Name& name, Dtype dtype) {
  if (array.dtype != dtype)
    type_error(name, std::string("expected dtype ") + name_of(dtype) + ", got " + name_of(array.dtype));
}

void check_shape(const Array& array, const Name& name, std::initializer_list<Py_ssize_t> shape) {
  if (array.nd != int(shape.size()) || !std::equal(shape.begin(), shape.end(), array.shape))
    value_error(name, "expected shape " + shape_text(int(shape.size()), shape.begin()) + ", got " +
                          shape_text(array.nd, array.shape));
}

void check_same_shape(const Array& array, const Name& name, const Array& like) {
  if (!array.same_shape(like))
    value_error(name,
                "expected shape " + shape_text(like.nd, like.shape) + ", got " + shape_text(array.nd, array.shape));
}

void check_contiguous(const Array& array, const Name& name) {
  if (!array.contiguous())
    value_error(name, "expected a C-contiguous array, got shape " + shape_text(array.nd, array.shape) +
                          " with strides " + shape_text(array.nd, array.strides));
}

void check_writeable(const Array& array, const Name& name) {
  if (!array.writeable()) value_error(name, "expected a writeable array, got a read-only one");
}

Extent extent(const Array& array) {
  const char* begin = array.data;
  const char* last = array.data;
  if (array.size() == 0) return {begin, begin};
  for (int i = 0; i < array.nd; ++i) (array.strides[i] < 0 ? begin : last) += array.strides[i] * (array.shape[i] - 1);
  return {begin, last + size_of(array.dtype)};
}

void check_no_overlap(const Array& a, const Name& name, const Array& b, const Name& other) {
  if (extent(a).overlaps(extent(b)))
    value_error(name, "expected memory of its own, got an overlap with " + other.text());
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
