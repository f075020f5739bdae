// An optimizer's parameters, states, step counts and hyperparameters on a GPU, checked once; and its step. Nothing here
// waits for the GPU: what depends on its results (the norm, whether the step is applied, the count) stays there.

#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/device.h"
#include "cuda/runtime.h"
#include "python/batches.h"
#include "python/cuda_bind.h"
#include "python/cuda_record.h"
#include "python/device_array.h"
#include "python/fastcall.h"
#include "python/frozen.h"
#include "python/gpu.h"
#include "python/plan.h"
#include "python/record.h"
#include "python/step_parts.h"

namespace fusedstep::python {
namespace {

using cuda::DeviceTensor;
using cuda::Format;
using cuda::Report;
using cuda::Stream;

const cuda::RuleInfo& info(int rule) { return cuda::update_rules()[std::size_t(rule)]; }

std::size_t blocks_of(std::size_t n) { return (n + kNormBlock - 1) / kNormBlock; }

struct Group {
  int rule;
  std::vector<double> hyper;
  bool maximize;
  std::size_t hyper_at;  // in device memory
};

struct Parameter {
  Keep arrays;
  DeviceArray fields;
  DeviceTensor tensor;  // without what changes from step to step
  std::size_t group;
};

class CudaPlan {
 public:
  CudaPlan(const py::object& keys, bool single, const py::object& device)
      : given_(keys, single),
        applied_(step_info(Py_NewRef(Py_None), Py_NewRef(Py_True), Py_NewRef(Py_None))),
        gpu_(device) {}

  void add_group(const std::string& rule_name, const std::vector<double>& hyper, bool maximize,
                 const py::sequence& params, const py::sequence& states) {
    if (started()) throw py::value_error("expected all groups before the first step");
    const int rule = find_rule(cuda::update_rules(), rule_name);
    const Stream stream = gpu_.stream();
    std::vector<Parameter> added;
    for (std::size_t i = 0; i < params.size(); ++i) {
      const std::size_t number = parameters_.size() + i;
      Parameter parameter{.arrays = {}, .fields = {}, .tensor = {}, .group = groups_.size()};
      const auto take = [&](const py::object& object, const Name& name) {
        parameter.arrays.push_back(object);
        return device_array(object.ptr(), name, stream, parameter.arrays);
      };
      const Name name{"params", Py_ssize_t(number)};
      parameter.fields = take(params[i], name);
      check_contiguous(parameter.fields, name);
      check_writeable(parameter.fields, name);
      DeviceTensor& tensor = parameter.tensor;
      tensor.p = parameter.fields.data;
      tensor.n = parameter.fields.size();
      tensor.number = number;
      const py::sequence own = states[i];
      const std::size_t count = std::size_t(info(rule).states);
      const bool has_master = own.size() == count + 1 && is_half(parameter.fields.dtype);
      if (own.size() != count + has_master)
        value_error({"states"},
                    "expected " + std::to_string(count) + " arrays, and a copy of a half-precision parameter");
      for (std::size_t j = 0; j < own.size(); ++j) {
        const Name state_name{"states", Py_ssize_t(j)};
        const DeviceArray state = take(own[j], state_name);
        check_alike(state, state_name, parameter.fields, scalar_of(parameter.fields.dtype), true);
        if (j < count)
          tensor.state[j] = state.data;
        else
          tensor.master = reinterpret_cast<float*>(state.data);
      }
      added.push_back(std::move(parameter));
    }
    const std::size_t hyper_at = groups_.empty() ? 0 : groups_.back().hyper_at + groups_.back().hyper.size();
    groups_.push_back({rule, check_hyper(info(rule), hyper), maximize, hyper_at});
    for (Parameter& parameter : added) {
      const DeviceTensor& tensor = parameter.tensor;
      const std::size_t scalar_bytes = tensor.n * size_of(scalar_of(parameter.fields.dtype));
      apart_.parameter(tensor.p, parameter.fields.bytes());
      for (int j = 0; j < info(rule).states; ++j) apart_.writes(tensor.state[j], scalar_bytes);
      if (tensor.master) apart_.writes(tensor.master, scalar_bytes);
      parameters_.push_back(std::move(parameter));
    }
  }

