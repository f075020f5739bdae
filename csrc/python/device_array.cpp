#include "python/device_array.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <string_view>
#include <utility>

#include "python/frozen.h"

namespace fusedstep::python {
namespace {

using cuda::Format;

// DLPack's C structures (dlpack.h), as far as they are read here.
namespace dlpack {
enum : std::int32_t { cuda = 2, cuda_managed = 13 };
enum : std::uint8_t { floating = 2, bfloat = 4 };
constexpr std::uint64_t kReadOnly = 1;

struct Tensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t nd;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: C-contiguous
  std::uint64_t byte_offset;
};
struct Versioned {
  std::uint32_t major, minor;
  void* manager;
  void (*deleter)(Versioned*);
  std::uint64_t flags;
  Tensor tensor;
};
}  // namespace dlpack

// Null where there is no such attribute.
py::object attribute(PyObject* object, PyObject* name) {
  PyObject* const value = PyObject_GetAttr(object, name);
  if (!value) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw py::error_already_set();
    PyErr_Clear();
  }
  return py::reinterpret_steal<py::object>(value);
}

PyObject* interned(const char* text) {
  PyObject* const name = PyUnicode_InternFromString(text);
  if (!name) throw py::error_already_set();
  return name;
}

py::module_ device_module() { return py::module_::import("fusedstep._device"); }

[[noreturn]] void not_in_cuda_memory(PyObject* object, const Name& name) {
  const auto what = device_module().attr("describe")(py::handle(object)).cast<std::string>();
  type_error(name, "expected a float32, float64, float16 or bfloat16 array in CUDA memory, got " + what);
}
[[noreturn]] void wrong_dtype(const std::string& dtype, const Name& name) {
  type_error(name, "expected a float32, float64, float16 or bfloat16 array, got dtype " + dtype);
}

void set_dims(DeviceArray& array, std::size_t nd, const Name& name) {
  if (nd > std::size_t(kMaxDims)) value_error(name, "expected at most 64 dimensions, got " + std::to_string(nd));
  array.nd = int(nd);
}

void set_contiguous_strides(DeviceArray& array) {
  Py_ssize_t stride = Py_ssize_t(size_of(array.dtype));
  for (int i = array.nd; i-- > 0; stride *= array.shape[i]) array.strides[i] = stride;
}

// Of __cuda_array_interface__; null where there is none.
PyObject* item(PyObject* fields, PyObject* key) {
  PyObject* const value = PyDict_GetItemWithError(fields, key);
  if (!value && PyErr_Occurred()) throw py::error_already_set();
  return value == Py_None ? nullptr : value;
}
PyObject* needed(PyObject* fields, PyObject* key, const Name& name) {
  if (PyObject* const value = item(fields, key)) return value;
  type_error(name, "expected __cuda_array_interface__ with " + repr(key));
}

// bfloat16 has no code of its own in NumPy's type strings: ml_dtypes, and CuPy and torch with it, write two raw bytes.
Format format_of(PyObject* type, PyObject* object, const Name& name) {
  const auto is = [&](const char* text) { return PyUnicode_CompareWithASCIIString(type, text) == 0; };
  if (is("<f4")) return Format::f32;
  if (is("<f8")) return Format::f64;
  if (is("<f2")) return Format::f16;
  static PyObject* const dtype_name = interned("dtype");
  const py::object dtype = attribute(object, dtype_name);
  const std::string text = py::str(dtype ? py::handle(dtype) : py::handle(type)).cast<std::string>();
  if (is("<V2") && std::string_view(text).ends_with("bfloat16")) return Format::bf16;
  wrong_dtype(text, name);
}

// CUDA's default stream has two addresses.
std::uintptr_t address(cuda::Stream stream) {
  const auto value = reinterpret_cast<std::uintptr_t>(stream);
  return value ? value : 1;
}

DeviceArray from_interface(PyObject* fields, PyObject* object, const Name& name, cuda::Stream stream) {
  static PyObject *const version_key = interned("version"), *const mask_key = interned("mask"),
                         *const type_key = interned("typestr"), *const data_key = interned("data"),
                         *const shape_key = interned("shape"), *const strides_key = interned("strides"),
                         *const stream_key = interned("stream");
  if (!PyDict_Check(fields)) type_error(name, "expected __cuda_array_interface__ to be a dict, got " + repr(fields));
  const int version = py::handle(needed(fields, version_key, name)).cast<int>();
  if (version < 2)
    type_error(name, "expected __cuda_array_interface__ of version 2 or 3, got " + std::to_string(version));
  if (item(fields, mask_key)) type_error(name, "expected an array without a mask");
  DeviceArray array{};
  array.dtype = format_of(needed(fields, type_key, name), object, name);
  const py::handle data(needed(fields, data_key, name));
  const auto [address_of_data, read_only] = data.cast<std::pair<std::uintptr_t, bool>>();
  array.data = reinterpret_cast<char*>(address_of_data);
  array.read_only = read_only;
  const auto shape = py::handle(needed(fields, shape_key, name)).cast<py::tuple>();
  set_dims(array, shape.size(), name);
  const auto read = [&](const py::tuple& values, Py_ssize_t* to) {
    for (std::size_t i = 0; i < values.size() && i < std::size_t(array.nd); ++i) to[i] = values[i].cast<Py_ssize_t>();
  };
  read(shape, array.shape);
  if (PyObject* const strides = item(fields, strides_key))
    read(py::handle(strides).cast<py::tuple>(), array.strides);
  else
    set_contiguous_strides(array);
  if (PyObject* const producer = item(fields, stream_key))
    if (py::handle(producer).cast<std::uintptr_t>() != address(stream))
      device_module().attr("wait_for")(py::handle(producer));
  return array;
}

