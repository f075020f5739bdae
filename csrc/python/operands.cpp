#include "python/operands.h"

#include <optional>

namespace fusedstep::python {
namespace {

constexpr int kInt32 = 5, kLong = 7, kLongLong = 9, kBool = 0, kByte = 2;  // NPY_INT, …, NPY_BOOL, NPY_UBYTE

std::size_t size_of(Element element, Dtype dtype) {
  switch (element) {
    case Element::same:
      return fusedstep::size_of(dtype);
    case Element::int32:
      return 4;
    case Element::int64:
      return 8;
    case Element::byte:
      break;
  }
  return 1;
}

std::string shape_of(const std::vector<Py_ssize_t>& shape) { return shape_text(int(shape.size()), shape.data()); }

}  // namespace

Operand operand(const py::object& object, const Name& name, Dtype dtype, const std::vector<Py_ssize_t>& shape,
                Keep& keep) {
  Operand result{};
  if (PyFloat_Check(object.ptr()) || PyLong_Check(object.ptr())) {
    result.value = object.cast<double>();
    return result;
  }
  py::object held = object;
  if (!is_ndarray(object.ptr())) {
    held = py::module_::import("fusedstep._array").attr("view")(object, name.text());
    keep.push_back(held);
  }
  const auto array = py::reinterpret_borrow<py::array>(held);
  const int number = array.dtype().num();
  const bool native = array.dtype().byteorder() == '=' || array.dtype().byteorder() == '|';
  const auto element = [&]() -> std::optional<Element> {
    if (!native) return {};
    if (number == numpy_dtype(dtype).num()) return Element::same;
    if (number == kInt32) return Element::int32;
    if ((number == kLong || number == kLongLong) && array.itemsize() == 8) return Element::int64;
    if (number == kBool || number == kByte) return Element::byte;
    return {};
  }();
  if (!element)
    type_error(name, std::string("expected dtype ") + name_of(dtype) + ", int32, int64, uint8 or bool, got " +
                         py::str(array.dtype()).cast<std::string>());
  result.element = *element;
  result.data = array.data();
  const auto misfit = [&] {
    value_error(name, "expected a shape that broadcasts to " + shape_of(shape) + ", got " +
                          shape_text(int(array.ndim()), array.shape()));
  };
  const int nd = int(shape.size()), extra = nd - int(array.ndim());
  if (extra < 0) misfit();
  // From the last dimension on, joining each with the one before it where one stride serves both.
  std::size_t sizes[kMaxDims];
  std::ptrdiff_t strides[kMaxDims];
  int n = 0;
  for (int d = nd - 1; d >= 0; --d) {
    const Py_ssize_t size = shape[std::size_t(d)], own = d < extra ? 1 : array.shape(d - extra);
    if (own != size && own != 1) misfit();
    if (size == 1) continue;
    const Py_ssize_t bytes = own == 1 ? 0 : array.strides(d - extra);
    if (bytes % array.itemsize() != 0) value_error(name, "expected strides that are multiples of an element");
    const std::ptrdiff_t stride = bytes / array.itemsize();
    if (n && stride == strides[n - 1] * std::ptrdiff_t(sizes[n - 1])) {
      sizes[n - 1] *= std::size_t(size);
    } else if (n == kMaxDims) {
      value_error(name, "expected at most 8 dimensions that do not lie one behind the other");
    } else {
      sizes[n] = std::size_t(size);
      strides[n++] = stride;
    }
  }
  if (n == 0) sizes[n] = 1, strides[n++] = 1;
  result.nd = n;
  for (int d = 0; d < n; ++d) {
    result.shape[d] = sizes[n - 1 - d];
    result.stride[d] = strides[n - 1 - d];
  }
  return result;
}

std::vector<Py_ssize_t> shape_vector(const Array& a) { return {a.shape, a.shape + a.nd}; }

void* gradient(const py::object& grad, const Array& input, const Name& name, Keep& keep) {
  if (grad.is_none()) return nullptr;
  const Array a = array(grad.ptr(), name, keep);
  check_dtype(a, name, input.dtype);
  check_same_shape(a, name, input);
  check_contiguous(a, name);
  check_writeable(a, name);
  if (a.data != input.data) check_no_overlap(a, name, input, {"input"});
  return a.data;
}
void check_apart(const void* grad, std::size_t bytes, const Operand& operand, Dtype dtype, const char* name) {
  if (!grad || !operand.data) return;
  const auto size = std::ptrdiff_t(size_of(operand.element, dtype));
  const char *first = static_cast<const char*>(operand.data), *last = first;
  for (int d = 0; d < operand.nd; ++d)
    (operand.stride[d] < 0 ? first : last) += size * operand.stride[d] * std::ptrdiff_t(operand.shape[d] - 1);
  const char* const out = static_cast<const char*>(grad);
  if (Extent{first, last + size}.overlaps({out, out + bytes}))
    value_error({"out"}, std::string("expected memory of its own, got an overlap with ") + name);
}

void* values_of(const py::object& values) {
  return values.is_none() ? nullptr : py::reinterpret_borrow<py::array>(values).mutable_data();
}

std::size_t bytes_of(const Operand& operand, Dtype dtype) {
  if (!operand.data) return 0;
  std::size_t bytes = size_of(operand.element, dtype);
  for (int d = 0; d < operand.nd; ++d)
    if (operand.stride[d] != 0) bytes *= operand.shape[d];
  return bytes;
}

}  // namespace fusedstep::python
