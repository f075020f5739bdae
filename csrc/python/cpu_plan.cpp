// An optimizer's parameters, states, step counts and hyperparameters on the CPU, checked once; and its step.

#include <algorithm>
#include <memory>
#include <mutex>
#include <span>

#include "core/norm.h"
#include "core/table.h"
#include "cpu/multi_tensor.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/fastcall.h"
#include "python/plan.h"
#include "python/record.h"
#include "python/step_parts.h"

namespace fusedstep::python {
namespace {

constexpr std::size_t kReleaseGil = 16384;  // elements: about 4 µs

std::span<const RuleEntry> update_rules() { return {table().rules, std::size_t(table().n_rules)}; }

struct Group {
  int rule;
  std::vector<double> hyper;
  bool maximize;

  // The rule for the step count t. Most parameters of a group share theirs, so that a step prepares it once.
  struct Prepared {
    double t;
    Dtype dtype;
    alignas(double) unsigned char rule[kRuleBytes];
  };
  std::vector<std::unique_ptr<Prepared>> prepared;  // of which the current step has `in_use`
  std::size_t in_use = 0;

  const void* rule_for(double t, Dtype dtype) {
    if (in_use == 0 || prepared[in_use - 1]->t != t || prepared[in_use - 1]->dtype != dtype) {
      if (in_use == prepared.size()) prepared.push_back(std::make_unique<Prepared>());
      Prepared& next = *prepared[in_use++];
      next = {t, dtype, {}};
      table(dtype).rules[rule].prepare(hyper.data(), t, next.rule);
    }
    return prepared[in_use - 1]->rule;
  }
};

struct Parameter {
  py::object array;
  std::vector<py::object> state_arrays;
  Array fields;
  Segment segment;  // without what changes from step to step
  std::size_t group;
  double steps = 0;
};

class Plan {
 public:
  Plan(const py::object& keys, bool single)
      : given_(keys, single), applied_(step_info(Py_NewRef(Py_None), Py_NewRef(Py_True), Py_NewRef(Py_None))) {}

  void add_group(const std::string& rule_name, const std::vector<double>& hyper, bool maximize,
                 const py::sequence& params, const py::sequence& states) {
    const int number = find_rule(update_rules(), rule_name);
    const RuleEntry& rule = table().rules[number];
    std::vector<Parameter> added;
    for (std::size_t i = 0; i < params.size(); ++i) {
      Parameter parameter{.array = params[i], .state_arrays = {}, .fields = {}, .segment = {}, .group = groups_.size()};
      const Name name{"params", Py_ssize_t(parameters_.size() + i)};
      Keep none;
      parameter.fields = array(parameter.array.ptr(), name, none);
      check_contiguous(parameter.fields, name);
      const Table& kernels = table(parameter.fields.dtype);
      parameter.segment = {.step = kernels.rules[number].step,
                           .square_sums = kernels.square_sums,
                           .rule = nullptr,
                           .sign = 1,
                           .n = parameter.fields.size(),
                           .tensor = {parameter.fields.data, nullptr, {}}};
      const py::sequence own = states[i];
      if (int(own.size()) != rule.states)
        value_error({"states"}, "expected " + std::to_string(rule.states) + " arrays");
      for (int j = 0; j < rule.states; ++j) {
        parameter.state_arrays.push_back(own[std::size_t(j)]);
        const Name state_name{"states", j};
        const Array state = array(parameter.state_arrays.back().ptr(), state_name, none);
        check_alike(state, state_name, parameter.fields, parameter.fields.dtype, true);
        parameter.segment.tensor.state[j] = state.data;
      }
      added.push_back(std::move(parameter));
    }
    groups_.push_back({.rule = number, .hyper = check_hyper(rule, hyper), .maximize = maximize, .prepared = {}});
    for (Parameter& parameter : added) {
      const Tensor& tensor = parameter.segment.tensor;
      const std::size_t bytes = parameter.fields.bytes();
      apart_.parameter(tensor.p, bytes);
      for (std::size_t j = 0; j < parameter.state_arrays.size(); ++j) apart_.writes(tensor.state[j], bytes);
      parameters_.push_back(std::move(parameter));
    }
  }

  void set_hyper(std::size_t group, const std::vector<double>& hyper, bool maximize) {
    const std::unique_lock<std::mutex> lock = exclusive(*mutex_);
    Group& target = groups_.at(group);
    target.hyper = check_hyper(table().rules[target.rule], hyper);
    target.maximize = maximize;
  }