  // After the last group. All memory of later steps is there before the first, which may be recorded into a graph.
  void start(const std::vector<double>& steps) {
    if (started() || groups_.empty()) throw py::value_error("expected groups, and one start");
    const Stream stream = gpu_.stream();
    std::size_t blocks = 0;
    for (const Parameter& parameter : parameters_) blocks += blocks_of(parameter.tensor.n);
    const auto allocate = [&](std::size_t bytes) {
      memory_.push_back(gpu_.empty(bytes, "uint8"));
      return Gpu::address(memory_.back());
    };
    hyper_ = static_cast<double*>(allocate((groups_.back().hyper_at + groups_.back().hyper.size()) * sizeof(double)));
    rules_ = allocate(parameters_.size() * kRuleBytes);
    sums_ = static_cast<cuda::BlockSum*>(allocate(blocks * sizeof(cuda::BlockSum)));
    steps_array_ = gpu_.empty(parameters_.size(), "float64");
    steps_ = static_cast<double*>(Gpu::address(steps_array_));
    for (const Group& group : groups_) cuda::write(group.hyper, hyper_ + group.hyper_at, stream);
    set_steps(steps);
  }

  // Reaches the GPU in stream order: also between two replays of a graph. What is `maximize` in a graph stays so.
  void set_hyper(std::size_t number, const std::vector<double>& hyper, bool maximize) {
    const std::unique_lock<std::mutex> lock = exclusive(*mutex_);
    Group& group = groups_.at(number);
    const Stream stream = gpu_.stream();
    group.hyper = check_hyper(info(group.rule), hyper);
    group.maximize = maximize;
    cuda::write(group.hyper, hyper_ + group.hyper_at, stream);
  }

  // Waits for the stream.
  std::vector<double> steps() const {
    gpu_.stream();
    return gpu_.copy_back(steps_array_);
  }
  void set_steps(const std::vector<double>& steps) {
    if (steps.size() != parameters_.size()) value_error({"steps"}, "expected one per parameter");
    const std::unique_lock<std::mutex> lock = exclusive(*mutex_);
    cuda::write(steps, steps_, gpu_.stream());
  }

  // (grads, max_norm, grad_scale, check_finite, zero_grads)
  py::object step(PyObject* const* args) {
    const StepOptions options(args);
    const std::unique_lock<std::mutex> lock = exclusive(*mutex_);
    if (!started()) throw py::value_error("expected start before the first step");
    const Stream stream = gpu_.stream();
    Keep keep;
    take(args[0], options.zero_grads, stream, keep);
    const GpuRecording recording(gpu_.device());
    py::object result = applied_;
    Report* report = nullptr;
    if (options.needs_norm()) {
      const py::tuple made = gpu_.report();
      report = static_cast<Report*>(Gpu::address(made[0]));
      result = step_info(Py_NewRef(py::object(made[1]).ptr()), Py_NewRef(py::object(made[2]).ptr()),
                         Py_NewRef(py::object(made[3]).ptr()));
      if (cuda::is_captured(stream)) memory_.push_back(made);
    }
    {
      const py::gil_scoped_release release;
      if (report) launch_norm(options, report, stream);
      launch_updates(options, report, stream);
    }
    if (recording) [[unlikely]]
      record(recording, options);
    return result;
  }

 private:
  bool started() const { return steps_; }

  // Checks every gradient and fills the batches; None skips its parameter.
  void take(PyObject* grads, bool zero, Stream stream, Keep& keep) {
    const py::tuple values = given_.in_order(grads, parameters_.size());
    gradients_.clear();
    preparations_.clear();
    updates_.clear();
    blocks_ = 0;
    std::vector<std::pair<const void*, std::size_t>> present;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const Parameter& parameter = parameters_[i];
      PyObject* const object = PyTuple_GET_ITEM(values.ptr(), Py_ssize_t(i));
      if (object == Py_None) {
        apart_.gradient(i, nullptr);
        continue;
      }
      if (Frozen::holds(parameter.fields.data, parameter.fields.bytes()))
        value_error(given_.parameter(i), "expected a writeable array, got a read-only one (a frozen cell's weights?)");
      const Name name = given_.gradient(i);
      const DeviceArray gradient = device_array(object, name, stream, keep);
      check_alike(gradient, name, parameter.fields, parameter.fields.dtype, zero);
      apart_.gradient(i, gradient.data);
      if (gradient.size()) present.push_back({gradient.data, i});

      const Group& group = groups_[parameter.group];
      const Format format = parameter.fields.dtype;
      DeviceTensor tensor = parameter.tensor;
      tensor.g = gradient.data;
      tensor.first_block = blocks_;
      blocks_ += blocks_of(tensor.n);
      gradients_.add(format, tensor);
      preparations_.add({parameter.group, scalar_of(format)}, i);
      updates_.add({group.rule, format, tensor.master != nullptr, group.maximize}, tensor);
    }
    if (!apart_.settled(zero)) {
      for (const auto& [data, i] : present) gpu_.check_here(data, given_.gradient(i));
      apart_.settle(zero, given_);
    }
    keep.push_back(values);
  }

