// Optimizers on a GPU for callers that keep their own arrays: one tensor's step, and the check of a parameter.

#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/runtime.h"
#include "python/cuda_bind.h"
#include "python/cuda_record.h"
#include "python/device_array.h"
#include "python/gpu.h"
#include "python/plan.h"
#include "python/record.h"

namespace fusedstep::python {
namespace {

// One tensor's step, for callers that keep their own arrays: arrays = (p, g, *states).
void update_one(const py::object& device, const std::string& rule_name, const std::vector<double>& hyper, double t,
                double grad_scale, const std::vector<std::string>& names, const std::vector<py::object>& objects) {
  const int rule = find_rule(cuda::update_rules(), rule_name);
  const cuda::RuleInfo& info = cuda::update_rules()[std::size_t(rule)];
  const Gpu gpu(device);
  const cuda::Stream stream = gpu.stream();
  Keep keep;
  const auto arrays = update_arrays(info, hyper, names, objects, [&](PyObject* object, const Name& name) {
    return device_array(object, name, stream, keep);
  }, [](cuda::Format format) { return scalar_of(format); });
  cuda::DeviceTensor tensor{};
  tensor.p = arrays[0].data;
  tensor.g = arrays[1].data;
  for (std::size_t i = 2; i < arrays.size(); ++i) tensor.state[i - 2] = arrays[i].data;
  tensor.n = arrays[0].size();
  const GpuRecording recording(device);

  // Hyperparameters, the count of steps before this one, and the rule.
  std::vector<double> values = hyper;
  values.push_back(t - 1);
  py::object memory = gpu.empty(values.size() + kRuleBytes / sizeof(double), "float64");
  double* const at = static_cast<double*>(Gpu::address(memory));
  if (cuda::is_captured(stream)) memory.inc_ref();  // for ever: the graph may be replayed at any time
  cuda::write(values, at, stream);
  double* const prepared = at + values.size();
  const std::size_t number = 0;
  cuda::prepare(rule, scalar_of(arrays[0].dtype), at, {&number, 1}, prepared - 1, prepared, nullptr, stream);
  cuda::update(rule, arrays[0].dtype, {&tensor, 1}, prepared, 1, grad_scale, nullptr, false, stream);
  if (recording) [[unlikely]]
    recording.add("optimizer", info.name, arrays[0].dtype, used(hyper), {1, std::int64_t(tensor.n)});
}

// Checks an array that is to be updated. Returns its address, shape and dtype.
py::tuple check_parameter(const py::object& object, const std::string& text, const py::object& device) {
  const Name name{text.c_str()};
  Keep keep;
  const DeviceArray array = device_array(object.ptr(), name, Gpu(device).stream(), keep);
  check_contiguous(array, name);
  check_writeable(array, name);
  py::tuple shape{std::size_t(array.nd)};
  for (int i = 0; i < array.nd; ++i) shape[std::size_t(i)] = array.shape[i];
  return py::make_tuple(reinterpret_cast<std::uintptr_t>(array.data), shape, name_of(array.dtype));
}

}  // namespace

void bind_cuda_update(py::module_& module) {
  module.def("update", &update_one);
  module.def("parameter", &check_parameter);
}

}  // namespace fusedstep::python