  std::vector<double> steps() const {
    std::vector<double> steps;
    for (const Parameter& parameter : parameters_) steps.push_back(parameter.steps);
    return steps;
  }
  void set_steps(const std::vector<double>& steps) {
    if (steps.size() != parameters_.size()) value_error({"steps"}, "expected one per parameter");
    const std::unique_lock<std::mutex> lock = exclusive(*mutex_);
    for (std::size_t i = 0; i < steps.size(); ++i) parameters_[i].steps = steps[i];
  }

  // (grads, max_norm, grad_scale, check_finite, zero_grads)
  py::object step(PyObject* const* args) {
    const Recording recording;
    const StepOptions options(args);
    const std::unique_lock<std::mutex> lock = exclusive(*mutex_);
    Keep keep;
    const std::size_t elements = take(args[0], options.zero_grads, keep);
    double multiplier = 1 / options.grad_scale;
    GradNorm norm{0, -1};
    {
      const MaybeReleaseGil release(elements > kReleaseGil);
      if (options.needs_norm()) {
        norm = grad_norm(segments_);
        norm.norm /= options.grad_scale;
        if (options.clips()) multiplier = clip_factor(norm.norm, options.max_norm) / options.grad_scale;
      }
      if (norm.nonfinite < 0) update_all(segments_, multiplier, options.zero_grads);
    }
    if (recording) [[unlikely]]
      record(recording, options, norm.nonfinite >= 0);
    if (norm.nonfinite >= 0)
      return step_info(PyFloat_FromDouble(norm.norm), Py_NewRef(Py_False),
                       given_.key(present_[std::size_t(norm.nonfinite)]));
    for (const std::size_t index : present_) ++parameters_[index].steps;
    if (!options.needs_norm()) return applied_;
    return step_info(PyFloat_FromDouble(norm.norm), Py_NewRef(Py_True), Py_NewRef(Py_None));
  }

 private:
  // Checks every gradient and fills segments_ and present_; None skips its parameter. Returns the number of elements.
  std::size_t take(PyObject* grads, bool zero, Keep& keep) {
    py::tuple values = given_.in_order(grads, parameters_.size());
    std::size_t present = 0, elements = 0;
    segments_.reserve(parameters_.size());  // the two grow together
    present_.reserve(parameters_.size());
    for (Group& group : groups_) group.in_use = 0;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const Parameter& parameter = parameters_[i];
      PyObject* const object = PyTuple_GET_ITEM(values.ptr(), Py_ssize_t(i));
      char* const data = object == Py_None ? nullptr : check_gradient(parameter, object, i, zero, keep);
      apart_.gradient(i, data);
      if (object == Py_None) continue;
      check_parameter(parameter, i);
      Group& group = groups_[parameter.group];
      Segment& segment = segment_of(i, present++);
      replace(segment.rule, group.rule_for(parameter.steps + 1, parameter.fields.dtype));
      replace(segment.sign, group.maximize ? -1.0 : 1.0);
      replace(segment.tensor.g, static_cast<void*>(data));
      elements += segment.n;
    }
    segments_.resize(present);
    present_.resize(present);
    if (!apart_.settled(zero)) apart_.settle(zero, given_);
    keep.push_back(std::move(values));
    return elements;
  }

  // Segments stay from step to step, and what is as it was is not written: the threads that read them have them in
  // their caches, and a line that is written must come to them anew, one after the other.
  Segment& segment_of(std::size_t parameter, std::size_t at) {
    if (at == segments_.size()) {
      segments_.push_back(parameters_[parameter].segment);
      present_.push_back(parameter);
    } else if (present_[at] != parameter) {
      segments_[at] = parameters_[parameter].segment;
      present_[at] = parameter;
    }
    return segments_[at];
  }
  template <class T>
  static void replace(T& old, T value) {
    if (old != value) old = value;
  }

  // A record for each rule, dtype and set of hyperparameters that the step had.
  [[gnu::noinline, gnu::cold]] void record(const Recording& recording, const StepOptions& options, bool skipped) const {
    StepParts<Dtype> parts;
    for (std::size_t i = 0; i < present_.size(); ++i) {
      const Parameter& parameter = parameters_[present_[i]];
      const Group& group = groups_[parameter.group];
      parts.add(table().rules[group.rule].name, parameter.fields.dtype, used(group.hyper), segments_[i].n);
    }
    std::uint32_t bits = options.needs_norm() ? option::norm : 0;
    if (options.zero_grads) bits |= option::zero;
    if (skipped) bits |= option::skipped;
    parts.give(bits,
               [&](const char* rule, Dtype dtype, std::uint32_t own, std::int64_t tensors, std::int64_t elements) {
      recording.add(Kind::optimizer, rule, dtype, own, {tensors, elements});
    });
  }

  static bool same(const Py_ssize_t* a, const Py_ssize_t* b, int n) {  // std::equal calls memcmp: 6 ns for two numbers
    for (int i = 0; i < n; ++i)
      if (a[i] != b[i]) return false;
    return true;
  }