py::object export_capsule(PyObject* object, cuda::Stream stream) {
  const py::object exported = py::handle(object).attr("__dlpack__");
  const py::int_ number(address(stream));
  try {
    return exported(py::arg("stream") = number, py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    return exported(py::arg("stream") = number);  // the protocol before its version 1
  }
}

DeviceArray from_dlpack(PyObject* object, const Name& name, cuda::Stream stream, Keep& keep) {
  const auto device = py::handle(object).attr("__dlpack_device__")().cast<py::tuple>();
  const int type = device[0].cast<int>();
  if (type != dlpack::cuda && type != dlpack::cuda_managed) not_in_cuda_memory(object, name);
  // Not consumed: it deletes what it holds when it goes.
  keep.push_back(export_capsule(object, stream));
  PyObject* const capsule = keep.back().ptr();
  DeviceArray array{};
  const dlpack::Tensor* tensor;
  if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
    const auto* const managed =
        static_cast<const dlpack::Versioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
    if (managed->major != 1) type_error(name, "expected DLPack of version 1, got " + std::to_string(managed->major));
    array.read_only = managed->flags & dlpack::kReadOnly;
    tensor = &managed->tensor;
  } else {
    tensor = static_cast<const dlpack::Tensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
    if (!tensor) throw py::error_already_set();
  }
  if (tensor->lanes == 1 && tensor->code == dlpack::floating && tensor->bits == 32)
    array.dtype = Format::f32;
  else if (tensor->lanes == 1 && tensor->code == dlpack::floating && tensor->bits == 64)
    array.dtype = Format::f64;
  else if (tensor->lanes == 1 && tensor->code == dlpack::floating && tensor->bits == 16)
    array.dtype = Format::f16;
  else if (tensor->lanes == 1 && tensor->code == dlpack::bfloat && tensor->bits == 16)
    array.dtype = Format::bf16;
  else
    wrong_dtype("of DLPack code " + std::to_string(tensor->code) + " with " + std::to_string(tensor->bits) + " bits",
                name);
  array.data = static_cast<char*>(tensor->data) + tensor->byte_offset;
  set_dims(array, std::size_t(tensor->nd), name);
  for (int i = 0; i < array.nd; ++i) array.shape[i] = Py_ssize_t(tensor->shape[i]);
  if (tensor->strides)
    for (int i = 0; i < array.nd; ++i)
      array.strides[i] = Py_ssize_t(tensor->strides[i]) * Py_ssize_t(size_of(array.dtype));
  else
    set_contiguous_strides(array);
  return array;
}

// __cuda_array_interface__, or null. torch refuses it for a tensor that requires a gradient: then of what it detaches.
py::object interface(py::object& object) {
  static PyObject* const name = interned("__cuda_array_interface__");
  try {
    return attribute(object.ptr(), name);
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_RuntimeError) || !py::hasattr(object, "detach")) throw;
    object = object.attr("detach")();
    return attribute(object.ptr(), name);
  }
}

}  // namespace

bool DeviceArray::contiguous() const {
  if (size() == 0) return true;
  Py_ssize_t stride = Py_ssize_t(size_of(dtype));
  for (int i = nd; i-- > 0; stride *= shape[i])
    if (shape[i] != 1 && strides[i] != stride) return false;
  return true;
}

DeviceArray device_array(PyObject* given, const Name& name, cuda::Stream stream, Keep& keep) {
  py::object object = py::reinterpret_borrow<py::object>(given);
  const py::object fields = interface(object);
  if (!fields && !py::hasattr(object, "__dlpack_device__")) not_in_cuda_memory(given, name);
  DeviceArray array =
      fields ? from_interface(fields.ptr(), object.ptr(), name, stream) : from_dlpack(object.ptr(), name, stream, keep);
  keep.push_back(std::move(object));
  array.read_only = array.read_only || Frozen::holds(array.data, array.bytes());
  if (reinterpret_cast<std::uintptr_t>(array.data) % size_of(array.dtype))
    value_error(name, "expected elements aligned to their size, got a misaligned array");
  return array;
}

}  // namespace fusedstep::python