  void launch_norm(const StepOptions& options, Report* report, Stream stream) const {
    bool wide = false;  // squares of float64 gradients may leave double's range: then they are summed again, scaled
    for (const auto& [format, tensors] : gradients_) wide = wide || (format == Format::f64 && !tensors.empty());
    for (const bool again : {false, true}) {
      if (again && !wide) return;
      for (const auto& [format, tensors] : gradients_) cuda::square_sums(format, tensors, again, report, sums_, stream);
      cuda::finish_norm(sums_, blocks_, options.max_norm, options.grad_scale, again, report, stream);
    }
  }

  void launch_updates(const StepOptions& options, const Report* report, Stream stream) const {
    for (const auto& [key, numbers] : preparations_) {
      const auto& [number, scalar] = key;
      const Group& group = groups_[number];
      cuda::prepare(group.rule, scalar, hyper_ + group.hyper_at, numbers, steps_, rules_, report, stream);
    }
    for (const auto& [key, tensors] : updates_) {
      const auto& [rule, format, has_master, maximize] = key;
      cuda::update(rule, format, tensors, rules_, maximize ? -1 : 1, 1 / options.grad_scale, report, options.zero_grads,
                   stream);
    }
  }

  // A record for each rule, format and set of hyperparameters that the step had. Whether it was applied is not known.
  [[gnu::noinline, gnu::cold]] void record(const GpuRecording& recording, const StepOptions& options) const {
    StepParts<Format> parts;
    for (const auto& [key, tensors] : updates_)
      for (const DeviceTensor& tensor : tensors) {
        const Parameter& parameter = parameters_[tensor.number];
        const Group& group = groups_[parameter.group];
        parts.add(info(group.rule).name, parameter.fields.dtype,
                  used(group.hyper) | (tensor.master ? option::master : 0), tensor.n);
      }
    std::uint32_t bits = options.needs_norm() ? option::norm : 0;
    if (options.zero_grads) bits |= option::zero;
    parts.give(bits,
               [&](const char* rule, Format format, std::uint32_t own, std::int64_t tensors, std::int64_t elements) {
      recording.add("optimizer", rule, format, own, {tensors, elements});
    });
  }

  const Given given_;
  const py::object applied_;
  const Gpu gpu_;
  Apart apart_;
  std::vector<Group> groups_;
  std::vector<Parameter> parameters_;
  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();
  // Device memory, and what owns it.
  double* hyper_ = nullptr;
  void* rules_ = nullptr;
  cuda::BlockSum* sums_ = nullptr;
  double* steps_ = nullptr;
  Keep memory_;
  py::object steps_array_;
  // Of the current step.
  Batches<Format, DeviceTensor> gradients_;
  Batches<std::tuple<std::size_t, Format>, std::size_t> preparations_;  // by group
  Batches<std::tuple<int, Format, bool, bool>, DeviceTensor> updates_;  // by rule, format, has_master, maximize
  std::size_t blocks_ = 0;
};

}  // namespace

void bind_cuda_plan(py::module_& module) {
  py::class_<CudaPlan>(module, "Plan", py::is_final(), py::module_local())
      .def(py::init<const py::object&, bool, const py::object&>())
      .def("add_group", &CudaPlan::add_group)
      .def("start", &CudaPlan::start)
      .def("set_hyper", &CudaPlan::set_hyper)
      .def("stepper", [](const py::object& self) {
    return fast_method<CudaPlan, 5, &CudaPlan::step>(self);
  }).def_property("steps", &CudaPlan::steps, &CudaPlan::set_steps);
}

}  // namespace fusedstep::python