  // Returns where its elements are.
  char* check_gradient(const Parameter& parameter, PyObject* object, std::size_t i, bool zero, Keep& keep) const {
    // The usual case at a glance: an ndarray like the parameter. Otherwise one check after the other, for the message.
    const int wanted = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_ |
                       (zero ? py::detail::npy_api::NPY_ARRAY_WRITEABLE_ : 0);
    const Array& like = parameter.fields;
    if (is_ndarray(object)) {
      const auto* fields = py::detail::array_proxy(object);
      if (fields->descr == py::detail::array_proxy(like.object)->descr && fields->nd == like.nd &&
          same(fields->dimensions, like.shape, like.nd) && (fields->flags & wanted) == wanted)
        return fields->data;
    }
    const Name name = given_.gradient(i);
    const Array gradient = array(object, name, keep);
    check_alike(gradient, name, like, like.dtype, zero);
    return gradient.data;
  }

  // The parameter's array may have been frozen, or given other memory, since the last step.
  void check_parameter(const Parameter& parameter, std::size_t i) const {
    const auto* fields = py::detail::array_proxy(parameter.array.ptr());
    if (!(fields->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_))
      value_error(given_.parameter(i), "expected a writeable array, got a read-only one (a frozen cell's weights?)");
    if (fields->data != parameter.segment.tensor.p)
      value_error(given_.parameter(i), "its memory was replaced since the optimizer was made");
  }

  const Given given_;
  const py::object applied_;
  Apart apart_;
  std::vector<Group> groups_;
  std::vector<Parameter> parameters_;
  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();
  // Of the current step.
  std::vector<Segment> segments_;
  std::vector<std::size_t> present_;
};

// One tensor's step, for callers that keep their own arrays: arrays = (p, g, *states).
void update(const std::string& rule_name, const std::vector<double>& hyper, double t, double grad_scale,
            const std::vector<std::string>& names, const std::vector<py::object>& objects) {
  const Recording recording;
  const int number = find_rule(update_rules(), rule_name);
  const RuleEntry& rule = table().rules[number];
  Keep keep;
  const auto arrays = update_arrays(rule, hyper, names, objects, [&](PyObject* object, const Name& name) {
    return array(object, name, keep);
  }, [](Dtype dtype) { return dtype; });
  alignas(double) unsigned char prepared[kRuleBytes];
  const RuleEntry& typed = table(arrays[0].dtype).rules[number];
  typed.prepare(hyper.data(), t, prepared);
  Segment segment{.step = typed.step,
                  .square_sums = nullptr,
                  .rule = prepared,
                  .sign = 1,
                  .n = arrays[0].size(),
                  .tensor = {arrays[0].data, arrays[1].data, {}}};
  for (int i = 0; i < rule.states; ++i) segment.tensor.state[i] = arrays[std::size_t(2 + i)].data;
  {
    const MaybeReleaseGil release(segment.n > kReleaseGil);
    update_all({segment}, grad_scale, false);
  }
  if (recording) [[unlikely]]
    recording.add(Kind::optimizer, typed.name, arrays[0].dtype, used(hyper), {1, std::int64_t(segment.n)});
}

py::dict rules() {
  py::dict rules;
  for (const RuleEntry& rule : update_rules())
    rules[rule.name] = py::make_tuple(py::tuple(py::cast(words(rule.hyper))), rule.states);
  return rules;
}

}  // namespace

void bind_plan(py::module_& module) {
  static PyStructSequence_Field fields[] = {
      {"norm", "L2 norm over all gradients, unscaled and before clipping; None without a norm pass."},
      {"applied", "False where a gradient was not finite and nothing was changed."},
      {"first_nonfinite", "Index (or name) of the first tensor with a gradient that is not finite, or None."},
      {nullptr, nullptr}};
  static PyStructSequence_Desc description = {"fusedstep.optim.StepInfo", "What a step did.", fields, 3};
  PyObject* const step_info_type = reinterpret_cast<PyObject*>(PyStructSequence_NewType(&description));
  if (!step_info_type) throw py::error_already_set();
  set_step_info_type(step_info_type);
  module.attr("StepInfo") = py::handle(step_info_type);

  py::class_<Plan>(module, "Plan", py::is_final())
      .def(py::init<const py::object&, bool>())
      .def("add_group", &Plan::add_group)
      .def("start", &Plan::set_steps)
      .def("set_hyper", &Plan::set_hyper)
      .def("stepper", [](const py::object& self) {
    return fast_method<Plan, 5, &Plan::step>(self);
  }).def_property("steps", &Plan::steps, &Plan::set_steps);
  module.def("update", &update);
  module.def("rules", &rules);
}

}  // namespace fusedstep::python
