// A GPU as the bindings see it: CuPy's memory and its current stream, by way of fusedstep._device.Device.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/runtime.h"
#include "python/arguments.h"

namespace fusedstep::python {

class Gpu {
 public:
  explicit Gpu(const py::object& device) : device_(device), number_(device.attr("number").cast<int>()) {}

  // CuPy's current stream, which is on this GPU.
  cuda::Stream stream() const {
    const auto address = device_.attr("stream")().cast<std::uintptr_t>();
    cuda::use_gpu(number_);
    return reinterpret_cast<cuda::Stream>(address);
  }
  const py::object& device() const { return device_; }
  // An array of CuPy's pool.
  py::object empty(std::size_t count, const char* dtype) const {
    return device_.attr("empty")(py::make_tuple(count), dtype);
  }
  static void* address(const py::object& array) {
    return reinterpret_cast<void*>(array.attr("data").attr("ptr").cast<std::uintptr_t>());
  }
  std::vector<double> copy_back(const py::object& array) const {
    return device_.attr("asnumpy")(array).attr("tolist")().cast<std::vector<double>>();
  }
  void check_here(const void* data, const Name& name) const {
    if (const int number = cuda::gpu_of(data); number != number_)
      type_error(name, "expected an array on GPU " + std::to_string(number_) +
                           ", where the parameters are, got one on GPU " + std::to_string(number));
  }
  // Memory for a report, and its fields as StepInfo has them.
  py::tuple report() const {
    const auto fields = py::make_tuple(py::make_tuple("float64", offsetof(cuda::Report, norm)),
                                       py::make_tuple("bool", offsetof(cuda::Report, applied)),  // its lowest byte
                                       py::make_tuple("int64", offsetof(cuda::Report, first_nonfinite)));
    return device_.attr("scalars")(sizeof(cuda::Report), fields).cast<py::tuple>();
  }

 private:
  py::object device_;
  int number_;
};

}  // namespace fusedstep::python
